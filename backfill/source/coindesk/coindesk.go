// Package coindesk reads bars from the CoinDesk Data API, https://data-api.coindesk.com, the successor of CryptoCompare's. Every
// call needs a key. The rules CD1 to CD3 and CC9 are those of the project's list of vendor facts.
package coindesk

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"barkeep/backfill/source"
	"barkeep/internal/market"
)

const (
	// Name is the source's name.
	Name = "coindesk"
	// limit is the most rows of one answer (CD1). A page is one row shorter, so that a row before its start shows that nothing
	// was cut there.
	limit, pageLimit = 2000, 1999
	// 300 calls a minute, as of the older API (CC8): a key's own limits may be others.
	defaultRate, defaultBurst = 5, 10
	defaultURL                = "https://data-api.coindesk.com"
	// defaultMarket is the venue whose bars are asked for. A bar belongs to its venue (CC11), so it is a part of the vendor id.
	defaultMarket = "coinbase"
	minuteDepth   = 7 * 24 * time.Hour // CC9
	// depthEdge is how near to the depth's end missing rows are put down to it: where exactly it lies is not known (CC9).
	depthEdge = 24 * time.Hour
	second    = market.Instant(time.Second / time.Microsecond)
)

// Source is the CoinDesk Data API. It is safe for concurrent use.
type Source struct {
	client *source.Client
	info   source.Info
	key    string
	market string
}

// New returns the source. Every zero value of c but the key has a default.
func New(c source.Config) (*Source, error) {
	c.URL, c.Rate, c.Burst = cmp.Or(c.URL, defaultURL), cmp.Or(c.Rate, defaultRate), cmp.Or(c.Burst, defaultBurst)
	header := http.Header{}
	if c.Key != "" {
		header.Set("Authorization", "Apikey "+c.Key)
	}
	client, err := source.NewClient(Name, c, header)
	if err != nil {
		return nil, err
	}
	return &Source{client: client, key: c.Key, market: cmp.Or(c.Market, defaultMarket), info: source.Info{
		Native:    []market.Timeframe{market.M1, market.H1, market.D1},
		PageLimit: pageLimit,
		Earliest:  market.FromTime(time.Date(2010, time.July, 17, 0, 0, 0, 0, time.UTC)),
		Depth:     map[market.Timeframe]time.Duration{market.M1: minuteDepth},
		Finality: source.Lag{
			Default: time.Hour, ByTimeframe: map[market.Timeframe]time.Duration{market.M1: 90 * time.Second}, // PIPELINE 6
		}.Or(c.FinalityLag),
		Absence: source.Lag{Default: time.Hour}.Or(c.AbsenceLag),
	}}, nil
}

// Name returns "coindesk".
func (*Source) Name() string { return Name }

// Info declares what the API can do. A period without trades is absent, as it is asked to (CD2).
func (s *Source) Info() source.Info { return s.info }

// Limiter returns the source's rate limit in this process.
func (s *Source) Limiter() *source.Limiter { return s.client.Limiter() }

// Instruments reads the instruments of the market: "coinbase/BTC-USD" is BTCUSD.
func (s *Source) Instruments(ctx context.Context) ([]source.Instrument, error) {
	const op = "list instruments"
	r, err := s.client.Get(ctx, op, "/spot/v1/markets/instruments", url.Values{"market": {s.market}}, source.Bulk)
	if err != nil {
		return nil, err
	}
	if _, err := s.refused(ctx, op, "", r); err != nil {
		return nil, err
	}
	names, err := parseInstruments(r.Body, s.market)
	if err != nil {
		return nil, source.Unusable(Name, op, err)
	}
	list := make([]source.Instrument, 0, len(names))
	for _, name := range names {
		base, quote, _ := strings.Cut(name, "-")
		if strings.Contains(quote, "-") {
			continue // not a pair by its mapped name
		}
		list = append(list, source.Instrument{
			VendorID: s.market + "/" + name, Symbol: base + quote, Base: base, Quote: quote,
			Listed: market.NegInf, Delisted: market.PosInf,
		})
	}
	if list, err = source.Listable(list); err != nil {
		return nil, source.Unusable(Name, op, err)
	}
	return list, nil
}

// Listed finds the first day and of it the first hour; minutes do not reach back (CC9).
func (s *Source) Listed(ctx context.Context, vendorID string, p source.Priority) (market.Instant, error) {
	return source.Probe(ctx, s, vendorID, p, s.client.Now(), market.D1, market.H1)
}

// unit returns the last part of a timeframe's route.
func unit(tf market.Timeframe) string {
	switch tf {
	case market.M1:
		return "minutes"
	case market.H1:
		return "hours"
	default:
		return "days"
	}
}

