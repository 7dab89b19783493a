// Package builtin lists the sources that barkeep comes with, in order of preference.
package builtin

import (
	"barkeep/backfill/source"
	"barkeep/backfill/source/sim"
)

// Makers returns a maker for every source, in order of preference. The caller owns the slice.
func Makers() []source.Maker {
	return []source.Maker{
		{Name: sim.Name, Make: makeSim},
	}
}

// New returns the registry of all sources that configs, by source name, do not leave out.
func New(configs map[string]source.Config) (*source.Registry, error) {
	return source.NewRegistry(configs, Makers()...)
}

func makeSim(c source.Config) (source.Source, error) {
	return sim.New(sim.Config{FinalityLag: c.FinalityLag, AbsenceLag: c.AbsenceLag, Now: c.Now}), nil
}
