package cryptocompare

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"barkeep/backfill/source"
	"barkeep/backfill/source/scan"
	"barkeep/internal/market"
)

// The types of error that an answer can carry (CC7).
const (
	typeParameter = 1
	typeUnknown   = 2
	typeRateLimit = 99
	second        = market.Instant(time.Second / time.Microsecond)
)

// envelope is what stands around every answer: {"Response":"Error",…} with HTTP 200 (CC7), or {"Data":{},"Err":{…}} with
// HTTP 401 since a key is needed.
type envelope struct {
	Response string
	Message  string
	Type     int
	Cooldown int
	Err      struct {
		Message string
	}
}

// refused returns the error that an answer is, nil where it is none. It decides by Response and then Type, never by the HTTP
// status alone (CC7).
func (s *Source) refused(ctx context.Context, op, vendorID string, r *source.Response) error {
	e, err := readEnvelope(r.Body)
	if err != nil {
		return source.Unusable(Name, op, err)
	}
	e.Message, e.Err.Message = source.VendorText(e.Message, s.key), source.VendorText(e.Err.Message, s.key)
	switch {
	case e.Err.Message != "":
		return &source.Error{Source: Name, Op: op, Err: fmt.Errorf("%w: %s", source.ErrRefused, e.Err.Message)}
	case e.Response != "Error" && r.Status != http.StatusOK:
		return &source.Error{Source: Name, Op: op, Err: fmt.Errorf("%w: HTTP %d", source.ErrRefused, r.Status)}
	case e.Response != "Error":
		return nil
	case e.Type == typeRateLimit:
		after := time.Duration(cmp.Or(e.Cooldown, 10)) * time.Second
		s.client.Limiter().Pause(ctx, after)
		return &source.Error{
			Source: Name, Op: op, Err: fmt.Errorf("%w: %s", source.ErrRateLimited, e.Message), Again: true, RetryAfter: after,
		}
	case vendorID != "" && (e.Type == typeParameter || e.Type == typeUnknown):
		unknown := source.UnknownInstrument(Name, vendorID)
		unknown.Err = fmt.Errorf("%w: %s", unknown.Err, e.Message)
		return unknown
	}
	return &source.Error{Source: Name, Op: op, Err: fmt.Errorf("%w: %s", source.ErrRefused, e.Message)}
}

// readEnvelope reads the outer members alone: Data has another shape in each answer.
func readEnvelope(body []byte) (envelope, error) {
	var e envelope
	s := scan.New(body)
	err := s.Object(func(key string) error {
		var err error
		var n int64
		if s.Peek() == 'n' { // null is as good as not there
			return s.Skip()
		}
		switch key {
		case "Response":
			e.Response, err = s.Text()
		case "Message":
			e.Message, err = s.Text()
		case "Type":
			n, err = s.Int()
			e.Type = int(n)
		case "Cooldown":
			n, err = s.Int()
			e.Cooldown = int(n)
		case "Err":
			err = s.Object(func(key string) error {
				if key != "message" {
					return s.Skip()
				}
				var err error
				e.Err.Message, err = s.Text()
				return err
			})
		default:
			return s.Skip()
		}
		return err
	})
	if err != nil {
		return e, fmt.Errorf("read envelope: %w", err)
	}
	return e, nil
}

// parsePairs reads {"Data":{"pairs":{"BTC":{"tsyms":{"USD":{…},…}},…}}}; the older route's {"Data":{"BTC":{"USD":{…},…},…}}
// has the same pairs without the two names between.
func parsePairs(body []byte) ([]source.Instrument, error) {
	var list []source.Instrument
	s := scan.New(body)
	quotes := func(base string) error {
		return s.Object(func(quote string) error {
			quote = strings.Clone(quote)
			if quote == "tsyms" {
				return s.Object(func(quote string) error {
					list = append(list, instrument(base, strings.Clone(quote)))
					return s.Skip()
				})
			}
			list = append(list, instrument(base, quote))
			return s.Skip()
		})
	}
	bases := func(key string) error {
		if s.Peek() != '{' {
			return s.Skip()
		}
		return quotes(strings.Clone(key))
	}
	err := s.Object(func(key string) error {
		if key != "Data" {
			return s.Skip()
		}
		return s.Object(func(key string) error {
			if key == "pairs" {
				return s.Object(bases)
			}
			return bases(key)
		})
	})
	if err != nil {
		return nil, fmt.Errorf("read pairs: %w", err)
	}
	return list, nil
}

func instrument(base, quote string) source.Instrument {
	return source.Instrument{
		VendorID: base + "/" + quote, Symbol: base + quote, Base: base, Quote: quote, Listed: market.NegInf, Delisted: market.PosInf,
	}
}

// parse reads the rows of a v2 or a v1 answer (CC6) and counts those of zeros, which are no data (CC10).
func parse(body []byte) (bars []market.Bar, zeros int, err error) {
	s := scan.New(body)
	found := false
	rows := func() error {
		found = true
		bars = make([]market.Bar, 0, limit+1)
		return s.Array(func() error {
			b, err := row(s)
			if err != nil {
				return err
			}
			if b.Open == 0 && b.High == 0 && b.Low == 0 && b.Close == 0 {
				zeros++
				return nil
			}
			bars = append(bars, b)
			return nil
		})
	}
	err = s.Object(func(key string) error {
		if key != "Data" {
			return s.Skip()
		}
		if s.Peek() == '[' {
			return rows()
		}
		return s.Object(func(key string) error {
			if key != "Data" {
				return s.Skip()
			}
			return rows()
		})
	})
	if err != nil {
		return nil, 0, err
	}
	if !found {
		return nil, 0, fmt.Errorf("%w: no rows", scan.ErrSyntax)
	}
	return bars, zeros, s.End()
}

// row reads {"time","high","low","open","volumefrom","volumeto","close","conversionType",…}; volumefrom is of the base
// (CC6). A rate that was converted over a third currency is refused (CC11).
func row(s *scan.Scanner) (market.Bar, error) {
	var b market.Bar
	var bad error // the first number that does not parse: the row's time may come after it
	fields, conversion := 0, ""
	err := s.Object(func(key string) error {
		var err error
		switch key {
		case "time":
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
		case "volumefrom":
			b.Volume, err = s.Float()
		case "conversionType":
			conversion, err = s.Text()
			return err
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
	switch conversion {
	case "", "direct", "force_direct":
		return b, nil
	}
	return b, fmt.Errorf("row at %s: conversionType is %q, not direct", b.TS, conversion)
}
