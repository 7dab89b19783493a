package market

import (
	"math"
	"time"
)

// Instant is a point in time in microseconds since 1970-01-01 00:00 UTC, the resolution of PostgreSQL's timestamptz.
// The zero value is the epoch itself.
type Instant int64

// NegInf and PosInf are PostgreSQL's -infinity and infinity.
const (
	NegInf Instant = math.MinInt64
	PosInf Instant = math.MaxInt64
)

// FromTime returns the instant of t, cut to microseconds. Times too far away for an Instant become an infinity.
func FromTime(t time.Time) Instant {
	switch year := t.Year(); {
	case year < -290000:
		return NegInf
	case year > 290000:
		return PosInf
	}
	return Instant(t.UnixMicro())
}

// IsInf reports whether i is one of the two infinities.
func (i Instant) IsInf() bool { return i == NegInf || i == PosInf }

// Time returns i in UTC. The infinities have no time; callers ask IsInf first.
func (i Instant) Time() time.Time { return time.UnixMicro(int64(i)).UTC() }

// Shift returns i moved by d, saturating at the infinities; an infinity stays where it is.
func (i Instant) Shift(d time.Duration) Instant {
	if i.IsInf() {
		return i
	}
	us := Instant(d.Microseconds())
	switch {
	case us > 0 && i > PosInf-us:
		return PosInf
	case us < 0 && i < NegInf-us:
		return NegInf
	}
	return i + us
}

// Sub returns i − j, saturating at the bounds of time.Duration.
func (i Instant) Sub(j Instant) time.Duration {
	const limit = math.MaxInt64 / int64(time.Microsecond)
	if i.IsInf() || j.IsInf() {
		if i < j {
			return math.MinInt64
		}
		return math.MaxInt64
	}
	d := int64(i) - int64(j)
	switch {
	case d > limit || (i > j && d < 0):
		return math.MaxInt64
	case d < -limit || (i < j && d > 0):
		return math.MinInt64
	}
	return time.Duration(d) * time.Microsecond
}

// String returns i as RFC 3339 in UTC, or "-infinity" and "infinity" as PostgreSQL writes them.
func (i Instant) String() string {
	if i == NegInf {
		return "-infinity"
	}
	if i == PosInf {
		return "infinity"
	}
	return i.Time().Format("2006-01-02T15:04:05.999999Z07:00")
}
