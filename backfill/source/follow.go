package source

import (
	"context"
	"log/slog"

	"barkeep/internal/market"
)

// Instance names what a feed is followed for: one instrument of a vendor in one timeframe.
type Instance struct {
	VendorID  string
	Timeframe market.Timeframe
}

// Tick is the state of a bar as a feed tells it. Closed means that the vendor calls it closed. That closes a live bar; what is
// stored is read from the source's history after its lag (PIPELINE 6).
type Tick struct {
	Bar    market.Bar
	Closed bool
}

// Feed tells of bars while they form. What it tells is not all there is: ticks are lost with a connection, may come twice, and
// late. Who follows it compares times and reads what is missing by Fetch.
type Feed interface {
	// Run connects, and connects again, until ctx ends; it returns nil.
	Run(ctx context.Context) error
	// Follow has tell called with each tick of an instance until leave is called, one at a time and from another goroutine; tell
	// must not wait. leave does not wait for a call that goes on.
	Follow(of Instance, tell func(Tick)) (leave func())
}

// Follower is a source that has a feed.
type Follower interface { //nolint:iface // asked for by the producer
	// Feed returns a feed of its own for each caller, or nil where the configuration leaves it out: then the source is polled.
	Feed(log *slog.Logger) Feed
}
