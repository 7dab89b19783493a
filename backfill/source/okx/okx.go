// Package okx reads bars of spot markets from OKX's public API, https://www.okx.com/api/v5. The rule OK1 is that of the
// project's list of vendor facts.
package okx

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"time"

	"barkeep/backfill/source"
	"barkeep/internal/market"
)

const (
	// Name is the source's name.
	Name = "okx"
	// limit is the most rows that both routes give (OK1).
	limit = 100
	// recent is how many bars back the route of recent ones is asked: it reaches 1,440 bars back (from memory), of which one
	// forms and some may be lost to a page that waits for its turn.
	recent = 1200
	// historyLag is how far the route of history may lie behind. That it does is reported by others and stated nowhere, so
	// what it lacks of what is younger is not believed to be absent.
	historyLag = 72 * time.Hour
	// history-candles takes 20 requests in 2 s, candles 40 (OK1).
	defaultRate, defaultBurst = 8, 8
	defaultURL                = "https://www.okx.com"
	millisecond               = market.Instant(time.Millisecond / time.Microsecond)
)

// The codes of errors that tell more than that the request was refused.
const (
	codeOK           = "0"
	codeTooMany      = "50011"
	codeNoInstrument = "51001"
)

// serverCodes are those by which OKX says that it is the one who failed: unavailable, time out, busy, error.
var serverCodes = []string{"50001", "50004", "50013", "50026"} //nolint:gochecknoglobals // a constant

// Source is OKX. It is safe for concurrent use.
type Source struct {
	client *source.Client
	info   source.Info
	stream string // empty without a feed
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
	return &Source{client: client, stream: c.StreamURL, info: source.Info{
		// Three days are on offer too, but nothing shows where they open; eight hours are not.
		Native: []market.Timeframe{
			market.M1, market.M3, market.M5, market.M15, market.M30, market.H1, market.H2, market.H4, market.H6, market.H12,
			market.D1, market.W1, market.Mo1,
		},
		PageLimit: limit, Dense: true,
		Earliest: market.FromTime(time.Date(2017, time.October, 1, 0, 0, 0, 0, time.UTC)),
		Finality: source.Lag{Default: 10 * time.Second}.Or(c.FinalityLag),
		Absence:  source.Lag{Default: time.Hour}.Or(c.AbsenceLag),
	}}, nil
}

// Name returns "okx".
func (*Source) Name() string { return Name }

// Info declares what OKX can do. That a period without trades is a flat row is from memory; where it is not, holes are read
// twice.
func (s *Source) Info() source.Info { return s.info }

// Limiter returns the source's rate limit in this process.
func (s *Source) Limiter() *source.Limiter { return s.client.Limiter() }

// Instruments reads the spot markets: "BTC-USDT" is BTCUSDT. The list has a listTime, which is not taken for the first bar's: what
// was traded before it under the same id would be called absent.
func (s *Source) Instruments(ctx context.Context) ([]source.Instrument, error) {
	const op = "list instruments"
	r, err := s.get(ctx, op, "", "/api/v5/public/instruments", url.Values{"instType": {"SPOT"}}, source.Bulk)
	if err != nil {
		return nil, err
	}
	var answer struct {
		Data []struct{ InstID, BaseCcy, QuoteCcy string }
	}
	if err := json.Unmarshal(r.Body, &answer); err != nil {
		return nil, source.Unusable(Name, op, err)
	}
	list := make([]source.Instrument, 0, len(answer.Data))
	for _, m := range answer.Data {
		list = append(list, source.Instrument{
			VendorID: m.InstID, Symbol: m.BaseCcy + m.QuoteCcy, Base: m.BaseCcy, Quote: m.QuoteCcy,
			Listed: market.NegInf, Delisted: market.PosInf,
		})
	}
	if list, err = source.Listable(list); err != nil {
		return nil, source.Unusable(Name, op, err)
	}
	return list, nil
}

// Listed reads the months, of which there are few, and then inside the first one.
func (s *Source) Listed(ctx context.Context, vendorID string, p source.Priority) (market.Instant, error) {
	return source.Probe(ctx, s, vendorID, p, s.client.Now(), market.Mo1, market.D1, market.H1, market.M1)
}

