// Package bitstamp reads bars from Bitstamp's public API, https://www.bitstamp.net/api/v2. The rules BS1 to BS3 are those
// of the project's list of vendor facts.
package bitstamp

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"barkeep/backfill/source"
	"barkeep/backfill/source/scan"
	"barkeep/internal/market"
)

const (
	// Name is the source's name.
	Name = "bitstamp"
	// limit is the most rows of one answer (BS1).
	limit                     = 1000
	defaultRate, defaultBurst = 10, 10
	defaultURL                = "https://www.bitstamp.net"
	second                    = market.Instant(time.Second / time.Microsecond)
)

// Source is Bitstamp. It is safe for concurrent use.
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
		// Three days are on offer too, but nothing shows where they open.
		Native: []market.Timeframe{
			market.M1, market.M3, market.M5, market.M15, market.M30, market.H1, market.H2, market.H4, market.H6,
			market.H12, market.D1,
		},
		PageLimit: limit, Dense: true, // BS3
		Earliest: market.FromTime(time.Date(2011, time.August, 18, 0, 0, 0, 0, time.UTC)),
		Finality: source.Lag{Default: 10 * time.Second}.Or(c.FinalityLag),
		Absence:  source.Lag{Default: time.Hour}.Or(c.AbsenceLag),
	}}, nil
}

// Name returns "bitstamp".
func (*Source) Name() string { return Name }

// Info declares what Bitstamp can do.
func (s *Source) Info() source.Info { return s.info }

// Limiter returns the source's rate limit in this process.
func (s *Source) Limiter() *source.Limiter { return s.client.Limiter() }

// Instruments reads the trading pairs: "btcusd", whose name is "BTC/USD", is BTCUSD.
func (s *Source) Instruments(ctx context.Context) ([]source.Instrument, error) {
	const op = "list instruments"
	r, err := s.client.Get(ctx, op, "/api/v2/trading-pairs-info/", nil, source.Bulk)
	if err != nil {
		return nil, err
	}
	if r.Status != http.StatusOK {
		return nil, refused(op, "", r)
	}
	var answer []struct {
		Name string `json:"name"`
		URL  string `json:"url_symbol"`
	}
	if err := json.Unmarshal(r.Body, &answer); err != nil {
		return nil, source.Unusable(Name, op, err)
	}
	list := make([]source.Instrument, 0, len(answer))
	for _, m := range answer {
		base, quote, found := strings.Cut(m.Name, "/")
		if !found {
			return nil, source.Unusable(Name, op, fmt.Errorf("%w: %q is not base/quote", source.ErrAnswer, m.Name))
		}
		list = append(list, source.Instrument{
			VendorID: m.URL, Symbol: base + quote, Base: base, Quote: quote, Listed: market.NegInf, Delisted: market.PosInf,
		})
	}
	if list, err = source.Listable(list); err != nil {
		return nil, source.Unusable(Name, op, err)
	}
	return list, nil
}

// Listed reads forward through the days: there is no cheaper way.
func (s *Source) Listed(ctx context.Context, vendorID string, p source.Priority) (market.Instant, error) {
	return source.Probe(ctx, s, vendorID, p, s.client.Now(), market.D1, market.H1, market.M1)
}

// Fetch asks for ohlc. The answer is the last limit rows up to end, inclusive, and may begin before start (BS2): the limit
// is the number of bars in the range, and rows before the start are no error.
func (s *Source) Fetch(ctx context.Context, q source.Query) (source.Answer, error) {
	if err := s.info.Check(Name, &q); err != nil {
		return source.Answer{}, err
	}
	tf := q.Series.Timeframe
	op := "fetch " + q.VendorID + " " + tf.String()
	r, err := s.client.Get(ctx, op, "/api/v2/ohlc/"+q.VendorID+"/", url.Values{
		"step":  {strconv.FormatInt(int64(tf.Step()/time.Second), 10)},
		"limit": {strconv.FormatInt(tf.Count(q.Range), 10)},
		"start": {strconv.FormatInt(int64(q.Range.Start/second), 10)},
		"end":   {strconv.FormatInt(int64(tf.Add(q.Range.End, -1)/second), 10)},
	}, q.Priority)
	if err != nil {
		return source.Answer{}, err
	}
	if r.Status != http.StatusOK {
		return source.Answer{}, refused(op, q.VendorID, r)
	}
	bars, err := parse(r.Body)
	if err != nil {
		return source.Answer{}, source.Unusable(Name, op, err)
	}
	// Repeated timestamps (BS3) and rows outside the range take places of the limit, so that rows of the range may be cut at
	// its start. Where a row lies at the start or before it (BS2) nothing was.
	reaches := slices.ContainsFunc(bars, func(b market.Bar) bool { return b.TS <= q.Range.Start })
	a := source.Answer{Sent: r.Sent, Skew: r.Skew, Full: !reaches && int64(len(bars)) >= tf.Count(q.Range), Backwards: true}
	if err := source.Rows(&a, &q, bars, true); err != nil {
		return source.Answer{}, source.Unusable(Name, op, err)
	}
	return a, nil
}

// refused turns an error answer into an error.
func refused(op, vendorID string, r *source.Response) error {
	if r.Status == http.StatusNotFound && vendorID != "" {
		return source.UnknownInstrument(Name, vendorID)
	}
	return &source.Error{Source: Name, Op: op, Err: fmt.Errorf("%w: HTTP %d", source.ErrRefused, r.Status)}
}

// parse reads {"data":{"pair":"BTC/USD","ohlc":[{"timestamp":"…","open":"…",…},…]}} (BS1).
func parse(body []byte) ([]market.Bar, error) {
	s := scan.New(body)
	var bars []market.Bar
	found := false
	err := s.Object(func(key string) error {
		if key != "data" {
			return s.Skip()
		}
		return s.Object(func(key string) error {
			if key != "ohlc" {
				return s.Skip()
			}
			found = true
			bars = make([]market.Bar, 0, limit)
			return s.Array(func() error {
				b, err := row(s)
				bars = append(bars, b)
				return err
			})
		})
	})
	if err != nil {
		return nil, err
	}
	if !found {
		return nil, fmt.Errorf("%w: no data.ohlc", scan.ErrSyntax)
	}
	return bars, s.End()
}

func row(s *scan.Scanner) (market.Bar, error) {
	var b market.Bar
	var bad error // the first number that does not parse: the row's time may come after it
	fields := 0
	err := s.Object(func(key string) error {
		var err error
		switch key {
		case "timestamp":
			var seconds int64
			seconds, err = s.Int()
			b.TS = market.Instant(seconds) * second
		case "open":
			b.Open, err = s.Float()
		case "high":
			b.High, err = s.Float()
		case "low":
			b.Low, err = s.Float()
		case "close":
			b.Close, err = s.Float()
		case "volume":
			b.Volume, err = s.Float()
		default:
			return s.Skip()
		}
		fields++
		if errors.Is(err, scan.ErrNumber) {
			bad = cmp.Or(bad, fmt.Errorf("read %s: %w", key, err))
			return nil
		}
		return err
	})
	switch {
	case err != nil:
		return b, err
	case bad != nil:
		return b, fmt.Errorf("row at %s: %w", b.TS, bad)
	case fields != 6:
		return b, fmt.Errorf("%w: row at %s has %d of 6 fields", scan.ErrSyntax, b.TS, fields)
	}
	return b, nil
}
