// Package binance reads bars from Binance's spot API, https://api.binance.com/api/v3, and from those that speak its
// language. The rules BN1 to BN6 are those of the project's list of vendor facts.
package binance

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"barkeep/backfill/source"
	"barkeep/backfill/source/scan"
	"barkeep/internal/market"
)

const (
	// Name is the source's name.
	Name = "binance"
	// limit is the most rows of one answer (BN1).
	limit = 1000
	// A request weighs 2 of 6000 a minute (BN1); this leaves a fifth for others behind the same address.
	defaultRate, defaultBurst = 40, 20
	defaultURL                = "https://api.binance.com"
	// codeInvalidSymbol and codeTooMany are Binance's error codes (BN1).
	codeInvalidSymbol, codeTooMany = -1121, -1003
	millisecond                    = market.Instant(time.Millisecond / time.Microsecond)
)

// Source is Binance. It is safe for concurrent use.
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
		// Three days are on offer too, but no recording shows where they open (PIPELINE 2).
		Native: []market.Timeframe{
			market.M1, market.M3, market.M5, market.M15, market.M30, market.H1, market.H2, market.H4, market.H6, market.H8,
			market.H12, market.D1, market.W1, market.Mo1,
		},
		PageLimit: limit, Dense: true, // BN5
		Earliest: market.FromTime(time.Date(2017, time.July, 1, 0, 0, 0, 0, time.UTC)),
		Finality: source.Lag{Default: 10 * time.Second}.Or(c.FinalityLag),
		Absence:  source.Lag{Default: time.Hour}.Or(c.AbsenceLag),
	}}, nil
}

// Name returns "binance".
func (*Source) Name() string { return Name }

// Info declares what Binance can do.
func (s *Source) Info() source.Info { return s.info }

// Limiter returns the source's rate limit in this process.
func (s *Source) Limiter() *source.Limiter { return s.client.Limiter() }

// Instruments reads exchangeInfo. It does not say when a market was listed: Listed does.
func (s *Source) Instruments(ctx context.Context) ([]source.Instrument, error) {
	const op = "list instruments"
	r, err := s.client.Get(ctx, op, "/api/v3/exchangeInfo", nil, source.Bulk)
	if err != nil {
		return nil, err
	}
	if r.Status != http.StatusOK {
		return nil, refused(op, "", r)
	}
	var answer struct {
		Symbols []struct{ Symbol, BaseAsset, QuoteAsset string }
	}
	if err := json.Unmarshal(r.Body, &answer); err != nil {
		return nil, source.Unusable(Name, op, err)
	}
	list := make([]source.Instrument, 0, len(answer.Symbols))
	for _, m := range answer.Symbols {
		list = append(list, source.Instrument{
			VendorID: m.Symbol, Symbol: m.Symbol, Base: m.BaseAsset, Quote: m.QuoteAsset,
			Listed: market.NegInf, Delisted: market.PosInf,
		})
	}
	if list, err = source.Listable(list); err != nil {
		return nil, source.Unusable(Name, op, err)
	}
	return list, nil
}

// Listed asks for the first bar there is (BN4).
func (s *Source) Listed(ctx context.Context, vendorID string, p source.Priority) (market.Instant, error) {
	op := "find the listing of " + vendorID
	r, err := s.client.Get(ctx, op, "/api/v3/klines", url.Values{
		"symbol": {vendorID}, "interval": {"1m"}, "startTime": {"0"}, "limit": {"1"},
	}, p)
	if err != nil {
		return market.NegInf, err
	}
	if r.Status != http.StatusOK {
		return market.NegInf, refused(op, vendorID, r)
	}
	bars, err := parse(r.Body)
	if err != nil {
		return market.NegInf, source.Unusable(Name, op, err)
	}
	if len(bars) == 0 {
		return market.NegInf, nil
	}
	return bars[0].TS, nil
}

// Fetch asks for klines. startTime and endTime are inclusive on the open time (BN3), in milliseconds: any other unit gives
// unrelated rows, which source.Rows refuses (BN6).
func (s *Source) Fetch(ctx context.Context, q source.Query) (source.Answer, error) {
	if err := s.info.Check(Name, &q); err != nil {
		return source.Answer{}, err
	}
	op := "fetch " + q.VendorID + " " + q.Series.Timeframe.String()
	r, err := s.client.Get(ctx, op, "/api/v3/klines", url.Values{
		"symbol": {q.VendorID}, "interval": {q.Series.Timeframe.String()},
		"startTime": {strconv.FormatInt(int64(q.Range.Start/millisecond), 10)},
		"endTime":   {strconv.FormatInt(int64(q.Range.End/millisecond)-1, 10)},
		"limit":     {strconv.Itoa(limit)},
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
	a := source.Answer{Sent: r.Sent, Skew: r.Skew, Full: len(bars) >= limit}
	if err := source.Rows(&a, &q, bars, false); err != nil {
		return source.Answer{}, source.Unusable(Name, op, err)
	}
	return a, nil
}

// refused turns an error body into an error: {"code":-1121,"msg":"Invalid symbol."} (BN1).
func refused(op, vendorID string, r *source.Response) error {
	var answer struct {
		Code int
		Msg  string
	}
	if err := json.Unmarshal(r.Body, &answer); err != nil {
		answer.Msg = "no reason given"
	}
	answer.Msg = source.VendorText(answer.Msg)
	switch answer.Code {
	case codeInvalidSymbol:
		return source.UnknownInstrument(Name, vendorID)
	case codeTooMany:
		return &source.Error{Source: Name, Op: op, Err: fmt.Errorf("%w: %s", source.ErrRateLimited, answer.Msg), Again: true}
	}
	return &source.Error{Source: Name, Op: op, Err: fmt.Errorf("%w: HTTP %d: %s", source.ErrRefused, r.Status, answer.Msg)}
}

// parse reads [[openTime, "open", "high", "low", "close", "volume", closeTime, …], …] (BN2).
func parse(body []byte) ([]market.Bar, error) {
	s := scan.New(body)
	bars := make([]market.Bar, 0, limit)
	err := s.Array(func() error {
		var b market.Bar
		column := 0
		if err := s.Array(func() error {
			column++
			return field(s, column-1, &b)
		}); err != nil {
			return err
		}
		if column < 6 {
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

func field(s *scan.Scanner, column int, b *market.Bar) error {
	var err error
	var name string
	switch column {
	case 0:
		var ms int64
		if ms, err = s.Int(); err != nil {
			return fmt.Errorf("read open time: %w", err)
		}
		b.TS = market.Instant(ms) * millisecond
		return nil
	case 1:
		name = "open"
		b.Open, err = s.Float()
	case 2:
		name = "high"
		b.High, err = s.Float()
	case 3:
		name = "low"
		b.Low, err = s.Float()
	case 4:
		name = "close"
		b.Close, err = s.Float()
	case 5:
		name = "volume"
		b.Volume, err = s.Float()
	default:
		return s.Skip()
	}
	if err != nil {
		return fmt.Errorf("read %s at %s: %w", name, b.TS, err)
	}
	return nil
}
