package source

import (
	"cmp"
	"slices"
	"time"

	"barkeep/backfill/coverage"
	"barkeep/internal/market"
)

// MaxSkew is the distance between our clock and a vendor's beyond which its pages are provisional only (PIPELINE 6).
const MaxSkew = coverage.MaxSkew

// Segment is what an answer vouches for in one stretch of its range. A zero RetryAt means none.
type Segment struct {
	Range   market.Range
	State   coverage.State
	Reason  string
	RetryAt market.Instant
}

// UnavailableFor is how long a range stays unavailable before it is asked for again the first time; who has seen it fail
// before makes that longer, up to UnavailableAtMost (PIPELINE 18).
const (
	UnavailableFor    = 30 * time.Second
	UnavailableAtMost = 10 * time.Minute
)

// Judgement is what can be said after one or two readings of a range.
type Judgement struct {
	// Segments are ascending, disjoint and adjacent, on the grid, inside the query's range. They leave out what the answer
	// did not reach (Answer.Full): that is the next page's.
	Segments []Segment
	// Bars are those that go with Segments: the last reading's, and those of the first that the last one lacks where that makes a stretch
	// provisional: a source that took back within a moment what it had shown may have been right the first time, and a statement that
	// is answered from what is provisional must not lack what was seen. They share the memory of the readings' bars.
	Bars []market.Bar
	// Rest is the part of the query's range that the answer did not reach, empty mostly.
	Rest market.Range
	// Again asks for a second reading of the same range within the same job: what is missing could be a mistake. Until then
	// Segments call it provisional, which is safe to publish too.
	Again bool
}

// Judge applies PIPELINE 5 and 6 to the answer to q. earlier is the first reading where last is the second one, else nil.
// What both readings miss is absent, what only last misses is provisional.
func Judge(info Info, q Query, last Answer, earlier *Answer) Judgement {
	tf := q.Series.Timeframe
	if last.Unavailable != "" && len(last.Bars) == 0 {
		return Judgement{Segments: []Segment{unavailable(q.Range, &last)}, Bars: last.Bars}
	}
	j := judge{tf: tf, dense: info.Dense, bars: last.Bars, twice: earlier != nil}
	j.reach = q.Range
	if last.Full && len(last.Bars) > 0 {
		// "Rows = the page limit: nothing beyond the last row in paging direction is vouched for."
		if last.Backwards {
			j.reach.Start = last.Bars[0].TS
			j.out.Rest = market.Range{Start: q.Range.Start, End: j.reach.Start}
		} else {
			j.reach.End = tf.Next(last.Bars[len(last.Bars)-1].TS)
			j.out.Rest = market.Range{Start: j.reach.End, End: q.Range.End}
		}
		if j.out.Rest.Empty() {
			j.out.Rest = market.Range{}
		}
	}
	// "Final needs close + lag to have passed by the earlier of our clock and the vendor's": both as of the request.
	asOf := last.Sent.Shift(min(last.Skew, 0))
	j.final = tf.Floor(asOf.Shift(-info.Finality.Of(tf)))
	j.absent = tf.Floor(asOf.Shift(-max(info.Absence.Of(tf), info.Finality.Of(tf))))
	if last.Unfinished != 0 {
		j.final, j.absent = min(j.final, last.Unfinished), min(j.absent, last.Unfinished)
	}
	if last.Skew.Abs() > MaxSkew || last.Doubtful {
		j.final, j.absent = market.NegInf, market.NegInf
	}
	if earlier != nil {
		j.seen = make(map[market.Instant]market.Bar, len(earlier.Bars))
		for _, b := range earlier.Bars {
			j.seen[b.TS] = b
		}
	}
	if last.Unavailable != "" {
		// The rows begin where the source's history does, or where the instrument's does: which, nobody can say.
		front := market.Range{Start: j.reach.Start, End: max(last.Bars[0].TS, j.reach.Start)}
		if !front.Empty() {
			j.out.Segments = append(j.out.Segments, unavailable(front, &last))
		}
		j.reach.Start = front.End
	}
	j.run()
	j.out.Bars = last.Bars
	if len(j.kept) > 0 {
		j.out.Bars = append(slices.Clone(last.Bars), j.kept...)
		slices.SortFunc(j.out.Bars, func(a, b market.Bar) int { return cmp.Compare(a.TS, b.TS) })
	}
	return j.out
}

