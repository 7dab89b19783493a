package coindesk

import (
	"cmp"
	"errors"
	"fmt"
	"strings"

	"barkeep/backfill/source/scan"
	"barkeep/internal/market"
)

// apiError is the member "Err"; its message is empty where there is no error.
type apiError struct {
	kind, status int64
	message      string
}

// parseErr reads {"Data":…,"Err":{"type":1,"message":"…","http_status_code":404}}.
func parseErr(body []byte) (e apiError, err error) {
	s := scan.New(body)
	err = s.Object(func(key string) error {
		if key != "Err" || s.Peek() != '{' {
			return s.Skip()
		}
		return s.Object(func(key string) error {
			var err error
			switch {
			case s.Peek() == 'n': // null is as good as not there
				return s.Skip()
			case key == "type":
				e.kind, err = s.Int()
			case key == "http_status_code":
				e.status, err = s.Int()
			case key == "message":
				e.message, err = s.Text()
			default:
				return s.Skip()
			}
			return err
		})
	})
	if err != nil {
		err = fmt.Errorf("read envelope: %w", err)
	}
	return e, err
}

// parseInstruments reads the names in {"Data":{"coinbase":{"instruments":{"BTC-USD":{…},…}}}}.
func parseInstruments(body []byte, venue string) (names []string, err error) {
	s := scan.New(body)
	err = s.Object(func(key string) error {
		if key != "Data" || s.Peek() != '{' {
			return s.Skip()
		}
		return s.Object(func(key string) error {
			if key != venue {
				return s.Skip()
			}
			return s.Object(func(key string) error {
				if key != "instruments" {
					return s.Skip()
				}
				return s.Object(func(key string) error {
					names = append(names, strings.Clone(key))
					return s.Skip()
				})
			})
		})
	})
	if err != nil {
		return nil, fmt.Errorf("read instruments: %w", err)
	}
	return names, nil
}

// parse reads the rows of {"Data":[{"TIMESTAMP":…,"OPEN":…},…],"Err":{}} (CD3).
func parse(body []byte) ([]market.Bar, error) {
	s := scan.New(body)
	var bars []market.Bar
	found := false
	err := s.Object(func(key string) error {
		if key != "Data" {
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
	if err != nil {
		return nil, err
	}
	if !found {
		return nil, fmt.Errorf("%w: no Data", scan.ErrSyntax)
	}
	return bars, s.End()
}

// row reads one row; VOLUME is of the base, QUOTE_VOLUME of the quote.
func row(s *scan.Scanner) (market.Bar, error) {
	var b market.Bar
	var bad error // the first number that does not parse: the row's time may come after it
	fields := 0
	err := s.Object(func(key string) error {
		var err error
		switch key {
		case "TIMESTAMP":
			var seconds int64
			seconds, err = s.Int()
			b.TS = market.Instant(seconds) * second
		case "OPEN":
			b.Open, err = s.Float()
		case "HIGH":
			b.High, err = s.Float()
		case "LOW":
			b.Low, err = s.Float()
		case "CLOSE":
			b.Close, err = s.Float()
		case "VOLUME":
			b.Volume, err = s.Float()
		default:
			return s.Skip()
		}
		fields++
		if errors.Is(err, scan.ErrNumber) {
			bad = cmp.Or(bad, fmt.Errorf("read %s: %w", strings.ToLower(key), err))
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
