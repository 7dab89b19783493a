package live

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"go.uber.org/goleak"

	"barkeep/backfill/topic"
	"barkeep/internal/actor"
	"barkeep/internal/dbtest"
	"barkeep/internal/market"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var (
	btc   = market.Series{Symbol: "sim:BTCUSD", Timeframe: market.M1}
	start = market.FromTime(time.Date(2024, 1, 1, 0, 0, 0, 0, time.UTC))
)

// minute returns the open of the nth minute.
func minute(n int) market.Instant { return start + market.Instant(n)*60_000_000 }

// follower makes topics and tells who follows.
type follower struct {
	broker *kgo.Client
	admin  *kadm.Client
	names  topic.Names

	mu        sync.Mutex // guards what follows
	fail      error
	following map[market.Series]chan struct{}
	follows   int
	changed   chan struct{} // closed and replaced
}

func (f *follower) Follow(ctx context.Context, series market.Series, _ string) (<-chan struct{}, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.follows++
	f.change()
	if f.fail != nil {
		return nil, f.fail
	}
	if f.following[series] != nil {
		return nil, errors.New("followed twice")
	}
	if err := topic.EnsureSeries(ctx, f.broker, f.names, series); err != nil {
		return nil, err
	}
	f.following[series] = make(chan struct{})
	return f.following[series], nil
}

func (f *follower) Unfollow(series market.Series) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.following, series)
	f.change()
}

func (f *follower) change() {
	close(f.changed)
	f.changed = make(chan struct{})
}

// until waits for what holds under the follower's lock.
func (f *follower) until(t *testing.T, what string, holds func() bool) {
	t.Helper()
	deadline := time.After(time.Minute)
	for {
		f.mu.Lock()
		is, changed := holds(), f.changed
		f.mu.Unlock()
		if is {
			return
		}
		select {
		case <-changed:
		case <-deadline:
			require.FailNow(t, what)
		}
	}
}

type rig struct {
	t       *testing.T
	brokers []string
	client  *kgo.Client
	*follower
	actors actor.Registry
	hub    *Hub
	stop   func()
}

func newRig(t *testing.T, change func(*Config)) *rig {
	t.Helper()
	return newRigOn(t, dbtest.Broker(t), change)
}

func newRigOn(t *testing.T, brokers []string, change func(*Config)) *rig {
	t.Helper()
	r := &rig{t: t, brokers: brokers}
	opts := []kgo.Opt{kgo.SeedBrokers(r.brokers...)}
	var err error
	r.client, err = kgo.NewClient(append(opts, kgo.ProducerLinger(0), kgo.RequiredAcks(kgo.AllISRAcks()))...)
	require.NoError(t, err)
	t.Cleanup(r.client.Close)
	r.follower = &follower{
		broker: r.client, admin: kadm.NewClient(r.client), names: topic.Names{Prefix: dbtest.TopicPrefix(t)},
		following: map[market.Series]chan struct{}{}, changed: make(chan struct{}),
	}
	config := Config{Options: opts, Names: r.names, Deployment: "d", Follower: r.follower, FormingEvery: time.Nanosecond, Backoff: time.Millisecond, Actors: &r.actors, Logger: slog.New(slog.NewTextHandler(t.Output(), nil))}
	if change != nil {
		change(&config)
	}
	r.hub, err = New(config)
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { _ = r.hub.Run(ctx) })
	r.stop = sync.OnceFunc(func() { cancel(); running.Wait(); r.hub.Close() })
	t.Cleanup(r.stop)
	return r
}

// listener is a subscription with its wake-ups.
type listener struct {
	*Subscription
	wakes chan struct{}
}

func (r *rig) listen(series market.Series) *listener {
	wakes := make(chan struct{}, 1)
	return &listener{wakes: wakes, Subscription: r.hub.Subscribe(series, "me", func() {
		select {
		case wakes <- struct{}{}:
		default:
		}
	})}
}

// reads waits until the topic of the series is read from its end: a bar that is published now comes.
func (r *rig) reads(series market.Series) {
	r.t.Helper()
	r.until(r.t, "not followed", func() bool { return r.following[series] != nil })
	probe := r.listen(series)
	defer probe.Close()
	for n := int64(1); ; n++ {
		r.publish(bar(series, -1_000_000, n, false))
		select {
		case <-probe.wakes:
			for probe.next(r.t).Seq < n { // those before are on their way
			}
			return
		case <-time.After(20 * time.Millisecond): // it reads from the end, wherever that was
		case <-r.t.Context().Done():
			return
		}
		require.Less(r.t, n, int64(3000))
	}
}

