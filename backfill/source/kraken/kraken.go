// Package kraken reads bars from Kraken's public API, https://api.kraken.com/0/public. Kraken keeps the newest bars of each
// timeframe only. The rules KR1 and KR2 are those of the project's list of vendor facts.
package kraken

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"barkeep/backfill/source"
	"barkeep/internal/market"
)

const (
	// Name is the source's name.
	Name = "kraken"
	// limit is how many bars there are of a timeframe, the one that forms among them: "older data cannot be retrieved,
	// regardless of the value of since" (KR1).
	limit = 720
	// edge is how many bars beside the oldest are put down to the limit where they are missing: the newest bar may have begun
	// between our reading of the clock and the vendor's.
	edge = 3
	// Kraken counts the public calls of an address; about one a second is borne (from memory: the limit is not stated).
	defaultRate, defaultBurst = 1, 5
	defaultURL                = "https://api.kraken.com"
	second                    = market.Instant(time.Second / time.Microsecond)
)

// Source is Kraken. It is safe for concurrent use.
type Source struct {
	client *source.Client
	info   source.Info
	stream string // empty without a feed
}

// native are the timeframes that are asked for. Weeks and 15 days are on offer too (KR1), but nothing shows where they open
// (PIPELINE 2): weeks are derived from days.
func native() []market.Timeframe {
	return []market.Timeframe{market.M1, market.M5, market.M15, market.M30, market.H1, market.H4, market.D1}
}

// New returns the source. Every zero value of c has a default.
func New(c source.Config) (*Source, error) {
	if c.URL == "" {
		c.StreamURL = cmp.Or(c.StreamURL, defaultStream)
	}
	c.URL, c.Rate, c.Burst = cmp.Or(c.URL, defaultURL), cmp.Or(c.Rate, defaultRate), cmp.Or(c.Burst, defaultBurst)
	client, err := source.NewClient(Name, c, nil)
	if err != nil {
		return nil, err
	}
	native := native()
	depth := make(map[market.Timeframe]time.Duration, len(native))
	for _, tf := range native {
		depth[tf] = limit * tf.Step()
	}
	return &Source{client: client, stream: c.StreamURL, info: source.Info{
		Native: native, PageLimit: limit, Depth: depth,
		Earliest: market.FromTime(time.Date(2013, time.September, 1, 0, 0, 0, 0, time.UTC)),
		Finality: source.Lag{Default: 10 * time.Second}.Or(c.FinalityLag),
		Absence:  source.Lag{Default: time.Hour}.Or(c.AbsenceLag),
	}}, nil
}

// Name returns "kraken".
func (*Source) Name() string { return Name }

// Info declares what Kraken can do. A period without trades is absent (KR2).
func (s *Source) Info() source.Info { return s.info }

// Limiter returns the source's rate limit in this process.
func (s *Source) Limiter() *source.Limiter { return s.client.Limiter() }

// Instruments reads the asset pairs: XXBTZUSD, whose wsname is "XBT/USD", is BTCUSD. When a pair was listed cannot be known:
// no bar is old enough to tell.
func (s *Source) Instruments(ctx context.Context) ([]source.Instrument, error) {
	const op = "list instruments"
	r, err := s.get(ctx, op, "", "/0/public/AssetPairs", nil, source.Bulk)
	if err != nil {
		return nil, err
	}
	list, err := parsePairs(r.Body)
	if err == nil {
		list, err = source.Listable(list)
	}
	if err != nil {
		return nil, source.Unusable(Name, op, err)
	}
	return list, nil
}

// Fetch asks for OHLC. There is no end to ask for: the answer reaches to the bar that forms. since is said to be inclusive; a
// bar earlier is asked for, which serves either way and is no error. What is missing at the far end of what Kraken keeps is
// unavailable, not absent (PIPELINE 3, 5).
func (s *Source) Fetch(ctx context.Context, q source.Query) (source.Answer, error) {
	if err := s.info.Check(Name, &q); err != nil {
		return source.Answer{}, err
	}
	tf := q.Series.Timeframe
	op := "fetch " + q.VendorID + " " + tf.String()
	r, err := s.get(ctx, op, q.VendorID, "/0/public/OHLC", url.Values{
		"pair": {q.VendorID}, "interval": {strconv.FormatInt(int64(tf.Step()/time.Minute), 10)},
		"since": {strconv.FormatInt(int64(tf.Add(q.Range.Start, -1)/second), 10)},
	}, q.Priority)
	if err != nil {
		return source.Answer{}, err
	}
	bars, err := parse(r.Body)
	if err != nil {
		return source.Answer{}, source.Unusable(Name, op, err)
	}
	a := source.Answer{Sent: r.Sent, Skew: r.Skew}
	newest := tf.Next(r.Sent.Shift(max(r.Skew, 0)))
	full, reaches := len(bars) >= limit-1, len(bars) > 0 && bars[0].TS <= q.Range.Start
	oldest := oldest(tf, &a, bars)
	a.Unfinished = s.unfinished(tf, &a, bars)
	bars, a.Dropped = until(bars, q.Range.End, newest)
	if err := source.Rows(&a, &q, bars, true); err != nil {
		return source.Answer{}, source.Unusable(Name, op, err)
	}
	if !reaches && (full || q.Range.Start < oldest) {
		a.Unavailable = fmt.Sprintf("%s keeps the newest %d bars of a timeframe: it has %s bars from %s on", Name, limit, tf, oldest)
	}
	return a, nil
}

