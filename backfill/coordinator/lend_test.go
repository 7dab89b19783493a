package coordinator_test

import (
	"context"
	"errors"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"barkeep/backfill/coordinator"
	"barkeep/backfill/coverage"
	"barkeep/backfill/source"
	"barkeep/backfill/source/sim"
	"barkeep/backfill/source/sourcetest"
	"barkeep/internal/market"
)

// venue is the simulated market under another name, served without a prefix: its prices are others, and it keeps bars for a while only.
type venue struct {
	*counted

	name  string
	plus  float64
	depth atomic.Int64 // a time.Duration, 0 for all there is
	// older has it list NEWUSD since 2015, with the bars of BTCUSD.
	older bool
}

func newVenue(name string, plus float64, native ...market.Timeframe) *venue {
	return &venue{counted: &counted{Source: sim.New(sim.Config{PageLimit: 200}), native: native, pages: map[market.Range]int{}}, name: name, plus: plus}
}

func (v *venue) Name() string { return v.name }

func (v *venue) Info() source.Info {
	info := v.counted.Info()
	info.PrefixOnly = false
	if depth := time.Duration(v.depth.Load()); depth > 0 {
		info.Depth = map[market.Timeframe]time.Duration{}
		for _, tf := range info.Native {
			info.Depth[tf] = depth
		}
	}
	return info
}

func (v *venue) Instruments(ctx context.Context) ([]source.Instrument, error) {
	list, err := v.counted.Instruments(ctx)
	btc := list[slices.IndexFunc(list, func(i source.Instrument) bool { return i.Symbol == "BTCUSD" })]
	for i := range list {
		if list[i].Symbol == "NEWUSD" && v.older {
			list[i].VendorID, list[i].Listed = btc.VendorID, btc.Listed
		}
	}
	return slices.DeleteFunc(list, func(i source.Instrument) bool {
		return v.older && i.Symbol == "BTCUSD" || v.plus > 0 && i.Symbol == "GAPUSD"
	}), err
}

func (v *venue) Fetch(ctx context.Context, q source.Query) (source.Answer, error) {
	answer, err := v.counted.Fetch(ctx, q)
	answer.Bars = v.priced(answer.Bars)
	return answer, err
}

func (v *venue) priced(bars []market.Bar) []market.Bar {
	for i := range bars {
		b := &bars[i]
		b.Open, b.High, b.Low, b.Close = b.Open+v.plus, b.High+v.plus, b.Low+v.plus, b.Close+v.plus
	}
	return bars
}

// bars are those that the venue has of BTCUSD.
func (v *venue) bars(tf market.Timeframe, r market.Range) []market.Bar {
	return v.barsOf("BTCUSD", tf, r)
}

func (v *venue) barsOf(id string, tf market.Timeframe, r market.Range) []market.Bar {
	coins := sim.Coins()
	coin := coins[slices.IndexFunc(coins, func(c sim.Coin) bool { return c.Symbol() == id })]
	return v.priced(coin.Bars(nil, tf, r))
}

// mixing is a rig with two venues, of which the first keeps ten days and may be lent bars by the second.
func mixing(t *testing.T, first, second *venue) *rig {
	t.Helper()
	r := newRig(t, sim.Config{})
	first.depth.Store(int64(10 * 24 * time.Hour))
	r.others = []source.Source{first, second}
	r.fallback = map[string][]string{first.name: {second.name}}
	return r
}

// last returns the range of whole bars of tf from so many days ago to so many days ago.
func last(tf market.Timeframe, from, to int) market.Range {
	now := market.FromTime(time.Now())
	return market.Range{Start: tf.Floor(now.Shift(-time.Duration(from) * 24 * time.Hour)), End: tf.Floor(now.Shift(-time.Duration(to) * 24 * time.Hour))}
}

func asking(tf market.Timeframe, r market.Range) coordinator.Request {
	return coordinator.Request{Requirements: []market.Requirement{{Series: btcusd(tf), Ranges: market.RangeSet{r}}}}
}

func btcusd(tf market.Timeframe) market.Series { return market.Series{Symbol: "BTCUSD", Timeframe: tf} }

// seam returns where the bars of the second venue end, as the coverage says; it checks that there is one such place.
func seam(t *testing.T, c *coordinator.Coordinator, tf market.Timeframe, r market.Range, first, second *venue) market.Instant {
	t.Helper()
	at := r.Start
	for _, s := range c.Snapshot().Segments(btcusd(tf)) {
		if s.Source == second.name {
			require.True(t, s.State.Settled())
			require.Equal(t, at, max(s.Range.Start, r.Start), "one stretch is lent")
			require.Greater(t, s.RetryAt, market.FromTime(time.Now()))
			at = s.Range.End
			continue
		}
		require.Equal(t, first.name, s.Source)
	}
	return at
}

