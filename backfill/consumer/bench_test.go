package consumer

import (
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kgo"

	"barkeep/backfill/topic"
)

// A one-page gap's way from the broker to the database.
func TestOnePageIsStoredSoon(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	c := w.consumer(t)
	start(t, c)
	w.publishPages(t, 1)
	w.complete(t)
	var took []time.Duration
	for range 20 {
		began := time.Now()
		w.publishPages(t, 1)
		require.Eventually(t, func() bool { return c.Stats().Pages == int64(w.pages) }, 20*time.Second, time.Millisecond)
		took = append(took, time.Since(began))
	}
	t.Logf("stored after %v", took)
}

// A backlog of a year of minutes, read, decoded and stored.
func TestBacklogIsStored(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	var records []*kgo.Record
	const pages = 526
	for k := range pages {
		p := w.page("")
		p.RecordID = uuid.NewString()
		p.Bars = p.Bars[:0]
		for i := range 1000 {
			p.Bars = append(p.Bars, barAt(k*1000+i))
		}
		p.Asked.Start, p.Asked.End = p.Bars[0].TS, p.Bars[999].TS+minute
		p.Segments = []topic.Segment{{Range: p.Asked, State: p.Segments[0].State}}
		records = append(records, w.names.PageRecord(p))
	}
	w.publish(t, records...)
	began := time.Now()
	c := w.consumer(t)
	start(t, c)
	require.Eventually(t, func() bool { return c.Stats().Bars == pages*1000 }, 60*time.Second, 5*time.Millisecond)
	t.Logf("%d bars in %s", pages*1000, time.Since(began))
}
