package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"math/rand/v2"
	"net/url"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"barkeep/backfill/source/sim"
	"barkeep/internal/dbtest"
	"barkeep/internal/embedded"
	"barkeep/internal/market"
	"barkeep/internal/netfault"
)

// TestSoak: many sessions at once ask for bars that are there and bars that are not, cancel, go away in mid-statement and are cut off
// by their network, while the upstream's sessions are ended, its network breaks and the upstream itself is restarted. Then:
//
//   - an answer is the market's truth and carries the tag of the statement that it answers, or it is an error
//   - an error is one that what was done to the session or to the upstream explains
//   - each client is answered again when the upstream is well
//   - afterwards no goroutine, no session of barkeep's or the upstream's and no memory is left of them
//
// SOAK_SECONDS sets how long, with SOAK_SESSIONS sessions; they are pgx's, and in turn those of other drivers where SOAK_DRIVERS names the
// command that gives their programs. BARKEEP_TEST_SEED sets the seed of what the sessions do.
func TestSoak(t *testing.T) {
	seconds, sessions := dbtest.Number(t, "SOAK_SECONDS", 20), dbtest.Number(t, "SOAK_SESSIONS", 40)
	seed := uint64(dbtest.Number(t, "BARKEEP_TEST_SEED", int(rand.Uint64()>>1)))
	t.Logf("BARKEEP_TEST_SEED=%d", seed)
	s := newSoak(t, seed)
	clients := s.clients(sessions)
	s.warmUp(clients)
	before := measured()
	t.Logf("before: %d goroutines, %d KiB of heap", before.goroutines, before.heap>>10)

	ctx, cancel := context.WithTimeout(t.Context(), time.Duration(seconds)*time.Second)
	defer cancel()
	var all sync.WaitGroup
	for _, c := range clients {
		all.Go(func() { c.run(ctx) })
	}
	s.disturb(ctx)
	all.Wait()
	s.report()
	s.recovered(clients)
	s.settled(before)
}

// soak is a barkeep whose upstream can be restarted, and what its clients have seen.
type soak struct {
	t     *testing.T
	seed  uint64
	stack *stack
	coins map[string]sim.Coin
	// spots are where statements find bars that others have asked for before.
	spots []market.Instant

	folder   string
	url      string             // of the upstream, which comes back where it was
	upstream *embedded.Postgres // of the test's own goroutine, which restarts it
	link     *netfault.Link     // between barkeep and the upstream
	// disturbed is when the upstream was last disturbed or came back, in nanoseconds of time.Now.
	disturbed atomic.Int64

	log soakLog

	mu       sync.Mutex // guards what follows
	counts   map[string]int
	failures []string
}

// soakLog keeps what barkeep logs about errors that it gave an id: a client is told no more than that.
type soakLog struct {
	mu    sync.Mutex
	lines []string
}

func (l *soakLog) Write(line []byte) (int, error) {
	if bytes.Contains(line, []byte("error_id=")) {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.lines = append(l.lines, string(line))
	}
	return len(line), nil
}

func newSoak(t *testing.T, seed uint64) *soak {
	t.Helper()
	if os.Getenv("TEST_DATABASE_URL") == "" {
		t.Skip("TEST_DATABASE_URL is not set: no server is started here (make test does)")
	}
	there := goleak.IgnoreCurrent()
	t.Cleanup(func() { goleak.VerifyNone(t, there) })
	s := &soak{t: t, seed: seed, coins: map[string]sim.Coin{}, counts: map[string]int{}, folder: childFolder(t)}
	for _, coin := range sim.Coins() {
		s.coins["sim:"+coin.Symbol()] = coin
	}
	random := rand.New(rand.NewPCG(seed, 0))
	for range 20 {
		s.spots = append(s.spots, soakInstant(random))
	}
	s.startUpstream(t.Context())
	t.Cleanup(func() { s.stopUpstream(context.Background()) })
	s.url = s.upstream.URL
	address, err := url.Parse(s.url)
	require.NoError(t, err)
	s.link = netfault.New(t, address.Host)
	address.Host = s.link.Addr()
	unexplained := slog.New(slog.NewTextHandler(&s.log, nil)) // it has much to say about an upstream that is gone
	s.stack = startStackLogging(t, unexplained, t.TempDir(), func(cfg *Config) {
		cfg.Upstream.URL = address.String()
		cfg.Auth.AllowTrust = true // a hundred logins at once on a busy machine take longer to read pg_hba.conf than one waits for it
	})
	return s
}