// The sequence: a source keeps ten days, and a statement wants thirty. Where configuration says so another one has the days before, and nobody
// else's bars are touched; all of it is fetched once, however many ask.
func TestRule10_AnotherVenueLends(t *testing.T) {
	t.Parallel()
	first, second := newVenue("first", 0), newVenue("second", 1000)
	r := mixing(t, first, second)
	r.consumer()
	r.producer()
	c, plain := r.coordinator(), r.coordinatorOf(nil)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	whole := last(market.H1, 30, 2)

	_, err := plain.Ensure(ctx, asking(market.H1, whole), nil)
	require.ErrorContains(t, err, "first keeps 1h bars for 10 days only")
	var told *coordinator.Error
	require.ErrorAs(t, err, &told)
	require.Contains(t, told.Hint(), "second:BTCUSD")
	require.Zero(t, second.fetches.Load(), "without configuration nobody else is asked")
	for _, each := range []*coordinator.Coordinator{c, plain} {
		list, err := each.Explain(ctx, asking(market.H1, whole))
		require.NoError(t, err)
		require.Equal(t, each == c, slices.Equal([]string{"second"}, list[0].Fallback))
	}

	var group sync.WaitGroup
	for range 20 {
		group.Go(func() {
			warnings, err := c.Ensure(ctx, asking(market.H1, whole), nil)
			require.NoError(t, err)
			require.Empty(t, warnings)
		})
	}
	group.Wait()
	edge := seam(t, c, market.H1, whole, first, second)
	require.InDelta(t, 10*24, market.FromTime(time.Now()).Sub(edge).Hours(), 1.1)
	want := slices.Concat(second.bars(market.H1, market.Range{Start: whole.Start, End: edge}), first.bars(market.H1, market.Range{Start: edge, End: whole.End}))
	require.Equal(t, want, r.within(btcusd(market.H1), whole))
	for page, n := range second.asked() {
		require.Equal(t, 1, n, "%s", page)
	}
	asked := first.fetches.Load() + second.fetches.Load()
	_, err = c.Ensure(ctx, asking(market.H1, whole), nil)
	require.NoError(t, err)
	require.Equal(t, asked, first.fetches.Load()+second.fetches.Load())
	require.Zero(t, r.actors.Undeclared())

	_, err = c.Ensure(ctx, coordinator.Request{Requirements: []market.Requirement{{
		Series: market.Series{Symbol: "first:BTCUSD", Timeframe: market.H1}, Ranges: market.RangeSet{whole},
	}}}, nil)
	require.ErrorContains(t, err, "are not available", "who names a venue gets its bars alone")
}

// coordinatorOf starts a coordinator that is told of other fallbacks.
func (r *rig) coordinatorOf(fallback map[string][]string) *coordinator.Coordinator {
	kept := r.fallback
	defer func() { r.fallback = kept }()
	r.fallback = fallback
	return r.coordinator()
}

// all starts a consumer, a producer and a coordinator, and gives a minute.
func (r *rig) all() (*coordinator.Coordinator, context.Context) {
	r.consumer()
	r.producer()
	c := r.coordinator()
	ctx, cancel := context.WithTimeout(r.t.Context(), time.Minute)
	r.t.Cleanup(cancel)
	return c, ctx
}

// within returns the stored bars of r.
func (r *rig) within(series market.Series, in market.Range) []market.Bar {
	return slices.DeleteFunc(r.stored(series), func(b market.Bar) bool { return !in.Contains(b.TS) })
}

func (c *counted) asked() map[market.Range]int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return maps.Clone(c.pages)
}

// A roll-up is made of the bars of both venues: its base may be mixed, and so may the bucket in which they meet. The lender has the base only
// by a roll-up of its own.
func TestRule9_ARollUpOfTwoVenues(t *testing.T) {
	t.Parallel()
	first, second := newVenue("first", 0, market.H1, market.D1), newVenue("second", 1000, market.M15)
	r := mixing(t, first, second)
	c, ctx := r.all()
	whole := last(market.H6, 20, 2)
	_, err := c.Ensure(ctx, asking(market.H6, whole), nil)
	require.NoError(t, err)
	edge := seam(t, c, market.H1, whole, first, second)
	lent := sourcetest.RollUp(second.bars(market.M15, market.Range{Start: whole.Start, End: edge}), market.H1)
	base := slices.Concat(lent, first.bars(market.H1, market.Range{Start: edge, End: whole.End}))
	require.Equal(t, sourcetest.RollUp(base, market.H6), r.within(btcusd(market.H6), whole))
	require.Equal(t, market.H6.Ceil(edge), seam(t, c, market.H6, whole, first, second), "the bucket of the seam is lent too")
}

