package source

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"barkeep/internal/market"
)

const (
	// requestTimeout bounds a whole request, the slow body included.
	requestTimeout = 30 * time.Second
	// connectTimeout bounds the resolution of the name and the connection: whoever does not answer is away.
	connectTimeout = 3 * time.Second
	// maxBodyBytes bounds an answer after decompression: the longest instrument lists have some megabytes.
	maxBodyBytes = 64 << 20
	// defaultRetryAfter and bannedFor hold where a 429 and a 418 do not say how long (BN1).
	defaultRetryAfter = 5 * time.Second
	bannedFor         = 2 * time.Minute
	// dateStep is the resolution of the Date header.
	dateStep = time.Second
)

var errTimeout = errors.New("no complete answer within " + requestTimeout.String())

// Client sends the requests of one HTTP source. It is safe for concurrent use.
type Client struct {
	name    string
	base    *url.URL
	header  http.Header
	limiter *Limiter
	http    *http.Client
	now     func() time.Time
}

// NewClient returns a client for the source of that name. config's URL, rate and burst are the source's defaults already
// replaced by what is set; header goes with every request and may hold a key.
func NewClient(name string, config Config, header http.Header) (*Client, error) {
	base, err := url.Parse(config.URL)
	if err != nil || base.Host == "" || (base.Scheme != "http" && base.Scheme != "https") {
		return nil, errors.New("url: not an http or https URL")
	}
	now := config.Now
	if now == nil {
		now = time.Now
	}
	limiter := NewLimiter(config.Rate, config.Burst, now)
	limiter.name = limitName(name, config.Key)
	return &Client{
		name: name, base: base, header: header, now: now, limiter: limiter,
		http: &http.Client{Transport: &http.Transport{
			DialContext: (&net.Dialer{Timeout: connectTimeout, KeepAlive: 30 * time.Second}).DialContext,
			Proxy:       http.ProxyFromEnvironment, MaxIdleConnsPerHost: 32, IdleConnTimeout: time.Minute,
			ResponseHeaderTimeout: requestTimeout, ForceAttemptHTTP2: true,
		}},
	}, nil
}

// limitName names a limit: the vendor counts what comes with a key, or without one.
func limitName(source, key string) string {
	if key == "" {
		return source
	}
	sum := sha256.Sum256([]byte(key))
	return source + " " + hex.EncodeToString(sum[:4])
}

// Limiter returns the client's rate limit.
func (c *Client) Limiter() *Limiter { return c.limiter }

// Now returns our clock.
func (c *Client) Now() market.Instant { return market.FromTime(c.now()) }

// Response is an answer that arrived whole.
type Response struct {
	Status int
	Body   []byte
	// Sent is when the request was sent less the answer's age; Skew is the vendor's clock less ours (see Answer).
	Sent market.Instant
	Skew time.Duration
}

// Get sends one GET when the rate limit lets it. 429, 418 and 5xx are errors, as is a body that is cut or too long; any
// other status is the caller's to judge. op names the operation in errors.
func (c *Client) Get(ctx context.Context, op, path string, query url.Values, p Priority) (*Response, error) {
	fail := func(err error, again bool, after time.Duration) (*Response, error) {
		return nil, &Error{Source: c.name, Op: op, Err: err, Again: again, RetryAfter: after}
	}
	asked := c.now()
	err := c.limiter.Wait(ctx, p)
	traceWait(ctx, c.now().Sub(asked))
	if err != nil {
		return fail(fmt.Errorf("wait for the rate limit: %w", err), false, 0)
	}
	ctx, cancel := context.WithTimeoutCause(ctx, requestTimeout, errTimeout)
	defer cancel()
	target := *c.base
	target.Path = strings.TrimSuffix(target.Path, "/") + path
	target.RawQuery = query.Encode()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, target.String(), http.NoBody)
	if err != nil {
		return fail(fmt.Errorf("make request: %w", err), false, 0)
	}
	maps.Copy(request.Header, c.header)
	sent := c.now()
	answer, err := c.http.Do(request)
	if err != nil {
		return fail(plain(ctx, err), true, 0)
	}
	received := c.now()
	defer answer.Body.Close() //nolint:errcheck // nothing is lost with it
	if after, err := refusal(answer, c.now); err != nil {
		if after > 0 {
			c.limiter.Pause(ctx, after)
		}
		return fail(err, true, after)
	}
	body, err := readBody(answer)
	if err != nil {
		return fail(plain(ctx, err), true, 0)
	}
	age := Age(answer.Header)
	return &Response{
		Status: answer.StatusCode, Body: body, Sent: market.FromTime(sent.Add(-age)), Skew: skew(answer.Header, sent, received),
	}, nil
}