func bar(series market.Series, n int, seq int64, final bool) topic.Live {
	return topic.Live{
		Deployment: "d", Series: series, Final: final, Seq: seq,
		Bar: market.Bar{TS: minute(n), Open: 1, High: 2, Low: 1, Close: 2, Volume: 1},
	}
}

func (r *rig) publish(bars ...topic.Live) {
	r.t.Helper()
	for _, each := range bars {
		record, err := r.names.LiveRecord(each)
		require.NoError(r.t, err)
		require.NoError(r.t, r.client.ProduceSync(r.t.Context(), record).FirstErr())
	}
}

// told is a payload.
type told struct {
	Symbol, Timeframe string
	TS                string
	Final             bool
	Seq               int64
	Missed            *missed
}

func (l *listener) next(t *testing.T) told {
	t.Helper()
	for {
		if payload, ok := l.Next(); ok {
			var out told
			require.NoError(t, json.Unmarshal(payload, &out), string(payload))
			return out
		}
		select {
		case <-l.wakes:
		case <-time.After(time.Minute):
			require.FailNow(t, "no bar")
		}
	}
}

// drained takes the probes of reads.
func (l *listener) drained() *listener {
	for {
		if _, ok := l.Next(); !ok {
			return l
		}
	}
}

// finals takes payloads up to the final bar of that minute, and returns the minutes of final ones.
func (l *listener) finals(t *testing.T, last int) (minutes []int) {
	t.Helper()
	for {
		got := l.next(t)
		if !got.Final {
			continue
		}
		at, err := time.Parse(time.RFC3339, got.TS)
		require.NoError(t, err)
		minutes = append(minutes, int((market.FromTime(at)-start)/60_000_000))
		if minutes[len(minutes)-1] >= last {
			return minutes
		}
	}
}

// TestOneReaderForAll: however many listen, the series is followed once; the last to go ends the interest, and the next begins anew.
func TestOneReaderForAll(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	a, b := r.listen(btc), r.listen(btc)
	r.reads(btc)
	a.drained()
	b.drained()
	r.publish(bar(btc, 1, 5000, false), bar(btc, 1, 5001, true))
	for _, l := range []*listener{a, b} {
		require.Equal(t, []int{1}, l.finals(t, 1))
	}
	require.Equal(t, Stats{Series: 1, Listeners: 2}, func() Stats { s := r.hub.Stats(); return Stats{Series: s.Series, Listeners: s.Listeners} }())
	require.Eventually(t, func() bool {
		list := r.actors.Machines()
		return len(list) == 1 && list[0].State == actor.Consuming && list[0].ID == btc.String()
	}, time.Minute, time.Millisecond)
	a.Close()
	r.publish(bar(btc, 2, 5002, true))
	require.Equal(t, []int{2}, b.finals(t, 2))
	b.Close()
	r.until(t, "still followed", func() bool { return len(r.following) == 0 })
	c := r.listen(btc)
	r.reads(btc)
	c.drained()
	r.publish(bar(btc, 3, 5003, true))
	require.Equal(t, []int{3}, c.finals(t, 3))
	require.Zero(t, r.actors.Undeclared())
	r.stop()
	require.Empty(t, r.following)
	require.Empty(t, r.actors.Machines())
}

// TestOrderAndNoneTwice: two producers publish for a moment; the log has bars again, in between, and old ones.
func TestOrderAndNoneTwice(t *testing.T) {
	t.Parallel()
	var p place
	p.final = market.NegInf
	at := time.Unix(1, 0)
	offset := int64(0)
	type step struct {
		minute int
		seq    int64
		final  bool
		want   int64 // the number it is passed on with, or 0
	}
	for i, s := range []step{
		{1, 1, false, 1},
		{1, 1, false, 0}, // the other producer
		{1, 2, false, 2},
		{1, 2, true, 3}, // a number that stands there twice: the final bar is not lost
		{1, 3, true, 0}, // the other's final one
		{1, 4, false, 0},
		{2, 3, false, 0},
		{2, 5, false, 5},
		{3, 6, false, 6}, // the next one forms before this one is final
		{2, 7, true, 7},
		{2, 8, true, 0},
		{3, 9, false, 9},
		{3, 10, true, 10},
		{5, 11, true, 11},
		{4, 12, true, 0},
	} {
		l := bar(btc, s.minute, s.seq, s.final)
		seq, ok := p.admits(&l, offset, at)
		require.Equal(t, s.want, seq, i)
		require.Equal(t, s.want > 0, ok, i)
		offset++
	}
	// The log is read again from its start: nothing comes again, but what had not been there.
	for i := range int64(3) {
		l := bar(btc, 5+int(i), 30+i, false)
		_, ok := p.admits(&l, i, at)
		require.False(t, ok)
	}
	l := bar(btc, 6, 12, true)
	seq, ok := p.admits(&l, 4, at)
	require.True(t, ok)
	require.Equal(t, int64(12), seq)
	// Another log, whose numbers begin anew.
	l = bar(btc, 7, 1, false)
	seq, ok = p.admits(&l, 0, at.Add(time.Second))
	require.True(t, ok)
	require.Equal(t, int64(1), seq)
}

