// Package coinbase reads bars from Coinbase Exchange, https://api.exchange.coinbase.com. The rule CB1 is that of the
// project's list of vendor facts.
package coinbase

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
	"barkeep/backfill/source/scan"
	"barkeep/internal/market"
)

const (
	// Name is the source's name.
	Name = "coinbase"
	// limit is the most rows of one answer; a larger range is rejected (CB1). A page is one row shorter: a row may precede the
	// start (CB1), and which end is cut where the rows are as many as can be is not known.
	limit, pageLimit = 300, 299
	// The public limit is 10 requests a second by address (CB1).
	defaultRate, defaultBurst = 8, 8
	defaultURL                = "https://api.exchange.coinbase.com"
	second                    = market.Instant(time.Second / time.Microsecond)
)

// Source is Coinbase Exchange. It is safe for concurrent use.
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
	client, err := source.NewClient(Name, c, http.Header{"User-Agent": {"barkeep"}})
	if err != nil {
		return nil, err
	}
	return &Source{client: client, stream: c.StreamURL, info: source.Info{
		Native:    []market.Timeframe{market.M1, market.M5, market.M15, market.H1, market.H6, market.D1}, // CB1
		PageLimit: pageLimit,
		Poll:      15 * time.Second, // CB1: "do not poll"
		Earliest:  market.FromTime(time.Date(2015, time.January, 1, 0, 0, 0, 0, time.UTC)),
		Finality:  source.Lag{Default: 10 * time.Minute}.Or(c.FinalityLag), // PIPELINE 6
		Absence:   source.Lag{Default: time.Hour}.Or(c.AbsenceLag),
	}}, nil
}

// Name returns "coinbase".
func (*Source) Name() string { return Name }

// Info declares what Coinbase can do. A period without trades is absent (CB1).
func (s *Source) Info() source.Info { return s.info }

// Limiter returns the source's rate limit in this process.
func (s *Source) Limiter() *source.Limiter { return s.client.Limiter() }

// Instruments reads the products: "BTC-USD" is BTCUSD.
func (s *Source) Instruments(ctx context.Context) ([]source.Instrument, error) {
	const op = "list instruments"
	r, err := s.client.Get(ctx, op, "/products", nil, source.Bulk)
	if err != nil {
		return nil, err
	}
	if r.Status != http.StatusOK {
		return nil, refused(op, "", r)
	}
	var answer []struct {
		ID    string `json:"id"`
		Base  string `json:"base_currency"`
		Quote string `json:"quote_currency"`
	}
	if err := json.Unmarshal(r.Body, &answer); err != nil {
		return nil, source.Unusable(Name, op, err)
	}
	list := make([]source.Instrument, 0, len(answer))
	for _, m := range answer {
		list = append(list, source.Instrument{
			VendorID: m.ID, Symbol: m.Base + m.Quote, Base: m.Base, Quote: m.Quote,
			Listed: market.NegInf, Delisted: market.PosInf,
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

// Fetch asks for candles. start and end go together (CB1). Whether a candle that opens at end belongs to the answer is not
// known, and the last bar of each page hangs on it: end is a second before the next bar, which serves either way. Should the
// vendor round it up, the row of the next bar is none of the answer. Rows before the start are no error (CB1).
func (s *Source) Fetch(ctx context.Context, q source.Query) (source.Answer, error) {
	if err := s.info.Check(Name, &q); err != nil {
		return source.Answer{}, err
	}
	tf := q.Series.Timeframe
	op := "fetch " + q.VendorID + " " + tf.String()
	r, err := s.client.Get(ctx, op, "/products/"+q.VendorID+"/candles", url.Values{
		"granularity": {strconv.FormatInt(int64(tf.Step()/time.Second), 10)},
		"start":       {q.Range.Start.Time().Format(time.RFC3339)},
		"end":         {(q.Range.End - second).Time().Format(time.RFC3339)},
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
	if len(bars) >= limit {
		err := fmt.Errorf("%w: %d rows where at most %d were asked for: some may be cut", source.ErrAnswer, len(bars), tf.Count(q.Range))
		return source.Answer{}, source.Unusable(Name, op, err)
	}
	rows := len(bars)
	bars = slices.DeleteFunc(bars, func(b market.Bar) bool { return b.TS == q.Range.End })
	a := source.Answer{Sent: r.Sent, Skew: r.Skew, Dropped: rows - len(bars)}
	if err := source.Rows(&a, &q, bars, true); err != nil {
		return source.Answer{}, source.Unusable(Name, op, err)
	}
	return a, nil
}

// refused turns an error body into an error: {"message":"NotFound"}.
func refused(op, vendorID string, r *source.Response) error {
	if r.Status == http.StatusNotFound && vendorID != "" {
		return source.UnknownInstrument(Name, vendorID)
	}
	var answer struct{ Message string }
	if err := json.Unmarshal(r.Body, &answer); err != nil {
		answer.Message = "no reason given"
	}
	answer.Message = source.VendorText(answer.Message)
	return &source.Error{Source: Name, Op: op, Err: fmt.Errorf("%w: HTTP %d: %s", source.ErrRefused, r.Status, answer.Message)}
}

// parse reads [[time, low, high, open, close, volume], …] in seconds (CB1), whatever the order of the rows.
func parse(body []byte) ([]market.Bar, error) {
	s := scan.New(body)
	bars := make([]market.Bar, 0, limit)
	err := s.Array(func() error {
		var b market.Bar
		columns := [...]struct {
			name string
			into *float64
		}{{"low", &b.Low}, {"high", &b.High}, {"open", &b.Open}, {"close", &b.Close}, {"volume", &b.Volume}}
		column := 0
		if err := s.Array(func() error {
			column++
			switch {
			case column == 1:
				seconds, err := s.Int()
				if err != nil {
					return fmt.Errorf("read time: %w", err)
				}
				b.TS = market.Instant(seconds) * second
			case column <= 1+len(columns):
				c := columns[column-2]
				f, err := s.Float()
				if err != nil {
					return fmt.Errorf("read %s at %s: %w", c.name, b.TS, err)
				}
				*c.into = f
			default:
				return s.Skip()
			}
			return nil
		}); err != nil {
			return err
		}
		if column < 1+len(columns) {
			return fmt.Errorf("%w: row at %s has %d columns", scan.ErrSyntax, b.TS, column)
		}
		bars = append(bars, b)
		return nil
	})
	if err != nil {
		return nil, err
	}
	return bars, s.End()
}
