package sim

import (
	"time"

	"barkeep/internal/market"
)

const (
	// tick is the number of price steps in one unit of money.
	tick   = 64
	minute = market.Instant(time.Minute / time.Microsecond)
)

// Coin is one instrument of the simulated market.
type Coin struct {
	// Base and Quote make the symbol.
	Base, Quote string
	// Price is the level around which it moves, in units of Quote.
	Price int64
	// Listed and Delisted bound its life; market.PosInf is still alive.
	Listed, Delisted market.Instant
	// Gappy means that bars are missing, single ones and whole hours.
	Gappy bool
	seed  uint64
}

// Symbol returns Base and Quote joined.
func (c *Coin) Symbol() string { return c.Base + c.Quote }

func day(year int, month time.Month, day, hour int) market.Instant {
	return market.FromTime(time.Date(year, month, day, hour, 0, 0, 0, time.UTC))
}

// Coins returns the whole market: BTCUSD, ETHUSD, SOLUSD and others listed 2015-01-01, BTCEUR and ETHBTC beside them,
// GAPUSD with missing bars, NEWUSD listed 2023-06-15 04:00 and OLDUSD delisted 2022-05-13 02:00. The caller owns the slice.
func Coins() []Coin {
	listed := day(2015, time.January, 1, 0)
	coins := []Coin{
		{Base: "BTC", Quote: "USD", Price: 40000},
		{Base: "ETH", Quote: "USD", Price: 2500},
		{Base: "SOL", Quote: "USD", Price: 120},
		{Base: "XRP", Quote: "USD", Price: 16},
		{Base: "ADA", Quote: "USD", Price: 32},
		{Base: "LTC", Quote: "USD", Price: 90},
		{Base: "DOGE", Quote: "USD", Price: 8},
		{Base: "BTC", Quote: "EUR", Price: 37000},
		{Base: "ETH", Quote: "BTC", Price: 4},
		{Base: "BTC", Quote: "USDT", Price: 40010},
		{Base: "GAP", Quote: "USD", Price: 50, Gappy: true},
		{Base: "NEW", Quote: "USD", Price: 10, Listed: day(2023, time.June, 15, 4)},
		{Base: "OLD", Quote: "USD", Price: 75, Delisted: day(2022, time.May, 13, 2)},
	}
	for i := range coins {
		if coins[i].Listed == 0 {
			coins[i].Listed = listed
		}
		if coins[i].Delisted == 0 {
			coins[i].Delisted = market.PosInf
		}
		coins[i].seed = seedOf(coins[i].Symbol())
	}
	return coins
}

// seedOf is FNV-1a.
func seedOf(text string) uint64 {
	h := uint64(14695981039346656037)
	for _, c := range []byte(text) {
		h = (h ^ uint64(c)) * 1099511628211
	}
	return h
}

// mix is the finalizer of SplitMix64: a bijection whose output bits all depend on all input bits.
func mix(x uint64) uint64 {
	x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9
	x = (x ^ (x >> 27)) * 0x94d049bb133111eb
	return x ^ (x >> 31)
}

// octaves are the waves that a price is the sum of: period in minutes, and the share of the level that it moves, as the
// divisor of it.
var octaves = [...]struct{ period, divisor int64 }{ //nolint:gochecknoglobals // a constant that Go cannot declare
	{525600, 3}, {43200, 8}, {1440, 40}, {60, 200}, {1, 3000},
}

// walker computes the prices of one coin at ascending minutes; it remembers the cell of each octave.
type walker struct {
	coin  *Coin
	cells [len(octaves)]struct{ start, end, a, b int64 }
}

// price returns the price at the given minute since the epoch, in ticks, at least one.
func (w *walker) price(n int64) int64 {
	level := w.coin.Price * tick
	p := level
	for k := range octaves {
		period, cell := octaves[k].period, &w.cells[k]
		if n < cell.start || n >= cell.end {
			at := n / period
			if n < at*period {
				at--
			}
			cell.start, cell.end = at*period, (at+1)*period
			cell.a = w.coin.wave(k, at, level/octaves[k].divisor)
			cell.b = w.coin.wave(k, at+1, level/octaves[k].divisor)
		}
		p += cell.a
		if frac := n - cell.start; frac != 0 {
			p += (cell.b - cell.a) * frac / period
		}
	}
	return max(p, 1)
}

// wave returns a value of at most amplitude to either side for a cell of an octave.
func (c *Coin) wave(octave int, cell, amplitude int64) int64 {
	h := mix(c.seed ^ uint64(octave+1)<<56 ^ uint64(cell)*0x9e3779b97f4a7c15) //nolint:gosec // any bits do
	return int64(h>>33)%(2*amplitude+1) - amplitude
}

// missing reports whether a gappy coin has no bar: one in four at random, and of those up to an hour all of every eighth
// hour.
func (c *Coin) missing(tf market.Timeframe, ts market.Instant) bool {
	if !c.Gappy {
		return false
	}
	if tf <= market.H1 {
		hour := uint64(market.H1.Floor(ts)) //nolint:gosec // any bits do
		if mix(c.seed^hour)%8 == 0 {
			return true
		}
	}
	return mix(c.seed^uint64(ts)^uint64(tf)<<58)%4 == 0 //nolint:gosec // any bits do
}

// Bars appends to bars those of c that open inside r, ascending. r must be finite. A bar exists where its period overlaps
// the life of the coin.
func (c *Coin) Bars(bars []market.Bar, tf market.Timeframe, r market.Range) []market.Bar {
	start, end := max(tf.Ceil(r.Start), tf.Floor(c.Listed)), r.End
	if c.Delisted != market.PosInf {
		end = min(end, tf.Ceil(c.Delisted))
	}
	if start >= end {
		return bars
	}
	w := walker{coin: c}
	open := w.price(int64(start / minute))
	for ts := start; ts < end; {
		next := tf.Next(ts)
		if tf != market.Mo1 {
			next = ts + market.Instant(tf.Step()/time.Microsecond)
		}
		last := w.price(int64(next / minute))
		if !c.missing(tf, ts) {
			bars = append(bars, c.bar(tf, ts, open, last))
		}
		ts, open = next, last
	}
	return bars
}

func (c *Coin) bar(tf market.Timeframe, ts market.Instant, open, last int64) market.Bar {
	h := mix(c.seed ^ uint64(ts) ^ uint64(tf)<<50) //nolint:gosec // any bits do
	reach := c.Price*tick/2000 + 2
	high := max(open, last) + int64(h&0xffff)%reach
	low := max(min(open, last)-int64(h>>16&0xffff)%reach, 1)
	minutes := int64(tf.Step() / time.Minute)
	volume := int64(h>>32&0xfff) * minutes
	return market.Bar{
		TS: ts, Open: float64(open) / tick, High: float64(high) / tick, Low: float64(low) / tick,
		Close: float64(last) / tick, Volume: float64(volume) / tick,
	}
}