func unavailable(r market.Range, a *Answer) Segment {
	return Segment{Range: r, State: coverage.Unavailable, Reason: a.Unavailable, RetryAt: a.Sent.Shift(UnavailableFor)}
}

// judge walks the bars of a page once and cuts its range where the state changes.
type judge struct {
	tf    market.Timeframe
	dense bool
	twice bool
	bars  []market.Bar
	reach market.Range
	// final and absent are the ends of what is old enough to be either.
	final, absent market.Instant
	// seen are the bars of the first reading.
	seen map[market.Instant]market.Bar
	// kept are those of the first reading that the last one lacks, and that stay.
	kept []market.Bar
	out  Judgement
}

func (j *judge) run() {
	if j.reach.Empty() {
		return
	}
	at := j.reach.Start
	for i := range j.bars {
		ts := j.bars[i].TS
		if ts > at {
			j.hole(market.Range{Start: at, End: ts}, false)
		}
		at = j.tf.Next(ts)
		j.present(market.Range{Start: ts, End: at})
	}
	if at < j.reach.End {
		j.hole(market.Range{Start: at, End: j.reach.End}, true)
	}
}

// present states bars that were returned.
func (j *judge) present(r market.Range) {
	j.split(r, j.final, coverage.Final)
}

// hole states a stretch without bars; tail is the one beyond the last row, or all of a page without rows.
func (j *judge) hole(r market.Range, tail bool) {
	empty := len(j.bars) == 0
	switch {
	case !j.dense && !tail:
		// "Final reaches to the close of the last row returned."
		j.split(r, j.final, coverage.Final)
	case !j.dense && !empty:
		// "One reading settles the tail of a sparse source's page that has rows."
		j.split(r, j.absent, coverage.Absent)
	default:
		// "A hole or tail of a dense source, and a page without rows, are read twice within the same job, and then are absent."
		j.doubt(r, tail)
	}
}

// doubt states a stretch that two readings have to agree on. One without bars behind it may be late, and is read again when it is old alone; one that
// has them is a mistake at any age: a statement that is answered from what is provisional would lack what the next reading has.
func (j *judge) doubt(r market.Range, tail bool) {
	old := market.Range{Start: r.Start, End: min(r.End, j.absent)}
	if !j.twice {
		j.out.Again = j.out.Again || !tail || !old.Empty()
		j.add(r, coverage.Provisional)
		return
	}
	if len(j.seen) == 0 {
		j.split(r, j.absent, coverage.Absent)
		return
	}
	for ts := r.Start; ts < r.End; {
		next := j.tf.Next(ts)
		state := coverage.Absent
		b, withdrawn := j.seen[ts]
		if withdrawn {
			j.kept = append(j.kept, b)
		}
		if withdrawn || ts >= j.absent {
			state = coverage.Provisional
		}
		j.add(market.Range{Start: ts, End: next}, state)
		ts = next
	}
}

// split states what lies before until as state and the rest as provisional.
func (j *judge) split(r market.Range, until market.Instant, state coverage.State) {
	if settled := (market.Range{Start: r.Start, End: min(r.End, until)}); !settled.Empty() {
		j.add(settled, state)
	}
	if young := (market.Range{Start: max(r.Start, until), End: r.End}); !young.Empty() {
		j.add(young, coverage.Provisional)
	}
}

// add appends a segment, or lets the one before grow where the state is the same.
func (j *judge) add(r market.Range, state coverage.State) {
	if n := len(j.out.Segments) - 1; n >= 0 && j.out.Segments[n].State == state && j.out.Segments[n].Range.End == r.Start {
		j.out.Segments[n].Range.End = r.End
		return
	}
	j.out.Segments = append(j.out.Segments, Segment{Range: r, State: state})
}