// What the lender has not, and cannot make, it is not asked for; what no source has is an error that says from when one has.
func TestRule10_NoSourceHasIt(t *testing.T) {
	t.Parallel()
	first, second, third := newVenue("first", 0), newVenue("second", 1000), newVenue("third", 2000, market.D1)
	r := mixing(t, first, second)
	second.depth.Store(int64(20 * 24 * time.Hour))
	r.others = append(r.others, third)
	r.fallback["first"] = []string{"third", "second"}
	c, ctx := r.all()
	whole := last(market.H1, 30, 2)
	_, err := c.Ensure(ctx, asking(market.H1, whole), nil)
	require.ErrorContains(t, err, "first keeps 1h bars for 10 days only")
	require.ErrorContains(t, err, "second:BTCUSD: second keeps 1h bars for 20 days only")
	from := market.H1.Ceil(market.FromTime(time.Now()).Shift(-20 * 24 * time.Hour))
	require.ErrorContains(t, err, "there are bars from "+from.String()+" on")
	require.Zero(t, third.fetches.Load())

	req := asking(market.H1, whole)
	req.Mode = coordinator.ModePartial
	warnings, err := c.Ensure(ctx, req, nil)
	require.NoError(t, err)
	require.Len(t, warnings, 1)
	require.Contains(t, warnings[0], "there are bars from")
	edge := seam(t, c, market.H1, market.Range{Start: from, End: whole.End}, first, second)
	want := slices.Concat(second.bars(market.H1, market.Range{Start: from, End: edge}), first.bars(market.H1, market.Range{Start: edge, End: whole.End}))
	require.Equal(t, want, r.within(btcusd(market.H1), whole))

	// The third has days, from always on.
	_, err = c.Ensure(ctx, asking(market.D1, last(market.D1, 40, 2)), nil)
	require.NoError(t, err)
	require.Positive(t, third.fetches.Load())
}

// A source that fails is not gone round.
func TestRule10_AFailureIsNoReasonToMix(t *testing.T) {
	t.Parallel()
	first, second := newVenue("first", 0), newVenue("second", 1000)
	r := mixing(t, first, second)
	fail := func(source.Query) error {
		return &source.Error{Source: "first", Op: "fetch", Err: errors.New("out of order"), Again: true}
	}
	first.fail.Store(&fail)
	c, ctx := r.all()
	_, err := c.Ensure(ctx, asking(market.H1, last(market.H1, 5, 2)), nil)
	require.ErrorContains(t, err, "out of order")
	require.Zero(t, second.fetches.Load())
}

// The sequence: bars are lent, and the time comes at which the source is to be asked again. It still cannot say: the bars stay, nothing is fetched
// anew. It fails: they are given with a warning. It has them: they are its own from then on, and so is what was made of them.
func TestRule10_TheSourceIsAskedAgain(t *testing.T) {
	t.Parallel()
	first, second := newVenue("first", 0, market.H1), newVenue("second", 1000, market.H1)
	r := mixing(t, first, second)
	c, ctx := r.all()
	whole := last(market.H6, 20, 12)
	_, err := c.Ensure(ctx, asking(market.H6, whole), nil)
	require.NoError(t, err)
	lent := second.bars(market.H1, whole)
	require.Equal(t, lent, r.within(btcusd(market.H1), whole))
	asked := second.fetches.Load()

	r.due(c)
	_, err = c.Ensure(ctx, asking(market.H6, whole), nil)
	require.NoError(t, err)
	require.Equal(t, whole.End, min(seam(t, c, market.H1, whole, first, second), whole.End))
	require.Equal(t, whole.End, min(seam(t, c, market.H6, whole, first, second), whole.End))
	require.Equal(t, asked, second.fetches.Load())
	require.Equal(t, lent, r.within(btcusd(market.H1), whole))

	r.due(c)
	first.depth.Store(0)
	fail := func(source.Query) error {
		return &source.Error{Source: "first", Op: "fetch", Err: errors.New("out of order"), Again: true}
	}
	first.fail.Store(&fail)
	for _, tf := range []market.Timeframe{market.H1, market.H6} {
		warnings, err := c.Ensure(ctx, asking(tf, whole), nil)
		require.NoError(t, err, "%s", tf)
		require.NotEmpty(t, warnings)
		require.Contains(t, warnings[0], "are another source's still")
	}

	first.fail.Store(nil)
	for warned := true; warned; { // while the breaker is open; each has no memory of the failure
		warnings, err := r.coordinator().Ensure(ctx, asking(market.H6, whole), nil)
		require.NoError(t, err)
		warned = len(warnings) > 0
	}
	own := first.bars(market.H1, whole)
	require.Equal(t, own, r.within(btcusd(market.H1), whole))
	require.Equal(t, sourcetest.RollUp(own, market.H6), r.within(btcusd(market.H6), whole))
}

