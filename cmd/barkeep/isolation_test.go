package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"

	"barkeep/internal/dbtest"
	"barkeep/internal/exchange"
	"barkeep/internal/market"
)

// isolationSpec is like one of PostgreSQL's isolationtester: sessions with their steps, run in orders drawn from
// those that keep each session's own. The steps are
//
//	begin, commit    of a block of the level that is tried; of a pipeline, its first message and its Sync
//	look             a statement that reads no bars: it takes the snapshot
//	read X           the bars of X
//	declare X        a cursor over them; fetch n, fetch all
//	fill X           the bars of X, outside of any block
//	release X        the source gives bars of X from now on
//
// The source gives no bars of a symbol that the spec releases before that; of others at once.
type isolationSpec struct {
	name     string
	sessions []string
	// ways are those that reads are sent in; nil for all.
	ways []string
}

var isolationSpecs = []isolationSpec{
	{name: "another's fill", sessions: []string{"begin, look, read A, read B, commit", "fill A"}},
	{name: "another's fill without a look", sessions: []string{"begin, read B, read A, commit", "fill A"}},
	{name: "its own hold", sessions: []string{"begin, look, read A, read A, commit", "release A"}},
	{name: "its own hold first", sessions: []string{"begin, read A, look, read A, commit", "release A"}},
	{name: "another's hold", sessions: []string{"begin, look, read A, commit", "fill A", "release A"}},
	{name: "a cursor", sessions: []string{"begin, look, declare A, fetch 3, fetch all, commit", "fill A"}, ways: []string{"simple", "extended"}},
	{name: "a cursor first", sessions: []string{"begin, declare A, fetch 3, fetch all, read A, commit", "fill A", "fill B"}, ways: []string{"simple"}},
	{name: "two blocks", sessions: []string{"begin, look, read A, read B, commit", "begin, read B, read A, commit", "release A", "release B"}},
}

var isolationLevels = []string{"read committed", "repeatable read", "serializable"}

// TestIsolation: a backfill that lands before, between and after the statements of two sessions, by a session's own hold and by
// another's: each session sees what it would see in a database that has all the bars from the start, or is told to try again (40001),
// and then does see it. READ COMMITTED is never told so, nor is a statement outside of a block.
func TestIsolation(t *testing.T) {
	t.Parallel()
	seed := rand.Uint64()
	if text := os.Getenv("BARKEEP_TEST_SEED"); text != "" {
		var err error
		seed, err = strconv.ParseUint(text, 10, 64)
		require.NoError(t, err)
	}
	t.Logf("BARKEEP_TEST_SEED=%d", seed)
	for n, level := range isolationLevels {
		t.Run(level, func(t *testing.T) {
			t.Parallel()
			random := rand.New(rand.NewPCG(seed, uint64(n)))
			i := newIsolation(t)
			for _, spec := range isolationSpecs {
				for _, way := range isolationWays {
					if spec.ways != nil && !slices.Contains(spec.ways, way) {
						continue
					}
					for _, order := range spec.inOrder(random) {
						i.run(t, isolationRun{isolationSpec: spec, level: level, way: way, order: order})
					}
				}
			}
			t.Logf("%d orders; told to try again, by way: %v", i.runs, i.counts)
			require.Equal(t, level != "read committed", len(i.counts) > 0, "snapshots that are older than bars")
		})
	}
}

var isolationWays = []string{"simple", "extended", "pipeline", "piped", "alone"}

// inOrder returns orders of the sessions' steps, each as the numbers of the sessions whose turn it is.
func (s isolationSpec) inOrder(random *rand.Rand) [][]int {
	var all [][]int
	left := make([]int, len(s.sessions))
	total := 0
	for n, steps := range s.sessions {
		left[n] = strings.Count(steps, ",") + 1
		total += left[n]
	}
	var grow func(order []int)
	grow = func(order []int) {
		if len(order) == total {
			all = append(all, slices.Clone(order))
			return
		}
		for n := range left {
			if left[n] > 0 {
				left[n]--
				grow(append(order, n))
				left[n]++
			}
		}
	}
	grow(nil)
	random.Shuffle(len(all), func(a, b int) { all[a], all[b] = all[b], all[a] })
	return all[:min(len(all), mostOrders)]
}

