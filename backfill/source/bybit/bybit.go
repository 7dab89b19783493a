// Package bybit reads bars of spot markets from Bybit's public API, https://api.bybit.com/v5. The rule BY1 is that of the
// project's list of vendor facts.
package bybit

import (
	"cmp"
	"context"
	"encoding/json"
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
	Name = "bybit"
	// limit is the most rows of one answer (BY1). A page is two rows shorter: one may precede the start, and which end is cut
	// where the rows are as many as can be is not known.
	limit, pageLimit = 1000, 998
	// maxListPages bounds the pages of the list of instruments.
	maxListPages = 100
	// 600 requests of an address in 5 s are borne (from memory); this is a tenth.
	defaultRate, defaultBurst = 12, 12
	defaultURL                = "https://api.bybit.com"
	millisecond               = market.Instant(time.Millisecond / time.Microsecond)
)

// The codes of errors that tell more than that the request was refused (from memory).
const (
	codeOK         = 0
	codeTimeout    = 10000
	codeParameter  = 10001
	codeTooMany    = 10006
	codeServer     = 10016
	codeIPTooOften = 10018
)

// Source is Bybit. It is safe for concurrent use.
type Source struct {
	client *source.Client
	info   source.Info
}

// New returns the source. Every zero value of c has a default.
func New(c source.Config) (*Source, error) {
	c.URL, c.Rate, c.Burst = cmp.Or(c.URL, defaultURL), cmp.Or(c.Rate, defaultRate), cmp.Or(c.Burst, defaultBurst)
	client, err := source.NewClient(Name, c, nil)
	if err != nil {
		return nil, err
	}
	return &Source{client: client, info: source.Info{
		Native: []market.Timeframe{
			market.M1, market.M3, market.M5, market.M15, market.M30, market.H1, market.H2, market.H4, market.H6, market.H12,
			market.D1, market.W1, market.Mo1,
		},
		PageLimit: pageLimit, Dense: true,
		Earliest: market.FromTime(time.Date(2018, time.January, 1, 0, 0, 0, 0, time.UTC)),
		Finality: source.Lag{Default: 10 * time.Second}.Or(c.FinalityLag),
		Absence:  source.Lag{Default: time.Hour}.Or(c.AbsenceLag),
	}}, nil
}

// Name returns "bybit".
func (*Source) Name() string { return Name }

// Info declares what Bybit can do. That a period without trades is a flat row is from memory; where it is not, holes are read
// twice.
func (s *Source) Info() source.Info { return s.info }

// Limiter returns the source's rate limit in this process.
func (s *Source) Limiter() *source.Limiter { return s.client.Limiter() }

// Instruments reads the spot markets, page by page: a list that names a next page is not whole. Spot is said to come in one.
func (s *Source) Instruments(ctx context.Context) ([]source.Instrument, error) {
	const op = "list instruments"
	var list []source.Instrument
	query := url.Values{"category": {"spot"}, "limit": {strconv.Itoa(limit)}}
	for seen := map[string]bool{}; ; {
		page, next, err := s.listPage(ctx, op, query)
		if err != nil {
			return nil, err
		}
		list = append(list, page...)
		if next == "" {
			break
		}
		if seen[next] || len(seen) >= maxListPages {
			return nil, source.Unusable(Name, op, fmt.Errorf("%w: the list does not end", source.ErrAnswer))
		}
		seen[next] = true
		query.Set("cursor", next)
	}
	list, err := source.Listable(list)
	if err != nil {
		return nil, source.Unusable(Name, op, err)
	}
	return list, nil
}

func (s *Source) listPage(ctx context.Context, op string, query url.Values) (list []source.Instrument, next string, err error) {
	r, err := s.get(ctx, op, "", "/v5/market/instruments-info", query, source.Bulk)
	if err != nil {
		return nil, "", err
	}
	var answer struct {
		Result struct {
			NextPageCursor string
			List           []struct{ Symbol, BaseCoin, QuoteCoin string }
		}
	}
	if err := json.Unmarshal(r.Body, &answer); err != nil {
		return nil, "", source.Unusable(Name, op, err)
	}
	for _, m := range answer.Result.List {
		list = append(list, source.Instrument{
			VendorID: m.Symbol, Symbol: m.BaseCoin + m.QuoteCoin, Base: m.BaseCoin, Quote: m.QuoteCoin,
			Listed: market.NegInf, Delisted: market.PosInf,
		})
	}
	return list, answer.Result.NextPageCursor, nil
}

