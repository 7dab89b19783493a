package coordinator

import (
	"math/rand/v2"
	"sync"
	"time"

	"barkeep/backfill/directory"
	"barkeep/internal/market"
)

const (
	// firstGrudge and longestGrudge bound how long a failure is remembered (PIPELINE 18).
	firstGrudge   = 30 * time.Second
	longestGrudge = 10 * time.Minute
	// firstLocal and longestLocal are the same for a symbol that a list without a vendor does not have.
	firstLocal   = 2 * time.Second
	longestLocal = 30 * time.Second
	// maxGrudges bounds the memory; when it is full the expired go, then all.
	maxGrudges = 10_000
)

// grudgeKey is what failed: an unknown symbol has no timeframe and no range.
type grudgeKey struct {
	series market.Series
	r      market.Range
}

// memory remembers failures, each time longer, so that a dashboard that asks for an unknown symbol every second does not
// reach the sources.
type memory struct {
	mu      sync.Mutex
	grudges map[grudgeKey]grudge // guarded by mu
}

type grudge struct {
	err   error
	until time.Time
	kept  time.Duration
}

func newMemory() *memory { return &memory{grudges: make(map[grudgeKey]grudge)} }

// symbol returns the key of an unknown symbol.
func symbolKey(s market.Symbol) grudgeKey { return grudgeKey{series: market.Series{Symbol: s}} }

// recall returns what is remembered of k.
func (m *memory) recall(k grudgeKey, now time.Time) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if g, found := m.grudges[k]; found && now.Before(g.until) {
		return g.err
	}
	return nil
}

// remember keeps err, twice as long as the last time where that was not long ago.
func (m *memory) remember(k grudgeKey, err error, now time.Time) {
	m.keep(k, err, now, firstGrudge, longestGrudge)
}

// rememberUnknown keeps that a symbol is unknown, less long where no vendor has to be asked again.
func (m *memory) rememberUnknown(k grudgeKey, err *directory.UnknownSymbolError, now time.Time) {
	if err.Local {
		m.keep(k, err, now, firstLocal, longestLocal)
		return
	}
	m.remember(k, err, now)
}

func (m *memory) keep(k grudgeKey, err error, now time.Time, first, longest time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.grudges) >= maxGrudges {
		for old, g := range m.grudges {
			if now.After(g.until) {
				delete(m.grudges, old)
			}
		}
		if len(m.grudges) >= maxGrudges {
			clear(m.grudges)
		}
	}
	kept := first
	if g, found := m.grudges[k]; found {
		if now.Before(g.until) {
			return // another waiter of the same failure
		}
		if now.Sub(g.until) < longest {
			kept = min(2*g.kept, longest)
		}
	}
	jittered := time.Duration(float64(kept) * (0.9 + 0.2*rand.Float64()))
	m.grudges[k] = grudge{err: err, until: now.Add(jittered), kept: kept}
}

// forget drops what is remembered of k, after a success.
func (m *memory) forget(k grudgeKey) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.grudges, k)
}