// TestFormingAtABoundedRate: of many states the newest comes when its time has come, and none after the final bar.
func TestFormingAtABoundedRate(t *testing.T) {
	t.Parallel()
	r := newRig(t, func(c *Config) { c.FormingEvery = time.Hour })
	l := r.listen(btc)
	r.until(t, "not followed", func() bool { return r.following[btc] != nil })
	r.hub.mu.Lock()
	reader := r.hub.readers[btc]
	r.hub.mu.Unlock()
	give := func(n int, seq int64, final bool) {
		record, err := r.names.LiveRecord(bar(btc, n, seq, final))
		require.NoError(t, err)
		record.Offset, record.Timestamp = seq, time.Unix(seq, 0)
		reader.take(t.Context(), record)
	}
	for seq := range int64(100) {
		give(1, seq+1, false)
	}
	require.Equal(t, int64(1), l.next(t).Seq)
	_, ok := l.Next()
	require.False(t, ok)
	reader.mu.Lock()
	late := reader.late
	reader.mu.Unlock()
	require.Equal(t, int64(100), late.seq)
	reader.passLate(late)
	require.Equal(t, int64(100), l.next(t).Seq)
	give(1, 101, false)
	give(1, 102, true)
	require.Equal(t, int64(102), l.next(t).Seq)
	reader.passLate(late) // a timer that could not be stopped
	_, ok = l.Next()
	require.False(t, ok)
}

// TestSlowListenerIsToldWhatItMissed, and others get all.
func TestSlowListenerIsToldWhatItMissed(t *testing.T) {
	t.Parallel()
	r := newRig(t, func(c *Config) { c.Backlog = 3 })
	slow, quick := r.listen(btc), r.listen(btc)
	r.reads(btc)
	slow.drained()
	quick.drained()
	for n := 1; n <= 10; n++ {
		r.publish(bar(btc, n, int64(5000+2*n), false), bar(btc, n, int64(5001+2*n), true))
		require.Equal(t, []int{n}, quick.finals(t, n))
	}
	got := slow.next(t)
	require.Equal(t, "sim:BTCUSD", got.Symbol)
	require.Equal(t, "1m", got.Timeframe)
	require.Equal(t, missed{Count: 7, FromSeq: 5003, ToSeq: 5015, FromTS: "2024-01-01T00:01:00Z", ToTS: "2024-01-01T00:07:00Z"}, *got.Missed)
	require.Equal(t, []int{8, 9, 10}, slow.finals(t, 10))
	_, ok := slow.Next()
	require.False(t, ok)
	require.Equal(t, int64(7), r.hub.Stats().Missed)
}

// TestTopicMadeAnew: the reader goes on with the new topic, and says nothing twice.
func TestTopicMadeAnew(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	l := r.listen(btc)
	r.reads(btc)
	l.drained()
	r.publish(bar(btc, 1, 5000, true), bar(btc, 2, 5001, true))
	require.Equal(t, []int{1, 2}, l.finals(t, 2))
	r.mu.Lock()
	before := r.follows
	r.mu.Unlock()
	_, err := r.admin.DeleteTopic(t.Context(), r.names.Series(btc))
	require.NoError(t, err)
	r.until(t, "not followed again", func() bool { return r.follows > before && r.following[btc] != nil })
	producer, err := kgo.NewClient(kgo.SeedBrokers(r.brokers...))
	require.NoError(t, err)
	defer producer.Close()
	for seq, n := range []int{1, 2, 3, 4} {
		record, err := r.names.LiveRecord(bar(btc, n, int64(seq+1), true))
		require.NoError(t, err)
		require.NoError(t, producer.ProduceSync(t.Context(), record).FirstErr())
	}
	require.Equal(t, []int{3, 4}, l.finals(t, 4))
}

// TestInterestLost: where the Follower has lost its interest the series is followed again, and nothing is lost or comes twice.
func TestInterestLost(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	l := r.listen(btc)
	r.reads(btc)
	l.drained()
	r.publish(bar(btc, 1, 5000, true))
	require.Equal(t, []int{1}, l.finals(t, 1))
	r.mu.Lock()
	before := r.follows
	close(r.following[btc])
	r.mu.Unlock()
	r.publish(bar(btc, 2, 5001, true))
	r.until(t, "not followed again", func() bool { return r.follows > before && r.following[btc] != nil })
	r.publish(bar(btc, 3, 5002, true))
	require.Equal(t, []int{2, 3}, l.finals(t, 3))
}

