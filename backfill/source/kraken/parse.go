package kraken

import (
	"fmt"
	"strings"

	"barkeep/backfill/source"
	"barkeep/backfill/source/scan"
	"barkeep/internal/market"
)

// parseErrors reads the member "error", an array of texts.
func parseErrors(body []byte) (messages []string, err error) {
	s := scan.New(body)
	found := false
	err = s.Object(func(key string) error {
		if key != "error" {
			return s.Skip()
		}
		found = true
		return s.Array(func() error {
			m, err := s.Text()
			messages = append(messages, m)
			return err
		})
	})
	if err == nil && !found {
		err = fmt.Errorf("%w: no error member", scan.ErrSyntax)
	}
	return messages, err
}

// parse reads {"error":[],"result":{"XXBTZUSD":[[time,"open","high","low","close","vwap","volume",count],…],"last":…}}
// (KR1). The rows are under Kraken's own name of the pair, whichever it was asked by. "last" is not used: it is said to name
// the last committed bar, and has been seen to name the one that forms.
func parse(body []byte) ([]market.Bar, error) {
	s := scan.New(body)
	var bars []market.Bar
	found := false
	err := s.Object(func(key string) error {
		if key != "result" {
			return s.Skip()
		}
		return s.Object(func(key string) error {
			if key == "last" || s.Peek() != '[' {
				return s.Skip()
			}
			if found {
				return fmt.Errorf("%w: rows of a second pair, %q", scan.ErrSyntax, strings.Clone(key))
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
		return nil, fmt.Errorf("%w: no rows", scan.ErrSyntax)
	}
	return bars, s.End()
}

// row reads one row; the volume is of the base.
func row(s *scan.Scanner) (market.Bar, error) {
	var b market.Bar
	columns := [...]struct {
		name string
		into *float64
	}{{"open", &b.Open}, {"high", &b.High}, {"low", &b.Low}, {"close", &b.Close}, {}, {"volume", &b.Volume}}
	column := 0
	err := s.Array(func() error {
		column++
		if column == 1 {
			seconds, err := s.Int()
			if err != nil {
				return fmt.Errorf("read time: %w", err)
			}
			b.TS = market.Instant(seconds) * second
			return nil
		}
		if column > 1+len(columns) || columns[column-2].into == nil {
			return s.Skip()
		}
		c := columns[column-2]
		f, err := s.Float()
		if err != nil {
			return fmt.Errorf("read %s at %s: %w", c.name, b.TS, err)
		}
		*c.into = f
		return nil
	})
	if err == nil && column < 1+len(columns) {
		err = fmt.Errorf("%w: row at %s has %d columns", scan.ErrSyntax, b.TS, column)
	}
	return b, err
}

// parsePairs reads {"result":{"XXBTZUSD":{"altname":"XBTUSD","wsname":"XBT/USD",…},…}}. A pair without a wsname (the dark pools)
// has no bars.
func parsePairs(body []byte) ([]source.Instrument, error) {
	var list []source.Instrument
	s := scan.New(body)
	err := s.Object(func(key string) error {
		if key != "result" {
			return s.Skip()
		}
		return s.Object(func(key string) error {
			id, name := strings.Clone(key), ""
			if err := s.Object(func(key string) error {
				if key != "wsname" || s.Peek() != '"' {
					return s.Skip()
				}
				var err error
				name, err = s.Text()
				return err
			}); err != nil {
				return err
			}
			base, quote, _ := strings.Cut(name, "/")
			base, quote = asset(base), asset(quote)
			list = append(list, source.Instrument{
				VendorID: id, Symbol: base + quote, Base: base, Quote: quote, Listed: market.NegInf, Delisted: market.PosInf,
			})
			return nil
		})
	})
	if err != nil {
		return nil, fmt.Errorf("read pairs: %w", err)
	}
	return list, nil
}

// asset returns the usual name of what Kraken calls otherwise.
func asset(name string) string {
	switch name {
	case "XBT":
		return "BTC"
	case "XDG":
		return "DOGE"
	}
	return name
}