// Listed reads the months, of which there are few, and then inside the first one.
func (s *Source) Listed(ctx context.Context, vendorID string, p source.Priority) (market.Instant, error) {
	return source.Probe(ctx, s, vendorID, p, s.client.Now(), market.Mo1, market.D1, market.H1, market.M1)
}

// interval returns Bybit's name of a timeframe: minutes, or D, W, M (BY1).
func interval(tf market.Timeframe) string {
	switch tf {
	case market.D1:
		return "D"
	case market.W1:
		return "W"
	case market.Mo1:
		return "M"
	default:
		return strconv.Itoa(int(tf.Step() / time.Minute))
	}
}

// Fetch asks for the bars of the range. start and end are said to be inclusive: they are asked for a millisecond before the
// first bar and the end, which serves either way. Should the vendor round start down, the row before is none of the answer.
func (s *Source) Fetch(ctx context.Context, q source.Query) (source.Answer, error) {
	if err := s.info.Check(Name, &q); err != nil {
		return source.Answer{}, err
	}
	op := "fetch " + q.VendorID + " " + q.Series.Timeframe.String()
	r, err := s.get(ctx, op, q.VendorID, "/v5/market/kline", url.Values{
		"category": {"spot"}, "symbol": {q.VendorID}, "interval": {interval(q.Series.Timeframe)},
		"start": {strconv.FormatInt(int64(q.Range.Start/millisecond)-1, 10)},
		"end":   {strconv.FormatInt(int64(q.Range.End/millisecond)-1, 10)},
		"limit": {strconv.Itoa(limit)},
	}, q.Priority)
	if err != nil {
		return source.Answer{}, err
	}
	bars, err := parse(r.Body)
	if err != nil {
		return source.Answer{}, source.Unusable(Name, op, err)
	}
	if len(bars) >= limit {
		err := fmt.Errorf("%w: %d rows where at most %d were asked for: some may be cut", source.ErrAnswer, len(bars), pageLimit)
		return source.Answer{}, source.Unusable(Name, op, err)
	}
	a := source.Answer{Sent: r.Sent, Skew: r.Skew}
	if err := source.Rows(&a, &q, bars, true); err != nil {
		return source.Answer{}, source.Unusable(Name, op, err)
	}
	return a, nil
}

// get asks and tells errors apart: they come as {"retCode":10001,"retMsg":"…","result":{}} with HTTP 200. An address that asks
// too often is shut out with HTTP 403 (from memory).
func (s *Source) get(ctx context.Context, op, vendorID, path string, query url.Values, p source.Priority) (*source.Response, error) {
	r, err := s.client.Get(ctx, op, path, query, p)
	if err != nil {
		return nil, err
	}
	code, text, err := parseCode(r.Body)
	text = source.VendorText(text)
	fail := func(cause error, again bool, after time.Duration) error {
		return &source.Error{Source: Name, Op: op, Err: fmt.Errorf("%w: %d %s", cause, code, text), Again: again, RetryAfter: after}
	}
	tooOften := strings.Contains(strings.ToLower(string(r.Body)), "too frequent")
	switch {
	case code == codeTooMany:
		s.client.Limiter().Pause(ctx, pause)
		return nil, fail(source.ErrRateLimited, true, pause)
	case code == codeIPTooOften || r.Status == http.StatusForbidden && tooOften:
		s.client.Limiter().Pause(ctx, shutOut)
		return nil, fail(source.ErrRateLimited, true, shutOut)
	case err != nil && r.Status != http.StatusOK:
		return nil, &source.Error{Source: Name, Op: op, Err: fmt.Errorf("%w: HTTP %d", source.ErrRefused, r.Status)}
	case err != nil:
		return nil, source.Unusable(Name, op, err)
	case code == codeParameter && vendorID != "" && unknownSymbol(text):
		return nil, source.UnknownInstrument(Name, vendorID)
	case code == codeTimeout || code == codeServer:
		return nil, fail(source.ErrServer, true, 0)
	case code != codeOK || r.Status != http.StatusOK:
		return nil, fail(source.ErrRefused, false, 0)
	}
	return r, nil
}

// unknownSymbol tells by the text, since the code is that of every bad parameter: "Not supported symbols", "params error: Symbol
// Invalid".
func unknownSymbol(text string) bool { return strings.Contains(strings.ToLower(text), "symbol") }

// pause and shutOut are how long Bybit is left alone when it says that it was asked too often: by this key or route, of whom a
// second is counted, or by this address, which is shut out for ten minutes.
const (
	pause   = time.Second
	shutOut = 10 * time.Minute
)