// oldest returns from where on a bar that is missing was not cut off by the limit. Whether the limit counts bars or the
// periods that they stand for is not known; where it counts bars, the answer's first row may be older than that.
func oldest(tf market.Timeframe, a *source.Answer, bars []market.Bar) market.Instant {
	oldest := tf.Add(a.Sent.Shift(max(a.Skew, 0)), edge-limit)
	if len(bars) >= limit-1 {
		return min(oldest, bars[0].TS)
	}
	return oldest
}

// unfinished returns the open of the last row, "always the not yet committed timeframe" (KR1), unless it has been closed for
// longer than a bar takes to come: then the market is at rest. Zero means none.
func (s *Source) unfinished(tf market.Timeframe, a *source.Answer, bars []market.Bar) market.Instant {
	if len(bars) == 0 {
		return 0
	}
	last := bars[len(bars)-1].TS
	if tf.Next(last) <= a.Sent.Shift(min(a.Skew, 0)-s.info.Absence.Of(tf)) {
		return 0
	}
	return last
}

// until takes the rows from end on out, which come unasked, but for those that lie ahead of newest, which cannot be. It works in
// place and returns how many it took.
func until(bars []market.Bar, end, newest market.Instant) (kept []market.Bar, taken int) {
	kept = bars[:0]
	for i := range bars {
		if ts := bars[i].TS; ts >= end && ts < newest {
			taken++
			continue
		}
		kept = append(kept, bars[i])
	}
	return kept, taken
}

// get asks and tells errors apart: they come as {"error":["EQuery:Unknown asset pair"]} with HTTP 200.
func (s *Source) get(ctx context.Context, op, vendorID, path string, query url.Values, p source.Priority) (*source.Response, error) {
	r, err := s.client.Get(ctx, op, path, query, p)
	if err != nil {
		return nil, err
	}
	messages, err := parseErrors(r.Body)
	switch {
	case len(messages) > 0:
		return nil, s.refused(ctx, op, vendorID, messages)
	case r.Status != http.StatusOK:
		return nil, &source.Error{Source: Name, Op: op, Err: fmt.Errorf("%w: HTTP %d", source.ErrRefused, r.Status)}
	case err != nil:
		return nil, source.Unusable(Name, op, err)
	}
	return r, nil
}

// pause is how long Kraken is left alone when it says that it was asked too often; it does not say for how long.
const pause = 5 * time.Second

// refused turns Kraken's messages into an error, by their class and text as its documentation lists them.
func (s *Source) refused(ctx context.Context, op, vendorID string, messages []string) error {
	text := source.VendorText(strings.Join(messages, "; "))
	fail := func(cause error, again bool, after time.Duration) error {
		return &source.Error{Source: Name, Op: op, Err: fmt.Errorf("%w: %s", cause, text), Again: again, RetryAfter: after}
	}
	for _, m := range messages {
		switch {
		case strings.HasPrefix(m, "EQuery:Unknown asset pair") && vendorID != "":
			return source.UnknownInstrument(Name, vendorID)
		case strings.Contains(m, "Rate limit exceeded"), strings.Contains(m, "Too many requests"), strings.Contains(m, "Throttled"):
			s.client.Limiter().Pause(ctx, pause)
			return fail(source.ErrRateLimited, true, pause)
		case strings.HasPrefix(m, "EService:"):
			return fail(source.ErrServer, true, 0)
		case strings.HasPrefix(m, "EGeneral:Internal error"):
			return fail(source.ErrServer, true, 0)
		}
	}
	return fail(source.ErrRefused, false, 0)
}
