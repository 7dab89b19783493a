// Package cryptocompare reads bars from CryptoCompare's min-api, https://min-api.cryptocompare.com. Every call needs a key
// since May 2026. The rules CC1 to CC11 are those of the project's list of vendor facts.
package cryptocompare

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
	Name = "cryptocompare"
	// limit is the greatest limit; an answer has one row more (CC1, CC2).
	limit = 2000
	// aggregate is the exchange that is asked: CryptoCompare's average of all (CC1).
	aggregate = "CCCAGG"
	// 300 calls a minute (CC8).
	defaultRate, defaultBurst = 5, 10
	defaultURL                = "https://min-api.cryptocompare.com"
	minuteDepth               = 7 * 24 * time.Hour // CC9
	// depthEdge is how near to the depth's end missing rows are put down to it: where exactly it lies is not known (CC9).
	depthEdge = 24 * time.Hour
)

// Source is CryptoCompare. It is safe for concurrent use.
type Source struct {
	client *source.Client
	info   source.Info
	key    string
}

// New returns the source. Every zero value of c but the key has a default.
func New(c source.Config) (*Source, error) {
	c.URL, c.Rate, c.Burst = cmp.Or(c.URL, defaultURL), cmp.Or(c.Rate, defaultRate), cmp.Or(c.Burst, defaultBurst)
	header := http.Header{}
	if c.Key != "" {
		header.Set("Authorization", "Apikey "+c.Key) // CC1
	}
	client, err := source.NewClient(Name, c, header)
	if err != nil {
		return nil, err
	}
	return &Source{client: client, key: c.Key, info: source.Info{
		Native:    []market.Timeframe{market.M1, market.H1, market.D1},
		PageLimit: limit + 1,   // CC2
		Poll:      time.Minute, // CC8: limits are by the month
		Dense:     true,
		Earliest:  market.FromTime(time.Date(2010, time.July, 17, 0, 0, 0, 0, time.UTC)),
		Depth:     map[market.Timeframe]time.Duration{market.M1: minuteDepth},
		Finality: source.Lag{
			Default: time.Hour, ByTimeframe: map[market.Timeframe]time.Duration{market.M1: 90 * time.Second}, // PIPELINE 6
		}.Or(c.FinalityLag),
		Absence: source.Lag{Default: time.Hour}.Or(c.AbsenceLag),
	}}, nil
}

// Name returns "cryptocompare".
func (*Source) Name() string { return Name }

// Info declares what CryptoCompare can do.
func (s *Source) Info() source.Info { return s.info }

// Limiter returns the source's rate limit in this process.
func (s *Source) Limiter() *source.Limiter { return s.client.Limiter() }

// Instruments reads the pairs of the aggregate; "BTC/USD" is BTCUSD. The list of all exchanges' pairs names CCCAGG too, but
// with none (seen in a recording).
func (s *Source) Instruments(ctx context.Context) ([]source.Instrument, error) {
	const op = "list instruments"
	r, err := s.client.Get(ctx, op, "/data/v2/cccagg/pairs", nil, source.Bulk)
	if err != nil {
		return nil, err
	}
	if err := s.refused(ctx, op, "", r); err != nil {
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

// path returns the route of a timeframe.
func path(tf market.Timeframe) string {
	switch tf {
	case market.M1:
		return "/data/v2/histominute"
	case market.H1:
		return "/data/v2/histohour"
	default:
		return "/data/v2/histoday"
	}
}

// Fetch asks for a histo page. toTs is inclusive (CC3), and one row more than limit comes (CC2). Rows of zeros are no data
// (CC10); near the end of the minutes' depth what does not come is unavailable, not absent (CC9).
func (s *Source) Fetch(ctx context.Context, q source.Query) (source.Answer, error) {
	if err := s.info.Check(Name, &q); err != nil {
		return source.Answer{}, err
	}
	tf := q.Series.Timeframe
	op := "fetch " + q.VendorID + " " + tf.String()
	base, quote, _ := strings.Cut(q.VendorID, "/")
	r, err := s.client.Get(ctx, op, path(tf), url.Values{
		"fsym": {base}, "tsym": {quote}, "e": {aggregate}, "tryConversion": {"false"},
		"limit": {strconv.FormatInt(max(tf.Count(q.Range)-1, 1), 10)},
		"toTs":  {strconv.FormatInt(tf.Add(q.Range.End, -1).Time().Unix(), 10)},
	}, q.Priority)
	if err != nil {
		return source.Answer{}, err
	}
	if err := s.refused(ctx, op, q.VendorID, r); err != nil {
		return source.Answer{}, err
	}
	bars, zeros, err := parse(r.Body)
	if err != nil {
		return source.Answer{}, source.Unusable(Name, op, err)
	}
	a := source.Answer{Sent: r.Sent, Skew: r.Skew, Backwards: true}
	if err := source.Rows(&a, &q, bars, true); err != nil {
		return source.Answer{}, source.Unusable(Name, op, err)
	}
	a.Dropped += zeros
	if depth := s.info.Depth[tf]; depth > 0 && (len(a.Bars) == 0 || a.Bars[0].TS > q.Range.Start) &&
		q.Range.Start < a.Sent.Shift(depthEdge-depth) {
		a.Unavailable = fmt.Sprintf("%s gives %s bars of the last %d days only: it has them from %s on",
			Name, tf, int(depth/(24*time.Hour)), tf.Ceil(a.Sent.Shift(-depth)))
	}
	return a, nil
}