// isolationRun is one order of a spec, at one level and in one way of sending what is read:
//
//	simple, extended   by either protocol
//	pipeline           in one segment behind another statement
//	piped              the whole session is one segment, with a Flush after each step
//	alone              outside of a block: begin and commit do nothing
type isolationRun struct {
	isolationSpec

	level, way string
	order      []int
}

func (r isolationRun) String() string {
	next := make([]int, len(r.sessions))
	var text strings.Builder
	fmt.Fprintf(&text, "%s, %s, %s:", r.name, r.level, r.way)
	for _, n := range r.order {
		fmt.Fprintf(&text, " [%d] %s", n, r.steps(n)[next[n]])
		next[n]++
	}
	return text.String()
}

func (r isolationRun) steps(session int) []string { return strings.Split(r.sessions[session], ", ") }

// isolation is a database with all bars beside an empty barkeep whose source is the test's to hold back.
type isolation struct {
	stack  *stack
	gates  *gatedExchange
	direct string
	kept   map[string][]*pgconn.PgConn // idle sessions by address
	counts map[string]int              // runs in which a session was told to try again, by way
	runs   int
}

var isolationSymbols = map[string]string{"A": "binance:BTCUSDT", "B": "binance:ETHUSD"}

func newIsolation(t *testing.T) *isolation {
	t.Helper()
	i := &isolation{gates: &gatedExchange{exchange: exchange.New(exchange.Config{}), shut: map[string]chan struct{}{}}, kept: map[string][]*pgconn.PgConn{}, counts: map[string]int{}}
	server := httptest.NewServer(i.gates)
	t.Cleanup(server.Close)
	i.stack = startStack(t, t.TempDir(), func(cfg *Config) {
		cfg.Sources["binance"] = Source{URL: server.URL, Rate: 10_000, Burst: 10_000}
	})
	t.Cleanup(i.gates.open)
	full := dbtest.New(t)
	start := market.FromTime(time.Date(2024, 1, 1, 0, 0, 0, 0, time.UTC))
	window := market.Range{Start: start, End: market.M1.Add(start, 10)}
	bars := map[market.Series][]market.Bar{}
	for symbol, coin := range map[string][2]string{"A": {"BTC", "USDT"}, "B": {"ETH", "USD"}} {
		bars[market.Series{Symbol: market.Symbol(isolationSymbols[symbol]), Timeframe: market.M1}] = exchange.Truth(coin[0], coin[1], market.M1, window)
	}
	fill(t, full.Pool, bars)
	i.direct = full.URL
	return i
}

// gatedExchange gives no page of a symbol whose gate is shut.
type gatedExchange struct {
	exchange *exchange.Server

	mu      sync.Mutex // guards what follows
	shut    map[string]chan struct{}
	waiting int
}

func (g *gatedExchange) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	symbol := "binance:" + r.URL.Query().Get("symbol")
	g.mu.Lock()
	gate := g.shut[symbol]
	if gate != nil {
		g.waiting++
	}
	g.mu.Unlock()
	if gate != nil {
		select {
		case <-gate:
		case <-r.Context().Done():
		}
		g.mu.Lock()
		g.waiting--
		g.mu.Unlock()
	}
	g.exchange.ServeHTTP(w, r)
}

func (g *gatedExchange) close(symbol string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.shut[symbol] = make(chan struct{})
}

func (g *gatedExchange) release(symbol string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if gate := g.shut[symbol]; gate != nil {
		close(gate)
		delete(g.shut, symbol)
	}
}

func (g *gatedExchange) open() {
	for _, symbol := range isolationSymbols {
		g.release(symbol)
	}
}