// bar returns OKX's name of a timeframe. From six hours on there are two of each: by Hong Kong's time, and the one that ends in
// utc (OK1).
func bar(tf market.Timeframe) string {
	switch {
	case tf < market.H1:
		return tf.String()
	case tf < market.H6:
		return strconv.Itoa(int(tf.Step()/time.Hour)) + "H"
	case tf < market.D1:
		return strconv.Itoa(int(tf.Step()/time.Hour)) + "Hutc"
	case tf == market.D1:
		return "1Dutc"
	case tf == market.W1:
		return "1Wutc"
	}
	return "1Mutc"
}

// Fetch asks for the last rows before the end of the range: "after" is exclusive (OK1). The newest bars are on one route and all
// of history on another, which may lag.
func (s *Source) Fetch(ctx context.Context, q source.Query) (source.Answer, error) {
	if err := s.info.Check(Name, &q); err != nil {
		return source.Answer{}, err
	}
	tf := q.Series.Timeframe
	op := "fetch " + q.VendorID + " " + tf.String()
	path, lagging := "/api/v5/market/candles", false
	if q.Range.Start < tf.Add(s.client.Now(), -recent) {
		path, lagging = "/api/v5/market/history-candles", true
	}
	r, err := s.get(ctx, op, q.VendorID, path, url.Values{
		"instId": {q.VendorID}, "bar": {bar(tf)}, "after": {strconv.FormatInt(int64(q.Range.End/millisecond), 10)},
		"limit": {strconv.FormatInt(tf.Count(q.Range), 10)},
	}, q.Priority)
	if err != nil {
		return source.Answer{}, err
	}
	bars, unfinished, err := parse(r.Body)
	if err != nil {
		return source.Answer{}, source.Unusable(Name, op, err)
	}
	// Rows outside the range take places of the limit, so that rows may be cut at its start. Where one lies at the start or
	// before it nothing was.
	reaches := slices.ContainsFunc(bars, func(b market.Bar) bool { return b.TS <= q.Range.Start })
	a := source.Answer{
		Sent: r.Sent, Skew: r.Skew, Unfinished: unfinished,
		Full: !reaches && int64(len(bars)) >= tf.Count(q.Range), Backwards: true,
	}
	if err := source.Rows(&a, &q, bars, true); err != nil {
		return source.Answer{}, source.Unusable(Name, op, err)
	}
	if lagging {
		behind(&a, &q)
	}
	return a, nil
}

// behind keeps what history lacks at its young end from being called absent: it is the next reading's, or unavailable where
// the page has no rows.
func behind(a *source.Answer, q *source.Query) {
	if q.Range.End <= a.Sent.Shift(-historyLag) {
		return
	}
	n := len(a.Bars)
	switch {
	case n == 0:
		a.Unavailable = fmt.Sprintf("%s has no bars before %s among its history, which may lag by %s", Name, q.Range.End, historyLag)
	case q.Series.Timeframe.Next(a.Bars[n-1].TS) < q.Range.End:
		a.Full, a.Backwards = true, false
	}
}

// get asks and tells errors apart: they come as {"code":"51001","msg":"…","data":[]}, mostly with HTTP 200.
func (s *Source) get(ctx context.Context, op, vendorID, path string, query url.Values, p source.Priority) (*source.Response, error) {
	r, err := s.client.Get(ctx, op, path, query, p)
	if err != nil {
		return nil, err
	}
	code, message, err := parseCode(r.Body)
	message = source.VendorText(message)
	fail := func(cause error, again bool, after time.Duration) error {
		return &source.Error{Source: Name, Op: op, Err: fmt.Errorf("%w: %s %s", cause, code, message), Again: again, RetryAfter: after}
	}
	switch {
	case err != nil && r.Status != http.StatusOK:
		return nil, &source.Error{Source: Name, Op: op, Err: fmt.Errorf("%w: HTTP %d", source.ErrRefused, r.Status)}
	case err != nil:
		return nil, source.Unusable(Name, op, err)
	case code == codeNoInstrument && vendorID != "":
		return nil, source.UnknownInstrument(Name, vendorID)
	case code == codeTooMany:
		s.client.Limiter().Pause(ctx, pause)
		return nil, fail(source.ErrRateLimited, true, pause)
	case slices.Contains(serverCodes, code):
		return nil, fail(source.ErrServer, true, 0)
	case code != codeOK || r.Status != http.StatusOK:
		return nil, fail(source.ErrRefused, false, 0)
	}
	return r, nil
}

// pause is how long OKX is left alone when it says that it was asked too often: its limits are by two seconds.
const pause = 2 * time.Second
