// Package builtin lists the sources that barkeep comes with, in order of preference.
package builtin

import (
	"barkeep/backfill/source"
	"barkeep/backfill/source/binance"
	"barkeep/backfill/source/bitstamp"
	"barkeep/backfill/source/coinbase"
	"barkeep/backfill/source/cryptocompare"
	"barkeep/backfill/source/file"
	"barkeep/backfill/source/sim"
)

// Makers returns a maker for every source, in order of preference. The caller owns the slice.
func Makers() []source.Maker {
	return []source.Maker{
		{Name: binance.Name, Make: func(c source.Config) (source.Source, error) { return binance.New(c) }},
		{Name: coinbase.Name, Make: func(c source.Config) (source.Source, error) { return coinbase.New(c) }},
		{Name: bitstamp.Name, Make: func(c source.Config) (source.Source, error) { return bitstamp.New(c) }},
		{Name: cryptocompare.Name, Make: makeCryptoCompare},
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
