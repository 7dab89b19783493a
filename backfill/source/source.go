package source

import (
	"context"
	"slices"
	"strings"
	"time"

	"barkeep/internal/market"
)

// Priority orders those who wait for the rate limit of one source.
type Priority int

// The priorities, as they stand in a job.
const (
	Bulk Priority = 0
	User Priority = 1
)

// Source is a place where bars come from. Implementations are safe for concurrent use, start no goroutines that outlive a
// call, and return errors of type *Error.
type Source interface {
	// Name is the name in the configuration and before a symbol's colon.
	Name() string
	// Info declares what the source can do; it never changes and asks nobody.
	Info() Info
	// Instruments lists what the source has. The caller owns the slice.
	Instruments(ctx context.Context) ([]Instrument, error)
	// Fetch asks for one page. It makes one attempt: retries are the caller's.
	Fetch(ctx context.Context, q Query) (Answer, error)
}

// Prober is a source that can find when an instrument was listed more cheaply than by reading its history.
type Prober interface { //nolint:iface // asked for by the producer
	// Listed returns the open of the first bar. It makes few requests; an error leaves the listing unknown.
	Listed(ctx context.Context, vendorID string, p Priority) (market.Instant, error)
}

// Instrument is one market of a source (PIPELINE 11).
type Instrument struct {
	// VendorID is the vendor's own name, "BTC-USD"; Symbol is the canonical one, "BTCUSD".
	VendorID, Symbol string
	// Base and Quote are upper case.
	Base, Quote string
	// Listed is market.NegInf where it is not known, Delisted market.PosInf where it is not known or did not happen.
	Listed, Delisted market.Instant
	// Native are the timeframes of this instrument, shortest first, where they are not those of Info.Native; nil where they are.
	Native []market.Timeframe
}

// Info declares a source's abilities and the rules of its answers.
type Info struct {
	// Native are the timeframes that the vendor has on our grid, shortest first (PIPELINE 2). The others are derived from them.
	Native []market.Timeframe
	// PageLimit is the number of bars that one Fetch can return; a query's range holds no more.
	PageLimit int
	// Dense means that a period without trades is a flat row, so a hole is suspect and read twice (PIPELINE 5).
	Dense bool
	// PrefixOnly means that only symbols written with this source's prefix are served by it (PIPELINE 10).
	PrefixOnly bool
	// Local means that no vendor is asked for the list of instruments: it may be read whenever somebody asks for a symbol
	// that it does not have.
	Local bool
	// Earliest is where a job begins while the listing is unknown.
	Earliest market.Instant
	// Depth bounds how far back bars of a timeframe reach from now; nil or zero means without bound (CC9, KR1).
	Depth map[market.Timeframe]time.Duration
	// Poll is how often a bar that is followed live is asked for where there is no feed; zero means DefaultPoll.
	Poll time.Duration
	// Finality and Absence are the lags after a bar's close past which it is final, and past which it does not come any
	// more where it is missing (PIPELINE 5, 6).
	Finality, Absence Lag
}

// DefaultPoll is how often a source without a feed is asked for each series that is followed live.
const DefaultPoll = 5 * time.Second

// Lag is a duration by timeframe.
type Lag struct {
	// Default is for the timeframes not in ByTimeframe.
	Default     time.Duration
	ByTimeframe map[market.Timeframe]time.Duration
}

// Of returns the lag of tf.
func (l Lag) Of(tf market.Timeframe) time.Duration {
	if d, found := l.ByTimeframe[tf]; found {
		return d
	}
	return l.Default
}

// Or returns Lag{Default: set} where set is positive, l itself otherwise: a setting overrides every timeframe.
func (l Lag) Or(set time.Duration) Lag {
	if set > 0 {
		return Lag{Default: set}
	}
	return l
}

// HasNative reports whether tf is one of Native.
func (i *Info) HasNative(tf market.Timeframe) bool { return slices.Contains(i.Native, tf) }

// NativeNames returns the native timeframes joined by ", ", for error texts.
func (i *Info) NativeNames() string {
	names := make([]string, len(i.Native))
	for k, tf := range i.Native {
		names[k] = tf.String()
	}
	return strings.Join(names, ", ")
}

// Query asks for one page.
type Query struct {
	VendorID string
	Series   market.Series
	// Range lies on the timeframe's grid and holds at most Info.PageLimit bars.
	Range    market.Range
	Priority Priority
}

// Answer is what a source said to one Query.
type Answer struct {
	// Bars are ascending and distinct by TS, inside the query's range, on the grid, and sound where they are closed.
	Bars []market.Bar
	// Sent is when the request was sent, less the Age or max-age of the answer: a page's fetched_at (PIPELINE 5).
	Sent market.Instant
	// Skew is the vendor's clock less ours, as little as what was seen allows; zero where nothing is known.
	Skew time.Duration
	// Unfinished is the open of the first bar that the vendor itself calls unfinished, however old it is: neither that one nor
	// what follows is final or absent. Zero where it calls none so.
	Unfinished market.Instant
	// Doubtful says that our own clock cannot be relied on, since the database's differs too much: nothing is final or
	// absent (PIPELINE 6). The producer sets it.
	Doubtful bool
	// Full means that the vendor may have cut the answer at its limit: nothing beyond the last row in paging direction is
	// vouched for (PIPELINE 5). The direction is backwards where Backwards is set.
	Full, Backwards bool
	// Dropped counts the rows outside the asked range (BN6), Repeated the timestamps that came twice (BS3).
	Dropped, Repeated int
	// Unavailable, where it is not empty, is the reason why the source cannot say what there is (CC9): in the whole range
	// where there are no Bars, else before the first of them.
	Unavailable string
}
