package market

import (
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"
)

// ErrSymbol is returned by ParseSymbol, wrapped with the text and what is wrong with it.
var ErrSymbol = errors.New("not a symbol")

// MaxSymbolBytes bounds a symbol's length in bytes.
const MaxSymbolBytes = 128

// Symbol names an instrument as the user writes it and as it is stored: "BTCUSD", bound once to the first source that
// lists it, or "coinbase:BTCUSD", bound to that source (PIPELINE 10). The two are different symbols. Symbols are
// case-sensitive.
type Symbol string

// ParseSymbol checks that text can name an instrument: valid UTF-8 without control characters, not empty, at most
// MaxSymbolBytes long, nothing empty beside its colon. It returns an error that wraps ErrSymbol otherwise.
func ParseSymbol(text string) (Symbol, error) {
	switch {
	case text == "":
		return "", fmt.Errorf("%w: it is empty", ErrSymbol)
	case len(text) > MaxSymbolBytes:
		return "", fmt.Errorf("%w: longer than %d bytes", ErrSymbol, MaxSymbolBytes)
	case !utf8.ValidString(text):
		return "", fmt.Errorf("%w: not UTF-8", ErrSymbol)
	case strings.ContainsFunc(text, func(r rune) bool { return r < ' ' || r == 0x7f }):
		return "", fmt.Errorf("%w: %q has a control character", ErrSymbol, text)
	}
	if venue, name, found := strings.Cut(text, ":"); found && (venue == "" || name == "") {
		return "", fmt.Errorf("%w: %q has nothing on one side of its colon", ErrSymbol, text)
	}
	return Symbol(text), nil
}

// Split returns the source's name before the first colon, empty where there is none, and the instrument.
func (s Symbol) Split() (source, instrument string) {
	if source, instrument, found := strings.Cut(string(s), ":"); found {
		return source, instrument
	}
	return "", string(s)
}