// Fetch asks for the last rows up to the end of the range. Whether to_ts is inclusive is not known: it is a second before the
// end, inside the last bar, which serves either way. fill=false leaves periods without trades out (CD2).
func (s *Source) Fetch(ctx context.Context, q source.Query) (source.Answer, error) {
	if err := s.info.Check(Name, &q); err != nil {
		return source.Answer{}, err
	}
	tf := q.Series.Timeframe
	op := "fetch " + q.VendorID + " " + tf.String()
	venue, instrument, found := strings.Cut(q.VendorID, "/")
	if !found {
		return source.Answer{}, source.UnknownInstrument(Name, q.VendorID)
	}
	r, err := s.client.Get(ctx, op, "/spot/v1/historical/"+unit(tf), url.Values{
		"market": {venue}, "instrument": {instrument}, "groups": {"ID,OHLC,VOLUME"}, "fill": {"false"}, "apply_mapping": {"true"},
		"response_format": {"JSON"}, "limit": {strconv.FormatInt(tf.Count(q.Range)+1, 10)},
		"to_ts": {strconv.FormatInt(int64(q.Range.End/second)-1, 10)},
	}, q.Priority)
	if err != nil {
		return source.Answer{}, err
	}
	nothing, err := s.refused(ctx, op, q.VendorID, r)
	if err != nil {
		return source.Answer{}, err
	}
	a := source.Answer{Sent: r.Sent, Skew: r.Skew, Backwards: true, Unavailable: nothing}
	if nothing != "" {
		return a, nil
	}
	bars, err := parse(r.Body)
	if err != nil {
		return source.Answer{}, source.Unusable(Name, op, err)
	}
	reaches := slices.ContainsFunc(bars, func(b market.Bar) bool { return b.TS <= q.Range.Start })
	a.Full = !reaches && int64(len(bars)) > tf.Count(q.Range)
	if err := source.Rows(&a, &q, bars, true); err != nil {
		return source.Answer{}, source.Unusable(Name, op, err)
	}
	if depth := s.info.Depth[tf]; depth > 0 && !reaches && q.Range.Start < a.Sent.Shift(depthEdge-depth) {
		a.Unavailable = fmt.Sprintf("%s gives %s bars of the last %d days only: it has them from %s on",
			Name, tf, int(depth/(24*time.Hour)), tf.Ceil(a.Sent.Shift(-depth)))
	}
	return a, nil
}

// The types of error that tell more than that the request was refused: a parameter's value, and by the older API's (CC7) the
// rate limit, which mostly comes as HTTP 429.
const (
	typeParameter = 1
	typeRateLimit = 99
)

// pause is how long the API is left alone when it says that it was asked too often without saying for how long.
const pause = 10 * time.Second

// refused returns the error that an answer is: "Err" is empty where it is none, whatever the HTTP status. nothing is the reason
// why the API has no data where it knows the instrument: what it is called in the range that was asked for is not known, so it
// is not taken for an empty answer.
func (s *Source) refused(ctx context.Context, op, vendorID string, r *source.Response) (nothing string, err error) {
	e, err := parseErr(r.Body)
	text := source.VendorText(e.message, s.key)
	fail := func(cause error, again bool, after time.Duration) error {
		return &source.Error{Source: Name, Op: op, Err: fmt.Errorf("%w: %s", cause, text), Again: again, RetryAfter: after}
	}
	switch {
	case err != nil && r.Status != http.StatusOK:
		return "", &source.Error{Source: Name, Op: op, Err: fmt.Errorf("%w: HTTP %d", source.ErrRefused, r.Status)}
	case err != nil:
		return "", source.Unusable(Name, op, err)
	case text == "" && r.Status == http.StatusOK:
		return "", nil
	case text == "":
		text = "HTTP " + strconv.Itoa(r.Status)
	case e.kind == typeRateLimit || e.status == http.StatusTooManyRequests:
		s.client.Limiter().Pause(ctx, pause)
		return "", fail(source.ErrRateLimited, true, pause)
	case e.status >= http.StatusInternalServerError:
		return "", fail(source.ErrServer, true, 0)
	case vendorID == "" || e.kind != typeParameter || !strings.HasPrefix(text, "Not found: "):
	case strings.HasPrefix(text, "Not found: instrument"):
		return "", source.UnknownInstrument(Name, vendorID)
	case !strings.HasPrefix(text, "Not found: market"):
		return Name + ": " + text, nil
	}
	return "", fail(source.ErrRefused, false, 0)
}
