package okx

import (
	"fmt"

	"barkeep/backfill/source/scan"
	"barkeep/internal/market"
)

// parseCode reads the members "code" and "msg".
func parseCode(body []byte) (code, message string, err error) {
	s := scan.New(body)
	err = s.Object(func(key string) error {
		if s.Peek() != '"' {
			return s.Skip()
		}
		var err error
		switch key {
		case "code":
			code, err = s.Text()
		case "msg":
			message, err = s.Text()
		default:
			return s.Skip()
		}
		return err
	})
	if err == nil && code == "" {
		err = fmt.Errorf("%w: no code", scan.ErrSyntax)
	}
	return code, message, err
}

// parse reads {"code":"0","data":[["ts","open","high","low","close","vol","volCcy","volCcyQuote","confirm"],…]}, whatever the
// order of the rows. unfinished is the open of the earliest row whose confirm is not "1" (OK1), zero where all are.
func parse(body []byte) (bars []market.Bar, unfinished market.Instant, err error) {
	s := scan.New(body)
	found := false
	err = s.Object(func(key string) error {
		if key != "data" {
			return s.Skip()
		}
		found = true
		bars = make([]market.Bar, 0, limit)
		return s.Array(func() error {
			b, confirmed, err := row(s)
			bars = append(bars, b)
			if !confirmed && (unfinished == 0 || b.TS < unfinished) {
				unfinished = b.TS
			}
			return err
		})
	})
	if err != nil {
		return nil, 0, err
	}
	if !found {
		return nil, 0, fmt.Errorf("%w: no data", scan.ErrSyntax)
	}
	return bars, unfinished, s.End()
}

// columns is how many a row has that tells whether its bar is finished; older answers have seven, without volCcyQuote and
// confirm, and of these nothing more is known than their age.
const columns = 9

// row reads one row. vol is of the base for spot markets.
func row(s *scan.Scanner) (b market.Bar, confirmed bool, err error) {
	confirmed = true
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
				return fmt.Errorf("read time: %w", err)
			}
			b.TS = market.Instant(ms) * millisecond
		case column <= 1+len(fields):
			f := fields[column-2]
			x, err := s.Float()
			if err != nil {
				return fmt.Errorf("read %s at %s: %w", f.name, b.TS, err)
			}
			*f.into = x
		case column == columns:
			text, err := s.Text()
			if err != nil {
				return fmt.Errorf("read confirm at %s: %w", b.TS, err)
			}
			confirmed = text == "1"
		default:
			return s.Skip()
		}
		return nil
	})
	if err == nil && column < 1+len(fields) {
		err = fmt.Errorf("%w: row at %s has %d columns", scan.ErrSyntax, b.TS, column)
	}
	return b, confirmed, err
}
