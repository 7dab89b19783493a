package coordinator

import (
	"time"

	"github.com/google/uuid"
	"github.com/twmb/franz-go/pkg/kgo"

	"barkeep/backfill/coverage"
	"barkeep/backfill/topic"
	"barkeep/internal/market"
)

// A timeframe that its source has not is rolled up from the longest that the source has and that divides it (PLANNER 20). Its
// gap is first one of the base, rounded outward, which is filled as if the statement had asked for it; once nothing of the
// base is missing there, an order to roll up is published as a job of its own, and ingest does the work (PIPELINE 9). A waiter
// is released by the coverage of what it reads, never by that of the base. A crash between the two leaves the base covered and
// the gap as it was: who asks next repeats the order, and two who ask at once find that the second changes nothing.

// derive notes where the part's bars come from: it makes the part of the base that a derived one waits for.
func (f *filling) derive(p *part) error {
	base, found := p.binding.Base(p.series.Timeframe)
	if !found {
		return noTimeframe(p.series, p.binding)
	}
	if base == p.series.Timeframe {
		p.from = nil
		return nil
	}
	series := market.Series{Symbol: p.series.Symbol, Timeframe: base}
	for _, b := range f.parts {
		if b.base && b.series == series && b.lends == p.lends {
			p.from = b
			return nil
		}
	}
	p.from = &part{series: series, base: true, lends: p.lends}
	f.parts = append(f.parts, p.from)
	return nil
}

// needBases has the parts of bases need what is missing of those that are rolled up from them.
func (f *filling) needBases() {
	for _, b := range f.parts {
		if !b.base || b.lends != nil {
			continue
		}
		var need market.RangeSet
		for _, p := range f.parts {
			if p.from == b {
				need = need.Union(p.missing)
			}
		}
		b.need(need)
	}
}

// waiting returns the buckets of the part's gap whose base is missing still.
func (p *part) waiting() market.RangeSet {
	if p.from == nil {
		return nil
	}
	return p.missing.Intersect(p.from.missing.Outward(p.series.Timeframe))
}

// ready returns what of the part's gap can be asked for. A roll-up waits for all of its base, but in mode partial: there the
// bars that could be made by its end are the answer.
func (f *filling) ready(p *part) market.RangeSet {
	waiting := p.waiting()
	switch {
	case waiting.Empty():
		return p.missing
	case f.req.Mode != ModePartial:
		return nil
	}
	ready := p.missing.Subtract(waiting)
	return ready[max(len(ready)-maxJobsOfPart, 0):]
}

// excusedByBase excuses what is left of a roll-up whose base could not be refreshed: its bars are as old as the base's, of
// which the user was told. It reports whether that is all that is left.
func (f *filling) excusedByBase(p *part, left market.RangeSet) bool {
	if p.from == nil || p.from.excused.Empty() || !left.Subtract(p.from.excused.Outward(p.series.Timeframe)).Empty() {
		return false
	}
	index := f.c.Snapshot()
	if old := index.Missing(p.series, left, f.stale(p), f.now); !old.Subtract(index.Due(p.series, old, f.now)).Empty() {
		return false
	}
	p.excused = p.excused.Union(left)
	return true
}

// rollUpBars is about how many bars of the base one order reads, lentBars how many one that lends reads and writes: its transaction holds
// the symbol's lock for as long.
const (
	rollUpBars = 150_000
	lentBars   = 50_000
)

// records returns the records that publish the job: one for the producers, or for a roll-up orders of bounded size to ingest
// and the end of the job.
func (c *Coordinator) records(j *job) []*kgo.Record {
	if !j.base.Valid() {
		return []*kgo.Record{c.config.Names.JobRecord(j.record)}
	}
	var records []*kgo.Record
	for _, r := range pieces(j.record.Range, j.record.Series.Timeframe, j.base, j.life, j.most()) {
		records = append(records, c.config.Names.RollUpRecord(topic.RollUp{
			RecordID: uuid.NewString(), Deployment: c.config.Deployment, JobID: j.record.ID, Series: j.record.Series, Base: j.base,
			Lender: j.lender, Range: r, AskedAt: j.record.AskedAt, Source: j.record.Source, Generation: j.record.Generation,
		}))
	}
	return append(records, c.config.Names.EndRecord(topic.End{
		RecordID: uuid.NewString(), Deployment: c.config.Deployment, JobID: j.record.ID, Series: j.record.Series, State: topic.Done,
	}))
}

// held is where there may be bars of the base of a part: the life of its instrument, and what was lent before that.
func (f *filling) held(p *part) market.Range {
	life := p.binding.Life(f.now).Bounds()
	for _, s := range f.c.Snapshot().Segments(p.from.series) {
		if s.State == coverage.Final {
			life.Start = min(life.Start, s.Range.Start)
			break
		}
	}
	return life
}

// most is about how many bars of its base an order of the job reads.
func (j *job) most() int64 {
	if j.lender != "" {
		return lentBars
	}
	return rollUpBars
}

// pieces cuts r, newest last, into ranges of about bars bars of the base. What lies before the instrument's life has no
// bars to read and is the first piece's.
func pieces(r market.Range, tf, base market.Timeframe, life market.Range, bars int64) []market.Range {
	step := max(bars/int64(tf.Step()/base.Step()), 1)
	cut := max(r.Start, tf.Floor(life.Start))
	var list []market.Range
	for start := r.Start; start < r.End; start = cut {
		if cut = tf.Add(cut, step); cut.IsInf() || cut > r.End {
			cut = r.End
		}
		list = append(list, market.Range{Start: start, End: cut})
	}
	return list
}

// stale is the age up to which a tail of the part that could not be refreshed is given with a warning (DESIGN §9).
func (f *filling) stale(p *part) time.Duration {
	return staleFactor * coverage.Freshness(p.series.Timeframe, f.req.Freshness)
}
