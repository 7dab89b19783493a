package market

import (
	"errors"
	"fmt"
	"strings"
	"time"
)

// ErrTimeframe is returned by ParseTimeframe, wrapped with the text.
var ErrTimeframe = errors.New("unknown timeframe")

// Timeframe is the length of a bar, one of a closed list. The zero value is none of them.
type Timeframe uint8

// The timeframes, shortest first.
const (
	M1 Timeframe = iota + 1
	M3
	M5
	M15
	M30
	H1
	H2
	H4
	H6
	H8
	H12
	D1
	D3
	W1
	Mo1
)

const day = 24 * time.Hour

// week1 is the first Monday after the epoch: weeks open on Mondays (PIPELINE 2), the epoch was a Thursday.
const week1 = Instant(4 * day / time.Microsecond)

var timeframes = [...]struct {
	name string
	step time.Duration
}{
	M1: {"1m", time.Minute}, M3: {"3m", 3 * time.Minute}, M5: {"5m", 5 * time.Minute},
	M15: {"15m", 15 * time.Minute}, M30: {"30m", 30 * time.Minute},
	H1: {"1h", time.Hour}, H2: {"2h", 2 * time.Hour}, H4: {"4h", 4 * time.Hour}, H6: {"6h", 6 * time.Hour},
	H8: {"8h", 8 * time.Hour}, H12: {"12h", 12 * time.Hour},
	D1: {"1d", day}, D3: {"3d", 3 * day}, W1: {"1w", 7 * day}, Mo1: {"1M", 30 * day},
}

// Timeframes returns all timeframes, shortest first. The caller owns the slice.
func Timeframes() []Timeframe {
	all := make([]Timeframe, 0, len(timeframes)-1)
	for tf := M1; tf <= Mo1; tf++ {
		all = append(all, tf)
	}
	return all
}

// TimeframeNames returns the names of all timeframes, shortest first, joined by ", ", for error texts.
func TimeframeNames() string {
	names := make([]string, 0, len(timeframes)-1)
	for _, tf := range Timeframes() {
		names = append(names, tf.String())
	}
	return strings.Join(names, ", ")
}

// ParseTimeframe returns the timeframe of exactly that name ("1M" is the month, "1m" the minute). Any other text is an
// error that wraps ErrTimeframe.
func ParseTimeframe(text string) (Timeframe, error) {
	for tf := M1; tf <= Mo1; tf++ {
		if timeframes[tf].name == text {
			return tf, nil
		}
	}
	return 0, fmt.Errorf("%w %q", ErrTimeframe, text)
}

// Valid reports whether tf is one of the list.
func (tf Timeframe) Valid() bool { return tf >= M1 && tf <= Mo1 }

// String returns the name as it is stored, or "invalid".
func (tf Timeframe) String() string {
	if !tf.Valid() {
		return "invalid"
	}
	return timeframes[tf].name
}

// Step returns the length of a bar. A month's is nominal, 30 days: use Next and Count for the grid.
func (tf Timeframe) Step() time.Duration { return timeframes[tf].step }

// Divides reports whether each bar of longer is made of whole bars of tf: wherever one of longer opens, so does one of tf
// (PIPELINE 2). Weeks and months are made of days and of what divides a day, never of longer bars.
func (tf Timeframe) Divides(longer Timeframe) bool {
	if !tf.Valid() || !longer.Valid() || tf >= longer {
		return false
	}
	if longer == W1 || longer == Mo1 {
		return tf <= D1
	}
	return longer.Step()%tf.Step() == 0
}

// Base returns the longest of native that divides tf, from whose bars those of tf are derived (PLANNER 20), and false where
// there is none.
func (tf Timeframe) Base(native []Timeframe) (base Timeframe, found bool) {
	for _, n := range native {
		if n.Divides(tf) && n > base {
			base, found = n, true
		}
	}
	return base, found
}

// Floor returns the open of the bar that i lies in. The grid is PIPELINE 2: multiples of the step since the epoch, weeks
// from Monday, months by the calendar, all in UTC. The infinities stay.
func (tf Timeframe) Floor(i Instant) Instant {
	if i.IsInf() {
		return i
	}
	if tf == Mo1 {
		t := i.Time()
		return FromTime(time.Date(t.Year(), t.Month(), 1, 0, 0, 0, 0, time.UTC))
	}
	step := Instant(tf.Step() / time.Microsecond)
	var origin Instant
	if tf == W1 {
		origin = week1
	}
	past := (i - origin) % step
	if past < 0 {
		past += step
	}
	if i < NegInf+1+past {
		return NegInf
	}
	return i - past
}

// Ceil returns the first open at or after i. The infinities stay.
func (tf Timeframe) Ceil(i Instant) Instant {
	floor := tf.Floor(i)
	if floor == i {
		return i
	}
	return tf.Next(floor)
}

// Next returns the open of the bar after the one that i lies in, which is the close of that bar.
func (tf Timeframe) Next(i Instant) Instant { return tf.Add(i, 1) }

// Add returns the open n bars after (before, for a negative n) the bar that i lies in. The infinities stay.
func (tf Timeframe) Add(i Instant, n int64) Instant {
	floor := tf.Floor(i)
	if floor.IsInf() {
		return floor
	}
	if tf == Mo1 {
		const limit = 12 * 200000
		if n > limit {
			return PosInf
		}
		if n < -limit {
			return NegInf
		}
		t := floor.Time()
		return FromTime(time.Date(t.Year(), t.Month()+time.Month(n), 1, 0, 0, 0, 0, time.UTC))
	}
	step := int64(tf.Step() / time.Microsecond)
	switch {
	case n > 0 && n > (int64(PosInf)-max(int64(floor), 0))/step:
		return PosInf
	case n < 0 && n < (int64(NegInf)-min(int64(floor), 0))/step:
		return NegInf
	}
	return floor + Instant(n*step)
}

// OnGrid reports whether i is the open of a bar.
func (tf Timeframe) OnGrid(i Instant) bool { return !i.IsInf() && tf.Floor(i) == i }

// Count returns the number of bars that open inside r. A range that is open to an infinity counts to the largest int64.
func (tf Timeframe) Count(r Range) int64 {
	if r.Empty() {
		return 0
	}
	if r.Start == NegInf || r.End == PosInf {
		return int64(PosInf)
	}
	first, end := tf.Ceil(r.Start), tf.Ceil(r.End)
	if first >= end {
		return 0
	}
	if tf == Mo1 {
		a, b := first.Time(), end.Time()
		return int64(b.Year()-a.Year())*12 + int64(b.Month()) - int64(a.Month())
	}
	return int64(end-first) / int64(tf.Step()/time.Microsecond)
}