// TestBrokerAwayAndBack: while connections to the broker break nothing is lost, and nothing comes twice.
func TestBrokerAwayAndBack(t *testing.T) {
	t.Parallel()
	broker := dbtest.FakeBroker(t)
	r := newRigOn(t, broker.ListenAddrs(), nil)
	l := r.listen(btc)
	r.reads(btc)
	l.drained()
	r.publish(bar(btc, 1, 5000, true))
	require.Equal(t, []int{1}, l.finals(t, 1))
	refused := make(chan struct{}, 1000)
	gone := make(chan struct{})
	broker.Control(func(req kmsgRequest) (kmsgResponse, error, bool) {
		select {
		case <-gone:
			return nil, nil, false
		default:
		}
		if req.Key() != fetchKey {
			broker.KeepControl()
			return nil, nil, false
		}
		broker.KeepControl()
		refused <- struct{}{}
		return nil, errors.New("away"), true
	})
	for range 3 {
		<-refused
	}
	r.publish(bar(btc, 2, 5001, true), bar(btc, 3, 5002, true))
	close(gone)
	require.Equal(t, []int{2, 3}, l.finals(t, 3))
}

// TestFollowFails: what cannot be followed is tried again, and its actor shows it; nobody waits for it.
func TestFollowFails(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	r.mu.Lock()
	r.fail = errors.New("away")
	r.mu.Unlock()
	l := r.listen(btc)
	r.until(t, "not tried again", func() bool { return r.follows >= 3 })
	r.mu.Lock()
	r.fail = nil
	r.mu.Unlock()
	r.reads(btc)
	l.drained()
	r.publish(bar(btc, 1, 5000, true))
	require.Equal(t, []int{1}, l.finals(t, 1))
	require.Zero(t, r.actors.Undeclared())
}

// TestForeignRecordsAreDropped: another deployment's, another series', and what is no bar.
func TestForeignRecordsAreDropped(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	l := r.listen(btc)
	r.reads(btc)
	l.drained()
	foreign, other := bar(btc, 1, 5000, true), bar(market.Series{Symbol: "X", Timeframe: market.M1}, 1, 5000, true)
	foreign.Deployment = "another"
	record, err := r.names.LiveRecord(other)
	require.NoError(t, err)
	record.Topic = r.names.Series(btc)
	// A compacted topic takes no record without a key.
	require.NoError(t, r.client.ProduceSync(t.Context(), record, &kgo.Record{Topic: record.Topic, Key: []byte("x"), Value: []byte("x")}).FirstErr())
	r.publish(foreign, bar(btc, 2, 5001, true))
	require.Equal(t, []int{2}, l.finals(t, 2))
	require.Equal(t, int64(3), r.hub.Stats().Unreadable)
}

// TestManyListeners: two hundred on a few series, some of whom never take anything and some of whom come and go.
func TestManyListeners(t *testing.T) {
	t.Parallel()
	r := newRig(t, func(c *Config) { c.Backlog = 10 })
	var series []market.Series
	for i := range 5 {
		series = append(series, market.Series{Symbol: market.Symbol(fmt.Sprintf("sim:S%d", i)), Timeframe: market.M1})
	}
	var quick []*listener
	for i := range 200 {
		if l := r.listen(series[i%5]); i%10 != 0 {
			quick = append(quick, l)
		}
	}
	for _, each := range series {
		r.reads(each)
	}
	for _, l := range quick {
		l.drained()
	}
	var all sync.WaitGroup
	const bars = 50
	fetched := make([]int, len(quick))
	for i, l := range quick {
		all.Go(func() {
			deadline := time.After(time.Minute)
			for last := -1; last < bars; {
				payload, ok := l.Next()
				if !ok {
					select {
					case <-l.wakes:
					case <-deadline:
						return
					}
					continue
				}
				var got told
				if json.Unmarshal(payload, &got) != nil {
					return
				}
				if got.Missed != nil {
					fetched[i] += int(got.Missed.Count)
					continue
				}
				fetched[i]++
				at, err := time.Parse(time.RFC3339, got.TS)
				now := int((market.FromTime(at) - start) / 60_000_000)
				if err != nil || now <= last {
					return
				}
				last = now
			}
		})
	}
	for n := 1; n <= bars; n++ {
		for _, each := range series {
			r.publish(bar(each, n, int64(5000+n), true))
		}
	}
	all.Wait()
	for i, n := range fetched {
		require.Equal(t, bars, n, "listener %d: what came and what was missed is all there was", i)
	}
	require.Equal(t, 5, r.hub.Stats().Series)
}
