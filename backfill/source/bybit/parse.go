package bybit

import (
	"fmt"

	"barkeep/backfill/source/scan"
	"barkeep/internal/market"
)

// parseCode reads the members "retCode" and "retMsg".
func parseCode(body []byte) (code int64, text string, err error) {
	s := scan.New(body)
	found := false
	err = s.Object(func(key string) error {
		var err error
		switch {
		case key == "retCode":
			found = true
			code, err = s.Int()
		case key == "retMsg" && s.Peek() == '"':
			text, err = s.Text()
		default:
			return s.Skip()
		}
		return err
	})
	if err == nil && !found {
		err = fmt.Errorf("%w: no retCode", scan.ErrSyntax)
	}
	return code, text, err
}

// parse reads {"retCode":0,"result":{"list":[["start","open","high","low","close","volume","turnover"],…]}}, whatever the order
// of the rows (BY1). volume is of the base for spot markets.
func parse(body []byte) ([]market.Bar, error) {
	s := scan.New(body)
	var bars []market.Bar
	found := false
	err := s.Object(func(key string) error {
		if key != "result" {
			return s.Skip()
		}
		return s.Object(func(key string) error {
			if key != "list" {
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
		return nil, fmt.Errorf("%w: no result.list", scan.ErrSyntax)
	}
	return bars, s.End()
}

func row(s *scan.Scanner) (b market.Bar, err error) {
	fields := [...]struct {
		name string
		into *float64
	}{{"open", &b.Open}, {"high", &b.High}, {"low", &b.Low}, {"close", &b.Close}, {"volume", &b.Volume}}
	column := 0
	err = s.Array(func() error {
		column++
		switch {
		case column == 1:
			ms, err := s.Int()
			if err != nil {
				return fmt.Errorf("read start: %w", err)
			}
			b.TS = market.Instant(ms) * millisecond
		case column <= 1+len(fields):
			f := fields[column-2]
			x, err := s.Float()
			if err != nil {
				return fmt.Errorf("read %s at %s: %w", f.name, b.TS, err)
			}
			*f.into = x
		default:
			return s.Skip()
		}
		return nil
	})
	if err == nil && column < 1+len(fields) {
		err = fmt.Errorf("%w: row at %s has %d columns", scan.ErrSyntax, b.TS, column)
	}
	return b, err
}