// due lets the time pass at which what is lent is to be asked for again.
func (r *rig) due(c *coordinator.Coordinator) {
	r.t.Helper()
	_, err := r.db.Pool.Exec(r.t.Context(), `WITH due AS (UPDATE barkeep.coverage SET retry_at = now() - interval '1 s' WHERE retry_at IS NOT NULL RETURNING symbol)
	  UPDATE barkeep.symbol SET version = version + 1 WHERE symbol IN (SELECT symbol FROM due)`)
	require.NoError(r.t, err)
	now := market.FromTime(time.Now())
	require.Eventually(r.t, func() bool {
		return !slices.ContainsFunc(c.Snapshot().Segments(btcusd(market.H1)), func(s coverage.Segment) bool { return s.RetryAt > now })
	}, 30*time.Second, 5*time.Millisecond)
}

// Who wants the newest n bars has them counted over both venues.
func TestRule10_BarsAreCountedOverVenues(t *testing.T) {
	t.Parallel()
	first, second := newVenue("first", 0), newVenue("second", 1000)
	r := mixing(t, first, second)
	c, ctx := r.all()
	const n = 600
	_, err := c.Ensure(ctx, coordinator.Request{Requirements: []market.Requirement{{
		Series: btcusd(market.H1), Counts: []market.Count{{N: n, Newest: true, Within: market.Always}},
	}}}, nil)
	require.NoError(t, err)
	stored := r.stored(btcusd(market.H1))
	require.GreaterOrEqual(t, len(stored), n)
	edge := seam(t, c, market.H1, market.Range{Start: stored[0].TS, End: market.PosInf}, first, second)
	require.InDelta(t, 10*24, market.FromTime(time.Now()).Sub(edge).Hours(), 1.1)
}

// The sequence: a venue lists a coin years after another did. All of its history is the other's before that, in days and in the weeks that are made
// of them, also where it was known before that the first had nothing; and what both had not is absent, however it is asked for.
func TestRule10_BeforeTheListing(t *testing.T) {
	t.Parallel()
	first, second := newVenue("first", 0, market.D1), newVenue("second", 1000, market.D1)
	second.older = true
	r := mixing(t, first, second)
	first.depth.Store(0)
	r.consumer()
	r.producer()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	end := market.W1.Floor(last(market.D1, 2, 2).End)
	everything := market.Range{Start: market.NegInf, End: end}
	days, weeks := market.Series{Symbol: "NEWUSD", Timeframe: market.D1}, market.Series{Symbol: "NEWUSD", Timeframe: market.W1}
	all := func(c *coordinator.Coordinator, series market.Series, r market.Range) error {
		_, err := c.Ensure(ctx, coordinator.Request{Requirements: []market.Requirement{{Series: series, Ranges: market.RangeSet{r}}}}, nil)
		return err
	}
	listed := at("2023-06-15T00:00:00Z")
	own := first.barsOf("NEWUSD", market.D1, market.Range{Start: listed, End: end})
	require.NoError(t, all(r.coordinatorOf(nil), weeks, everything))
	require.Equal(t, own, r.within(days, everything))
	require.Zero(t, second.fetches.Load())

	c := r.coordinator()
	list, err := c.Explain(ctx, coordinator.Request{Requirements: []market.Requirement{{Series: weeks, Ranges: market.RangeSet{everything}}}})
	require.NoError(t, err)
	require.Equal(t, market.W1.Floor(at("2015-01-01T00:00:00Z")), list[0].Missing.Bounds().Start)
	require.Equal(t, at("2015-01-01T00:00:00Z"), list[0].BaseMissing.Bounds().Start)
	require.NoError(t, all(c, weeks, everything))
	want := slices.Concat(second.bars(market.D1, market.Range{Start: at("2015-01-01T00:00:00Z"), End: listed}), own)
	require.Equal(t, want, r.within(days, everything))
	require.Equal(t, sourcetest.RollUp(want, market.W1), r.within(weeks, everything))
	segments := c.Snapshot().Segments(days)
	require.Equal(t, []any{coverage.Absent, "second", market.NegInf}, []any{segments[0].State, segments[0].Source, segments[0].Range.Start})
	asked := first.fetches.Load() + second.fetches.Load()
	for _, each := range []market.Series{days, weeks} {
		require.NoError(t, all(r.coordinator(), each, everything))
	}
	require.Equal(t, asked, first.fetches.Load()+second.fetches.Load(), "all of it is known")
	_, err = c.Ensure(ctx, coordinator.Request{Requirements: []market.Requirement{{
		Series: days, Counts: []market.Count{{N: 1 << 20, Newest: true, Within: everything}, {N: 10, Within: everything}},
	}}}, nil)
	require.NoError(t, err, "who counts comes to an end")

	// The pair that the other venue has not is its own venue's alone, and absent before its listing.
	gap := market.Series{Symbol: "GAPUSD", Timeframe: market.D1}
	require.NoError(t, all(c, gap, everything))
	segments = c.Snapshot().Segments(gap)
	require.Equal(t, []any{coverage.Absent, "first"}, []any{segments[0].State, segments[0].Source})
}