// held returns how many pages are held back.
func (g *gatedExchange) held() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.waiting
}

// run runs one order through barkeep and straight at the full database.
func (i *isolation) run(t *testing.T, r isolationRun) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	i.runs++
	i.gates.open()
	require.NoError(t, i.stack.emptied(ctx), r)
	want := make([][]string, len(r.sessions))
	for n := range r.sessions {
		s := i.session(ctx, t, r, i.direct)
		for _, step := range r.steps(n) {
			s.step(ctx, step)
		}
		require.Empty(t, s.failure, "%s: straight", r)
		want[n] = s.rows
		i.keep(t, i.direct, s)
	}
	got := i.through(ctx, t, r)
	for n, s := range got {
		if s.failure == "" {
			require.Equal(t, want[n], s.rows, "session %d of %s", n, r)
			i.keep(t, i.stack.clientURL(), s)
			continue
		}
		require.Equal(t, "40001", s.failure, "session %d of %s: %v", n, r, s.rows)
		require.NotEqual(t, "read committed", r.level, "session %d of %s", n, r)
		require.NotEqual(t, "alone", r.way, "session %d of %s", n, r)
		i.counts[r.way]++
		// Each try has at least one more of its reads filled.
		for try := 0; s.failure != ""; try++ {
			require.Less(t, try, strings.Count(r.sessions[n], "read")+strings.Count(r.sessions[n], "declare"), "session %d of %s is told to try again for ever", n, r)
			require.Equal(t, "40001", s.failure, "session %d of %s", n, r)
			s.failure, s.rows = "", nil
			for _, step := range r.steps(n) {
				s.step(ctx, step)
			}
		}
		require.Equal(t, want[n], s.rows, "session %d of %s, tried again", n, r)
		i.keep(t, i.stack.clientURL(), s)
	}
}

// through runs the order: each step once all sessions are idle or wait for what the source holds back.
func (i *isolation) through(ctx context.Context, t *testing.T, r isolationRun) []*isolationSession {
	t.Helper()
	sessions := make([]*isolationSession, len(r.sessions))
	todo := make([]chan string, len(r.sessions))
	var running sync.WaitGroup
	for n, steps := range r.sessions {
		for step := range strings.SplitSeq(steps, ", ") {
			if symbol, releases := strings.CutPrefix(step, "release "); releases {
				i.gates.close(isolationSymbols[symbol])
			}
		}
		s := i.session(ctx, t, r, i.stack.clientURL())
		sessions[n], todo[n] = s, make(chan string, len(r.order))
		running.Go(func() {
			for step := range todo[n] {
				s.step(ctx, step)
				s.pending.Add(-1)
			}
		})
	}
	next := make([]int, len(r.sessions))
	for _, n := range r.order {
		step := r.steps(n)[next[n]]
		next[n]++
		if symbol, releases := strings.CutPrefix(step, "release "); releases {
			i.gates.release(isolationSymbols[symbol])
		} else {
			sessions[n].pending.Add(1)
			todo[n] <- step
		}
		i.settle(ctx, t, r, sessions)
	}
	i.gates.open()
	for n := range sessions {
		close(todo[n])
	}
	running.Wait()
	return sessions
}

// settle returns when each session is idle, or is held while the source holds something back.
func (i *isolation) settle(ctx context.Context, t *testing.T, r isolationRun, sessions []*isolationSession) {
	t.Helper()
	tick := time.NewTicker(200 * time.Microsecond)
	defer tick.Stop()
	for {
		busy := 0
		for _, s := range sessions {
			if s.pending.Load() > 0 {
				busy++
			}
		}
		if busy == 0 || i.gates.held() > 0 && i.stack.app.server.Holds() >= busy {
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			require.Fail(t, "a session is neither idle nor held", "%d busy, %d held, %d pages held back: %s", busy, i.stack.app.server.Holds(), i.gates.held(), r)
		}
	}
}
