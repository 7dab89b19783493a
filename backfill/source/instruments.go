package source

import (
	"fmt"
	"slices"
	"strings"

	"barkeep/internal/market"
)

// Listable returns list without what cannot be a symbol: vendors list tokens whose names are empty, no text, or hold a
// colon, which separates a source from a name. Where nothing is left the list is unusable: a vendor without markets would
// make every symbol unknown.
func Listable(list []Instrument) ([]Instrument, error) {
	list = slices.DeleteFunc(list, func(i Instrument) bool {
		if i.VendorID == "" || i.Base == "" || i.Quote == "" || strings.ContainsRune(i.Symbol, ':') {
			return true
		}
		for _, text := range []string{i.Symbol, i.VendorID} {
			if _, err := market.ParseSymbol(text); err != nil {
				return true
			}
		}
		return false
	})
	if len(list) == 0 {
		return nil, fmt.Errorf("%w: it names no market", ErrAnswer)
	}
	return list, nil
}