// The first lender lists the coin later than the second: what lies before is asked of that one.
func TestRule10_TheNextLenderIsOlder(t *testing.T) {
	t.Parallel()
	first, second, third := newVenue("first", 0, market.D1), newVenue("second", 1000, market.D1), newVenue("third", 2000, market.D1)
	third.older = true
	r := mixing(t, first, second)
	r.others = append(r.others, third)
	r.fallback["first"] = []string{"second", "third"}
	c, ctx := r.all()
	series, end := market.Series{Symbol: "NEWUSD", Timeframe: market.D1}, last(market.D1, 2, 2).End
	_, err := c.Ensure(ctx, coordinator.Request{Requirements: []market.Requirement{{
		Series: series, Counts: []market.Count{{N: 2000, Newest: true, Within: market.Range{Start: market.NegInf, End: end}}},
	}}}, nil)
	require.NoError(t, err)
	listed, reach := at("2023-06-15T00:00:00Z"), market.D1.Ceil(market.FromTime(time.Now()).Shift(-10*24*time.Hour))
	want := slices.Concat(
		third.bars(market.D1, market.Range{Start: at("2015-01-01T00:00:00Z"), End: listed}),
		second.barsOf("NEWUSD", market.D1, market.Range{Start: listed, End: reach}),
		first.barsOf("NEWUSD", market.D1, market.Range{Start: reach, End: end}),
	)
	got := r.within(series, market.Range{Start: market.NegInf, End: end})
	require.GreaterOrEqual(t, len(got), 2000)
	require.Equal(t, want[len(want)-len(got):], got)
}

// The first lender makes what is asked for of bars that reach back for a while only. It gives what those make, and the next one what is before.
func TestRule10_ALenderThatRollsUpForAWhile(t *testing.T) {
	t.Parallel()
	first, second, third := newVenue("first", 0, market.H6), newVenue("second", 1000, market.H1), newVenue("third", 2000, market.H6)
	r := mixing(t, first, second)
	second.depth.Store(int64(20 * 24 * time.Hour))
	r.others = append(r.others, third)
	r.fallback["first"] = []string{"second", "third"}
	r.consumer()
	r.producer()
	c := r.coordinator()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	whole := last(market.H6, 30, 2)
	_, err := c.Ensure(ctx, asking(market.H6, whole), nil)
	require.NoError(t, err)
	now := market.FromTime(time.Now())
	reach := func(days int) market.Instant { return market.H6.Ceil(now.Shift(-time.Duration(days) * 24 * time.Hour)) }
	deep := market.H6.Ceil(market.H1.Ceil(now.Shift(-20 * 24 * time.Hour)))
	want := slices.Concat(
		third.bars(market.H6, market.Range{Start: whole.Start, End: deep}),
		sourcetest.RollUp(second.bars(market.H1, market.Range{Start: deep, End: reach(10)}), market.H6),
		first.bars(market.H6, market.Range{Start: reach(10), End: whole.End}),
	)
	require.Equal(t, want, r.within(btcusd(market.H6), whole))
}
