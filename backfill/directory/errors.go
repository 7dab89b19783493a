package directory

import (
	"fmt"
	"strings"

	"github.com/jackc/pgerrcode"

	"barkeep/internal/market"
)

// UnknownSymbolError is returned where no source lists a symbol.
type UnknownSymbolError struct {
	Symbol market.Symbol
	// Asked names the sources whose lists were searched; Sources those that exist.
	Asked, Sources []string
	// Local is whether no vendor was asked (source.Info).
	Local bool
}

// Error names the symbol and the sources asked.
func (e *UnknownSymbolError) Error() string {
	if len(e.Asked) == 0 {
		venue, _ := e.Symbol.Split()
		return fmt.Sprintf("symbol %q is unknown: there is no source %q, the sources are %s", string(e.Symbol), venue, strings.Join(e.Sources, ", "))
	}
	return fmt.Sprintf("symbol %q is unknown to %s", string(e.Symbol), strings.Join(e.Asked, ", "))
}

// SQLState returns 22023, invalid_parameter_value.
func (*UnknownSymbolError) SQLState() string { return pgerrcode.InvalidParameterValue }

// Hint tells where the symbols are listed.
func (*UnknownSymbolError) Hint() string {
	return "The view barkeep.symbols lists what the sources have; symbols are case-sensitive. Simulated and file sources are served only with their prefix, as in sim:BTCUSD."
}

// ListError is returned where a source that has to be asked first could not be read yet.
type ListError struct {
	Source, Reason string
	Symbol         market.Symbol
}

// Error names the source and why it could not be read.
func (e *ListError) Error() string {
	return fmt.Sprintf("symbol %q cannot be looked up: the list of source %s could not be read: %s", string(e.Symbol), e.Source, e.Reason)
}

// SQLState returns 58000, system_error.
func (*ListError) SQLState() string { return pgerrcode.SystemError }

// Hint tells how to go round the source.
func (e *ListError) Hint() string {
	if venue, _ := e.Symbol.Split(); venue != "" {
		return "The view barkeep.symbols lists what is known of the other sources; sim:BTCUSD needs no network."
	}
	return "Name a source in the symbol, as in sim:BTCUSD, or set sources." + e.Source + ".enabled to false."
}
