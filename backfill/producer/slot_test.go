package producer

import (
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"barkeep/backfill/coverage"
	"barkeep/backfill/topic"
	"barkeep/internal/market"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// TestRule16_SlotsPartitionTime: every bar lies in one slot of limit bars, the same whoever asks.
func TestRule16_SlotsPartitionTime(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		tf := rapid.SampledFrom(market.Timeframes()).Draw(t, "tf")
		limit := rapid.Int64Range(1, 8192).Draw(t, "limit")
		i := market.Instant(rapid.Int64Range(-2e15, 4e15).Draw(t, "i"))
		slot := slotOf(tf, limit, i)
		require.True(t, slot.Contains(i))
		require.Equal(t, limit, tf.Count(slot))
		require.Equal(t, slot, slotOf(tf, limit, slot.Start))
		require.Equal(t, slot, slotOf(tf, limit, slot.End-1))
		require.Equal(t, slot.End, slotOf(tf, limit, slot.End).Start)
	})
}

func TestPublishedPagesCountUntilTheyShouldBeIngested(t *testing.T) {
	t.Parallel()
	clock := time.Unix(1_700_000_000, 0)
	table := newSlotTable(coverage.NewStore(nil, coverage.Config{}), func() time.Time { return clock })
	series := market.Series{Symbol: "sim:BTCUSD", Timeframe: market.M1}
	minute := market.Instant(60_000_000)
	asked := market.FromTime(clock)
	table.published(&topic.Page{Series: series, Generation: 1, FetchedAt: asked, Segments: []topic.Segment{
		{Range: market.Range{Start: 0, End: 10 * minute}, State: coverage.Final},
		{Range: market.Range{Start: 10 * minute, End: 20 * minute}, State: coverage.Provisional},
	}})
	all := market.RangeSet{{Start: 0, End: 30 * minute}}
	require.Equal(t, market.RangeSet{{Start: 20 * minute, End: 30 * minute}}, table.missing(series, 1, all, asked))
	require.Equal(t, market.RangeSet{{Start: 10 * minute, End: 30 * minute}}, table.missing(series, 1, all, asked.Shift(2*time.Second)))
	require.Equal(t, all, table.missing(series, 2, all, asked), "another generation")
	clock = clock.Add(sentFor + time.Second)
	require.Equal(t, all, table.missing(series, 1, all, asked))
}

func TestOffsetsAreMarkedInOrder(t *testing.T) {
	t.Parallel()
	p := &Producer{commit: make(chan struct{}, 1)}
	owned := &partition{next: -1, open: []tracked{{offset: 5}, {offset: 6}, {offset: 9}}}
	p.endLocked(owned, 6)
	require.Equal(t, int64(-1), owned.next)
	p.endLocked(owned, 5)
	require.Equal(t, int64(7), owned.next)
	p.endLocked(owned, 9)
	require.Equal(t, int64(10), owned.next)
	require.Empty(t, owned.open)
}

func TestWhatTheLogLostBecomesAGap(t *testing.T) {
	t.Parallel()
	clock := time.Unix(1_700_000_000, 0)
	table := newSlotTable(coverage.NewStore(nil, coverage.Config{}), func() time.Time { return clock })
	series := market.Series{Symbol: "sim:BTCUSD", Timeframe: market.M1}
	key := seriesKey{series, 1}
	early, late := slotOf(market.M1, 1000, 0), slotOf(market.M1, 1000, 1e12)
	publish := func(r market.Range) {
		table.published(&topic.Page{
			Series: series, Generation: 1, FetchedAt: 1, Segments: []topic.Segment{{Range: r, State: coverage.Final}},
		})
	}
	missing := func() market.RangeSet { return table.missing(series, 1, market.NewRangeSet(early, late), 0) }
	first, second := uuid.New(), uuid.New()

	publish(early)
	mark := table.mark()
	publish(late) // while the end of the first job is on its way: it may come after that
	table.closed(key, mark, first)
	require.Equal(t, []uuid.UUID{first}, table.closers(key))
	clock = clock.Add(sentFor + time.Second)
	require.Equal(t, market.RangeSet{late}, missing(), "ingest is behind: what an end follows is not fetched again")
	publish(late)
	table.drop(key, nil)
	require.Empty(t, missing(), "nothing has ended")
	table.drop(key, []uuid.UUID{first})
	require.Equal(t, market.RangeSet{early}, missing())
	table.closed(key, table.mark(), second)
	table.drop(key, table.closers(key))
	require.Equal(t, market.NewRangeSet(early, late), missing())
	require.Empty(t, table.ends)
}

// The sequence: the log loses a page and the end of its job, of whose coordinator nothing is left. The next job for the same bars finds them
// published and ends with nothing; when that end is in the database the page never will be, so the job after it fetches. Before,
// each ended with nothing until somebody took the first one up, which takes half a minute and more.
func TestRule15_AnyEndBehindALostPageTells(t *testing.T) {
	t.Parallel()
	table := newSlotTable(coverage.NewStore(nil, coverage.Config{}), time.Now)
	series := market.Series{Symbol: "sim:BTCUSD", Timeframe: market.M1}
	key, r := seriesKey{series, 1}, slotOf(market.M1, 1000, 0)
	table.published(&topic.Page{Series: series, Generation: 1, FetchedAt: 1, Segments: []topic.Segment{{Range: r, State: coverage.Final}}})
	lost, next := uuid.New(), uuid.New()
	table.closed(key, table.mark(), lost)
	require.Empty(t, table.missing(series, 1, market.RangeSet{r}, 0))
	table.closed(key, table.mark(), next)
	require.Equal(t, []uuid.UUID{lost, next}, table.closers(key))
	table.drop(key, []uuid.UUID{next})
	require.Equal(t, market.RangeSet{r}, table.missing(series, 1, market.RangeSet{r}, 0))
	require.Empty(t, table.ends)
	for range 3 * maxClosers {
		table.published(&topic.Page{Series: series, Generation: 1, FetchedAt: 1, Segments: []topic.Segment{{Range: r, State: coverage.Final}}})
		table.closed(key, table.mark(), uuid.New())
	}
	require.Len(t, table.closers(key), maxClosers)
	table.drop(key, table.closers(key))
	require.Empty(t, table.recent)
}
