package feed

import (
	"context"
	"fmt"
	"log/slog"
	"math"
	"strconv"

	"barkeep/backfill/source"
	"barkeep/internal/market"
)

// Trade is one trade as a vendor tells it: Size is of the base.
type Trade struct {
	ID          int64
	At          market.Instant
	Price, Size float64
}

// Trades is a feed of a vendor that tells trades alone. It forms the bar of the period in progress from them, where it has seen the
// period from before its beginning on; else it tells nothing of it. It never calls a bar closed: that a bar lacks no trade cannot be
// seen at its end, and a final bar that is wrong would stay (PIPELINE 6). Who follows reads final bars from the source's history.
type Trades struct {
	socket      *Socket
	consecutive bool
}

// NewTrades returns a feed by a protocol whose Read tells trades, of an Instance that has no timeframe. consecutive tells that the
// trades of an instrument are numbered without holes.
func NewTrades(protocol Protocol, consecutive bool, log *slog.Logger) *Trades {
	return &Trades{socket: New(protocol, log), consecutive: consecutive}
}

// Run holds the connections until ctx ends, and returns nil.
func (t *Trades) Run(ctx context.Context) error { return t.socket.Run(ctx) }

// Follow subscribes to the trades of an instrument, once for all its timeframes.
func (t *Trades) Follow(of source.Instance, tell func(source.Tick)) (leave func()) {
	f := former{timeframe: of.Timeframe, consecutive: t.consecutive}
	return t.socket.follow(source.Instance{VendorID: of.VendorID}, func(e Event) {
		switch {
		case e.Begins:
			f.begin()
		case e.Trade != nil:
			if bar, whole := f.add(*e.Trade); whole {
				tell(source.Tick{Bar: bar})
			}
		}
	})
}

// former forms bars of one timeframe from trades.
//
//	begin → nothing is known → a trade: it is the anchor → a trade of a period that begins after the anchor: its bar is whole so far
//
// No trade after the anchor was missed. One that shows the contrary is the new anchor.
type former struct {
	timeframe   market.Timeframe
	consecutive bool

	anchored bool
	anchor   market.Instant // the time of the trade after which none was missed
	last     int64          // the id of the last trade
	bar      market.Bar     // of the newest period; its zero value means none
}

// begin forgets what came: there may be a hole behind it.
func (f *former) begin() { f.anchored, f.bar = false, market.Bar{} }

// add counts a trade and returns the bar of its period; whole is false where trades of the period may have been missed.
func (f *former) add(t Trade) (bar market.Bar, whole bool) {
	known := f.anchored && (t.ID == f.last || (f.consecutive && t.ID < f.last))
	if known {
		return market.Bar{}, false // it came twice
	}
	// Where ids have holes, one that falls tells of an order that is not known: nothing says what else is to come late.
	if !f.anchored || t.ID < f.last || (f.consecutive && t.ID != f.last+1) {
		f.anchored, f.anchor, f.last, f.bar = true, t.At, t.ID, market.Bar{}
		return market.Bar{}, false
	}
	f.last = t.ID
	open := f.timeframe.Floor(t.At)
	switch {
	case open <= f.anchor: // trades of the anchor's instant may have come before it
		return market.Bar{}, false
	case f.bar.TS > open: // its period is over: the source's history tells of it
		return market.Bar{}, false
	case f.bar.TS < open:
		f.bar = market.Bar{TS: open, Open: t.Price, High: t.Price, Low: t.Price}
	}
	f.bar.High, f.bar.Low = max(f.bar.High, t.Price), min(f.bar.Low, t.Price)
	f.bar.Close, f.bar.Volume = t.Price, f.bar.Volume+t.Size
	return f.bar, true
}

// ReadTrade returns a trade whose price and size are read from decimal text. An id, a price or a size that is not positive is an error.
func ReadTrade(id int64, at market.Instant, price, size string) (Trade, error) {
	t := Trade{ID: id, At: at}
	if id <= 0 {
		return Trade{}, fmt.Errorf("trade at %s has the id %d", at, id)
	}
	for _, f := range []struct {
		name, text string
		to         *float64
	}{{"price", price, &t.Price}, {"size", size, &t.Size}} {
		n, err := strconv.ParseFloat(f.text, 64)
		if err == nil && (!(n > 0) || math.IsInf(n, 0)) {
			err = strconv.ErrRange
		}
		if err != nil {
			return Trade{}, fmt.Errorf("trade %d at %s: read %s: %w", id, at, f.name, err)
		}
		*f.to = n
	}
	return t, nil
}