func (s *soak) startUpstream(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Minute)
	defer cancel()
	upstream, err := embedded.Start(ctx, embedded.Config{DataDir: s.folder, Database: "soak", Throwaway: true})
	require.NoError(s.t, err)
	if s.upstream != nil {
		require.Equal(s.t, s.url, upstream.URL)
	}
	s.upstream = upstream
}

func (s *soak) stopUpstream(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Minute)
	defer cancel()
	require.NoError(s.t, s.upstream.Stop(ctx))
}

// direct runs a statement at the upstream itself.
func (s *soak) direct(ctx context.Context, sql string, args ...any) (n int, err error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
	defer cancel()
	conn, err := pgx.Connect(ctx, s.upstream.URL)
	if err != nil {
		return 0, err
	}
	defer conn.Close(ctx)
	err = conn.QueryRow(ctx, sql, args...).Scan(&n)
	return n, err
}

// disturb does something to the upstream now and then, until ctx ends; then the upstream is well.
func (s *soak) disturb(ctx context.Context) {
	random := rand.New(rand.NewPCG(s.seed, 1))
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(time.Duration(500+random.IntN(3500)) * time.Millisecond):
		}
		s.disturbed.Store(time.Now().UnixNano())
		kind := []string{"some sessions end", "some sessions end", "all sessions end", "its network is down", "its network is cut", "a restart"}[random.IntN(6)]
		switch kind {
		case "some sessions end", "all sessions end":
			share := 10
			if kind == "all sessions end" {
				share = 100
			}
			_, err := s.direct(ctx, `select count(pg_terminate_backend(pid)) from pg_stat_activity
			  where datname = current_database() and pid <> pg_backend_pid() and random() * 100 < $1`, share)
			require.NoError(s.t, err)
		case "its network is down":
			s.link.Down()
			<-time.After(time.Duration(random.IntN(2000)) * time.Millisecond)
		case "its network is cut":
			s.link.CutAfter(random.Int64N(100_000))
			<-time.After(time.Duration(random.IntN(500)) * time.Millisecond)
		case "a restart":
			s.stopUpstream(ctx)
			s.startUpstream(ctx)
		}
		s.link.Up()
		s.disturbed.Store(time.Now().UnixNano())
		s.count("upstream: " + kind)
	}
}

// disturbedSince reports whether what was done to the upstream can be felt by what began at the given time.
func (s *soak) disturbedSince(began time.Time) bool {
	const aftermath = 10 * time.Second // until all parts of barkeep have their sessions again, on a busy machine
	return s.disturbed.Load() > began.Add(-aftermath).UnixNano()
}

func (s *soak) count(what string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.counts[what]++
}

func (s *soak) fail(format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.failures = append(s.failures, fmt.Sprintf(format, args...)); len(s.failures) <= 20 {
		s.t.Errorf("seed %d: %s", s.seed, s.failures[len(s.failures)-1])
	}
}

// report prints what was done, and demands that something was.
func (s *soak) report() {
	names := make([]string, 0, len(s.counts))
	for name := range s.counts {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		s.t.Logf("%7d %s", s.counts[name], name)
	}
	s.log.mu.Lock()
	s.t.Logf("%d errors with an id: %s", len(s.log.lines), strings.Join(s.log.lines[:min(len(s.log.lines), 20)], ""))
	s.log.mu.Unlock()
	require.Empty(s.t, s.failures)
	require.Positive(s.t, s.counts["right answers"])
}

