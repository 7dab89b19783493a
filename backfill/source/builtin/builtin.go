// Package builtin lists the sources that barkeep comes with, in order of preference: those with all of history first, Kraken,
// which has the newest bars only, last of the vendors.
package builtin

import (
	"barkeep/backfill/source"
	"barkeep/backfill/source/binance"
	"barkeep/backfill/source/bitstamp"
	"barkeep/backfill/source/bybit"
	"barkeep/backfill/source/coinbase"
	"barkeep/backfill/source/coindesk"
	"barkeep/backfill/source/cryptocompare"
	"barkeep/backfill/source/file"
	"barkeep/backfill/source/kraken"
	"barkeep/backfill/source/okx"
	"barkeep/backfill/source/sim"
)

// Makers returns a maker for every source, in order of preference. The caller owns the slice.
func Makers() []source.Maker {
	return []source.Maker{
		{Name: binance.Name, Make: func(c source.Config) (source.Source, error) { return binance.New(c) }},
		{Name: coinbase.Name, Make: func(c source.Config) (source.Source, error) { return coinbase.New(c) }},
		{Name: bitstamp.Name, Make: func(c source.Config) (source.Source, error) { return bitstamp.New(c) }},
		{Name: okx.Name, Make: func(c source.Config) (source.Source, error) { return okx.New(c) }},
		{Name: bybit.Name, Make: func(c source.Config) (source.Source, error) { return bybit.New(c) }},
		{Name: cryptocompare.Name, Make: makeCryptoCompare},
		{Name: coindesk.Name, Make: makeCoinDesk},
		{Name: kraken.Name, Make: func(c source.Config) (source.Source, error) { return kraken.New(c) }},
		{Name: sim.Name, Make: makeSim},
		{Name: file.Name, Make: makeFile},
	}
}

// New returns the registry of all sources that configs, by source name, do not leave out.
func New(configs map[string]source.Config) (*source.Registry, error) {
	return source.NewRegistry(configs, Makers()...)
}

// makeCryptoCompare leaves the source out where it has neither a key nor a URL of its own: it refuses every call without.
func makeCryptoCompare(c source.Config) (source.Source, error) {
	if c.Key == "" && c.URL == "" {
		return nil, nil //nolint:nilnil // Maker.Make says what it means
	}
	return cryptocompare.New(c)
}

// makeCoinDesk leaves the source out as makeCryptoCompare does, and for the same reason.
func makeCoinDesk(c source.Config) (source.Source, error) {
	if c.Key == "" && c.URL == "" {
		return nil, nil //nolint:nilnil // Maker.Make says what it means
	}
	return coindesk.New(c)
}

func makeSim(c source.Config) (source.Source, error) {
	return sim.New(sim.Config{FinalityLag: c.FinalityLag, AbsenceLag: c.AbsenceLag, Now: c.Now}), nil
}

// makeFile leaves the source out where it has no folder.
func makeFile(c source.Config) (source.Source, error) {
	if c.Path == "" {
		return nil, nil //nolint:nilnil // Maker.Make says what it means
	}
	return file.New(c)
}