// readBody reads a body whole into memory that is as large as was announced.
func readBody(answer *http.Response) ([]byte, error) {
	if answer.ContentLength > maxBodyBytes {
		return nil, fmt.Errorf("%w: body of %d bytes", ErrAnswer, answer.ContentLength)
	}
	if answer.ContentLength > 0 {
		body := make([]byte, answer.ContentLength)
		if _, err := io.ReadFull(answer.Body, body); err != nil {
			return nil, fmt.Errorf("%w: read body: %w", ErrAnswer, err)
		}
		return body, nil
	}
	body, err := io.ReadAll(io.LimitReader(answer.Body, maxBodyBytes+1))
	if err != nil {
		return nil, fmt.Errorf("%w: read body: %w", ErrAnswer, err)
	}
	if len(body) > maxBodyBytes {
		return nil, fmt.Errorf("%w: body of more than %d bytes", ErrAnswer, maxBodyBytes)
	}
	return body, nil
}

// plain drops the URL, which may hold a key, from an error of net/http, names our own timeout, and tells that no connection
// came about.
func plain(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	if u, found := errors.AsType[*url.Error](err); found {
		err = u.Err
	}
	_, unresolved := errors.AsType[*net.DNSError](err)
	if op, found := errors.AsType[*net.OpError](err); unresolved || found && (op.Op == "dial" || op.Op == "proxyconnect") {
		return fmt.Errorf("%w: %w", ErrUnreachable, err)
	}
	return err
}

// refusal returns an error for 429, 418 and 5xx and how long the vendor wants to be left alone (BN1).
func refusal(answer *http.Response, now func() time.Time) (time.Duration, error) {
	after := retryAfter(answer.Header.Get("Retry-After"), now)
	switch status := answer.StatusCode; {
	case status == http.StatusTooManyRequests:
		if after == 0 {
			after = defaultRetryAfter
		}
		return after, fmt.Errorf("%w: HTTP 429", ErrRateLimited)
	case status == http.StatusTeapot:
		if after == 0 {
			after = bannedFor
		}
		return after, fmt.Errorf("%w: HTTP 418, address banned", ErrRateLimited)
	case status >= http.StatusInternalServerError:
		return after, fmt.Errorf("%w: HTTP %d", ErrServer, status)
	}
	return 0, nil
}

// retryAfter reads seconds or an HTTP date; zero means that it says nothing.
func retryAfter(text string, now func() time.Time) time.Duration {
	if text == "" {
		return 0
	}
	if seconds, err := strconv.ParseInt(text, 10, 32); err == nil {
		return max(time.Duration(seconds)*time.Second, 0)
	}
	if at, err := http.ParseTime(text); err == nil {
		return max(at.Sub(now()), 0)
	}
	return 0
}

// Age returns how old an answer may be: its Age header, or where a cache does not say, the max-age that the vendor allows
// a cache (PIPELINE 5; CC8: CryptoCompare sends max-age=29).
func Age(header http.Header) time.Duration {
	if seconds, err := strconv.ParseInt(header.Get("Age"), 10, 32); err == nil && seconds >= 0 {
		return time.Duration(seconds) * time.Second
	}
	var age time.Duration
	for directive := range strings.SplitSeq(header.Get("Cache-Control"), ",") {
		name, value, _ := strings.Cut(strings.TrimSpace(strings.ToLower(directive)), "=")
		switch name {
		case "no-store", "no-cache":
			return 0
		case "max-age":
			if seconds, err := strconv.ParseInt(value, 10, 32); err == nil && seconds > 0 {
				age = time.Duration(seconds) * time.Second
			}
		}
	}
	return age
}

// skew returns the least difference between the vendor's clock and ours that explains the Date header. Date is cut to
// seconds, and an answer from a cache may carry the time when it was made or that when it was sent.
func skew(header http.Header, sent, received time.Time) time.Duration {
	date, err := http.ParseTime(header.Get("Date"))
	if err != nil {
		return 0
	}
	latest := date.Add(dateStep)
	if seconds, err := strconv.ParseInt(header.Get("Age"), 10, 32); err == nil && seconds > 0 {
		latest = latest.Add(time.Duration(seconds) * time.Second)
	}
	switch {
	case latest.Before(sent):
		return latest.Sub(sent)
	case date.After(received):
		return date.Sub(received)
	}
	return 0
}
