package producer

import (
	"sync"

	"barkeep/backfill/source"
)

// maxClosed bounds the closed bars that wait in a box: who does not take them reads them from the source's history.
const maxClosed = 64

// box holds what a feed has told until the series' goroutine takes it: the newest state of the forming bar, and the closed ones.
type box struct {
	filled chan struct{} // has an element when there is something

	mu      sync.Mutex
	forming *source.Tick  // guarded by mu
	closed  []source.Tick // guarded by mu
}

func newBox() *box { return &box{filled: make(chan struct{}, 1)} }

// put never waits.
func (b *box) put(tick source.Tick) {
	b.mu.Lock()
	switch {
	case !tick.Closed:
		b.forming = &tick
	case len(b.closed) < maxClosed:
		b.closed = append(b.closed, tick)
	}
	b.mu.Unlock()
	select {
	case b.filled <- struct{}{}:
	default: // it is awake already
	}
}

func (b *box) take() (closed []source.Tick, forming *source.Tick) {
	b.mu.Lock()
	defer b.mu.Unlock()
	closed, forming = b.closed, b.forming
	b.closed, b.forming = nil, nil
	return closed, forming
}