// recovered demands that each client is answered when nothing has been disturbed for a while.
func (s *soak) recovered(clients []soakClient) {
	for s.disturbedSince(time.Now()) {
		<-time.After(100 * time.Millisecond)
	}
	s.allAnswered(clients)
}

// allAnswered has each client ask once, all at once, and demands that each gets its answer.
func (s *soak) allAnswered(clients []soakClient) {
	before := s.counts["right answers"]
	var all sync.WaitGroup
	for _, c := range clients {
		all.Go(func() { c.once(s.t.Context()) })
	}
	all.Wait()
	require.Empty(s.t, s.failures)
	require.Equal(s.t, before+len(clients), s.counts["right answers"], "clients that are answered")
}

// warmUp has all clients ask at once, so that what barkeep keeps for so many is there before it is measured.
func (s *soak) warmUp(clients []soakClient) {
	s.allAnswered(clients)
	s.until("no session is left", func() bool { return s.stack.app.server.Sessions() == 0 })
}

func (s *soak) until(what string, met func() bool) {
	s.t.Helper()
	require.Eventually(s.t, met, 90*time.Second, 50*time.Millisecond, what)
}

// measure is what a leak adds to.
type measure struct {
	goroutines int
	heap       uint64 // but for what a broker in memory keeps
}

func measured() measure {
	runtime.GC()
	runtime.GC() // what finalizers let go
	var stats runtime.MemStats
	runtime.ReadMemStats(&stats)
	return measure{runtime.NumGoroutine(), stats.HeapAlloc - min(ofBroker(), stats.HeapAlloc)}
}

// ofBroker is what a broker in memory keeps, which is all that was ever published: an estimate from the profile's samples, scaled as
// runtime/pprof does.
func ofBroker() (kept uint64) {
	records := make([]runtime.MemProfileRecord, 100_000)
	n, complete := runtime.MemProfile(records, false)
	if !complete {
		return 0
	}
	for _, record := range records[:n] {
		frames := runtime.CallersFrames(record.Stack())
		for more := record.InUseObjects() > 0; more; {
			var frame runtime.Frame
			if frame, more = frames.Next(); strings.Contains(frame.Function, "/kfake.") {
				mean := float64(record.InUseBytes()) / float64(record.InUseObjects())
				kept += uint64(float64(record.InUseBytes()) / (1 - math.Exp(-mean/float64(runtime.MemProfileRate))))
				break
			}
		}
	}
	return kept
}

// settled demands that nothing is left of the sessions. Barkeep's own connections may differ by a few goroutines, and its coverage has
// grown; goleak demands the rest when barkeep has stopped.
func (s *soak) settled(before measure) {
	const moreGoroutines, moreHeap = 20, 96 << 20 // 4,096 templates of the planner among it
	server := s.stack.app.server
	s.until("no session and no hold is left", func() bool { return server.Sessions() == 0 && server.Holds() == 0 })
	s.until("no session is left at the upstream", func() bool {
		n, err := s.direct(s.t.Context(), `select count(*)::int from pg_stat_activity where application_name like 'soak-%'`)
		return err == nil && n == 0
	})
	after := measured()
	for end := time.Now().Add(60 * time.Second); after.goroutines > before.goroutines+moreGoroutines && time.Now().Before(end); after = measured() {
		<-time.After(200 * time.Millisecond)
	}
	s.t.Logf("after: %d goroutines, %d KiB of heap", after.goroutines, after.heap>>10)
	if after.goroutines > before.goroutines+moreGoroutines {
		stacks := make([]byte, 8<<20)
		s.t.Logf("%s", stacks[:runtime.Stack(stacks, true)])
	}
	require.LessOrEqual(s.t, after.goroutines, before.goroutines+moreGoroutines, "goroutines")
	require.LessOrEqual(s.t, after.heap, before.heap+moreHeap, "heap")
}

// soakInstant is a minute of some years in which the coins have bars, or are listed, or end.
func soakInstant(random *rand.Rand) market.Instant {
	return market.M1.Add(soakFrom, random.Int64N(3*365*24*60))
}

// soakFrom is the first of them: 2021.
const soakFrom = market.Instant(1_609_459_200 * 1_000_000)

// soakStatement is one question and its answer.
type soakStatement struct {
	tag    string
	series market.Series
	r      market.Range
	want   []market.Bar
}

func (q soakStatement) String() string { return fmt.Sprintf("%s: %v %v", q.tag, q.series, q.r) }

const soakBars = `select $1::text, ts, open, high, low, close, volume from ohlcv where symbol = $2 and timeframe = $3 and ts >= $4 and ts < $5 order by ts`

func (q soakStatement) args() []any {
	return []any{q.tag, string(q.series.Symbol), q.series.Timeframe.String(), q.r.Start.Time(), q.r.End.Time()}
}

// text is the statement with its values in it.
func (q soakStatement) text() string {
	sql := soakBars
	for n, value := range []string{q.tag, string(q.series.Symbol), q.series.Timeframe.String(), q.r.Start.Time().Format(time.RFC3339), q.r.End.Time().Format(time.RFC3339)} {
		sql = strings.ReplaceAll(sql, "$"+strconv.Itoa(n+1), "'"+value+"'")
	}
	return sql
}

// wrong says what is wrong with the rows, or nothing.
func (q soakStatement) wrong(tags []string, bars []market.Bar) string {
	for _, tag := range tags {
		if tag != q.tag {
			return "it got the answer to " + tag
		}
	}
	if len(bars) != len(q.want) {
		return fmt.Sprintf("%d bars instead of %d", len(bars), len(q.want))
	}
	for i := range bars {
		if bars[i] != q.want[i] {
			return fmt.Sprintf("the bar %v instead of %v", bars[i], q.want[i])
		}
	}
	return ""
}

// collectSoak reads the rows of an answer.
func collectSoak(rows pgx.Rows) (tags []string, bars []market.Bar, err error) {
	defer rows.Close()
	for rows.Next() {
		var tag string
		var ts time.Time
		var b market.Bar
		if err := rows.Scan(&tag, &ts, &b.Open, &b.High, &b.Low, &b.Close, &b.Volume); err != nil {
			return nil, nil, errors.Join(errMalformed, err)
		}
		b.TS = market.FromTime(ts)
		tags, bars = append(tags, tag), append(bars, b)
	}
	return tags, bars, rows.Err()
}

// errMalformed is a row that is not of the form that was asked for.
var errMalformed = errors.New("the answer has another form")

// TestSoakJudges: an answer that is another's, lacks a bar or has a wrong one is seen as such.
func TestSoakJudges(t *testing.T) {
	t.Parallel()
	bars := []market.Bar{{TS: 1, Close: 2}, {TS: 2, Close: 3}}
	q := soakStatement{tag: "a", want: bars}
	require.Empty(t, q.wrong([]string{"a", "a"}, bars))
	require.NotEmpty(t, q.wrong([]string{"a", "b"}, bars))
	require.NotEmpty(t, q.wrong([]string{"a"}, bars[:1]))
	require.NotEmpty(t, q.wrong([]string{"a", "a"}, []market.Bar{bars[0], {TS: 2, Close: 4}}))
	tags, got, err := soakRows([][]any{{"b", 60.0, 1.0, 2.0, 3.0, 4.0, 5.0}})
	require.NoError(t, err)
	require.Equal(t, []string{"b"}, tags)
	require.Equal(t, []market.Bar{{TS: market.FromTime(time.Unix(60, 0)), Open: 1, High: 2, Low: 3, Close: 4, Volume: 5}}, got)
	for _, row := range [][]any{{"b", 60.0, 1.0, 2.0, 3.0, 4.0}, {"b", "60", 1.0, 2.0, 3.0, 4.0, 5.0}, {nil, 60.0, 1.0, 2.0, 3.0, 4.0, 5.0}} {
		_, _, err = soakRows([][]any{row})
		require.ErrorIs(t, err, errMalformed)
	}
}
