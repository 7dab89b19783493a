package main

import (
	"context"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"barkeep/internal/dbtest"
	"barkeep/internal/embedded"
	"barkeep/internal/exchange"
	"barkeep/internal/market"
	"barkeep/internal/schema"
)

// TestChaos: three proxies, three producers and two consumers, each a process, and the broker and the database too; every few seconds one or two
// of them are killed, stopped, cut off or restarted, or the broker loses the end of its log. Meanwhile clients ask for random ranges
// of random series, from an exchange that throttles, lies, lags and fails. Then:
//
//   - an answer was the exchange's truth, whole; or it was an error
//   - no process ended by itself that was up
//   - when nothing is done to them any more, each client is answered within a bound, and all jobs end
//   - the tables are the exchange's truth where coverage vouches for them, and hold nothing else; no record was dead
//   - a page was fetched again only where a fault can have lost it, and no oftener than so many faults can
//
// CHAOS_SECONDS sets how long. Where it is not set nothing is done to them, and what is judged is the last round alone. BARKEEP_TEST_SEED sets the seed of
// what is done and asked. CHAOS_LOGS names a folder for what the processes print.
func TestChaos(t *testing.T) {
	seconds := dbtest.Number(t, "CHAOS_SECONDS", 0)
	seed := uint64(dbtest.Number(t, "BARKEEP_TEST_SEED", int(rand.Uint64()>>1)))
	t.Logf("BARKEEP_TEST_SEED=%d", seed)
	c := newChaos(t, seed)
	ctx, cancel := context.WithTimeout(t.Context(), time.Duration(seconds)*time.Second)
	defer cancel()
	clients := make([]*chaosClient, 12)
	var all sync.WaitGroup
	for i := range clients {
		clients[i] = c.client(i)
		all.Go(func() { clients[i].run(ctx) })
	}
	watch, stop := context.WithCancel(t.Context())
	defer stop()
	var watcher sync.WaitGroup
	watcher.Go(func() { c.watchCoverage(watch) })
	c.disturb(ctx)
	all.Wait()
	c.heal()
	c.lastRound(clients)
	stop()
	watcher.Wait()
	c.judge()
}

// chaos is a barkeep of many processes, and what its clients have seen.
type chaos struct {
	t    *testing.T
	seed uint64
	site *site
	// spots are where statements find bars that others have asked for before.
	spots []market.Instant

	folder   string
	upstream *embedded.Postgres // of the test's own goroutine
	broker   *process           // of the test's own goroutine
	brokerAt string             // its folder
	parts    []*chaosPart

	said  *chaosOutput   // what the exchange and the faults are
	quiet sync.WaitGroup // who watch processes

	mu       sync.Mutex // guards what follows
	counts   map[string]int
	failures []string
	done     []string               // to the processes, with times
	calm     bool                   // the exchange is well
	requests map[string]int         // how often each was made
	lied     map[string]bool        // requests whose rows were spoiled so that only a second reading tells
	served   map[chaosPage][]served // pages that were served well
	once     map[exchange.Page]bool // those of which a second reading may follow
	hits     []hit
	covered  []coveredAt // in the order of time
}

// coveredAt is what the database vouched for as final or absent at a time.
type coveredAt struct {
	at time.Time
	of map[market.Series]market.RangeSet
}

// chaosPage is what was asked for, apart from its range.
type chaosPage struct {
	venue, id string
	tf        market.Timeframe
}

type served struct {
	r market.Range
	// asked and at are when the request came and when it was answered.
	asked, at time.Time
}

// hit is a fault after which pages may be fetched again.
type hit struct {
	what       string
	pages      int // that it can have lost
	begin, end time.Time
}

func newChaos(t *testing.T, seed uint64) *chaos {
	t.Helper()
	if os.Getenv("TEST_DATABASE_URL") == "" {
		t.Skip("TEST_DATABASE_URL is not set: no server is started here (make test does)")
	}
	c := &chaos{
		t: t, seed: seed, folder: childFolder(t), brokerAt: t.TempDir(), counts: map[string]int{}, requests: map[string]int{}, lied: map[string]bool{},
		served: map[chaosPage][]served{}, once: map[exchange.Page]bool{},
	}
	random := rand.New(rand.NewPCG(seed, 0))
	for range 12 {
		c.spots = append(c.spots, soakInstant(random))
	}
	c.said = c.output("faults")
	t.Cleanup(func() {
		if t.Failed() {
			c.mu.Lock()
			defer c.mu.Unlock()
			t.Logf("BARKEEP_TEST_SEED=%d; what was done:\n%s", seed, strings.Join(c.done, ""))
		}
	})
	t.Cleanup(c.quiet.Wait)
	c.startUpstream()
	t.Cleanup(func() { c.stopUpstream() })
	config, err := schema.PoolConfig(c.upstream.URL)
	require.NoError(t, err)
	pool, err := pgxpool.NewWithConfig(t.Context(), config)
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	c.startBroker()
	stand := exchange.New(exchange.Config{Draw: c.spoil, Served: c.wasServed})
	c.site = siteOf(t, &dbtest.DB{URL: c.upstream.URL, Pool: pool}, c.broker.addr, stand)
	c.site.vendors = []string{"binance", "coinbase"}
	for _, role := range []string{"proxy", "proxy", "proxy", "producer", "producer", "producer", "consumer", "consumer"} {
		c.parts = append(c.parts, c.newPart(role))
	}
	c.allReady()
	began := time.Now()
	c.keepLog()
	c.hits = append(c.hits, hit{"broker: restarted", producersInAll * inHand, began, time.Now()})
	return c
}

func (c *chaos) startUpstream() {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(c.t.Context()), 2*time.Minute)
	defer cancel()
	upstream, err := embedded.Start(ctx, embedded.Config{DataDir: c.folder, Database: "chaos", Throwaway: true})
	require.NoError(c.t, err)
	if c.upstream != nil {
		require.Equal(c.t, c.upstream.URL, upstream.URL)
	}
	c.upstream = upstream
}

func (c *chaos) stopUpstream() {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(c.t.Context()), 2*time.Minute)
	defer cancel()
	require.NoError(c.t, c.upstream.Stop(ctx))
}

// startBroker starts the broker on its log as it is.
func (c *chaos) startBroker() {
	before := c.broker
	c.broker = launchBroker(c.t, c.output("broker"), c.brokerAt)
	if before != nil {
		require.Equal(c.t, before.addr, c.broker.addr)
	}
}

// logFolder is where the broker keeps its log, and keptFolder where a copy of it is.
func (c *chaos) logFolder() string  { return filepath.Join(c.brokerAt, "broker", "log") }
func (c *chaos) keptFolder() string { return filepath.Join(c.brokerAt, "kept") }

// keepLog copies the broker's log; the broker is restarted for it.
func (c *chaos) keepLog() {
	c.stopBroker()
	require.NoError(c.t, os.RemoveAll(c.keptFolder()))
	require.NoError(c.t, os.CopyFS(c.keptFolder(), os.DirFS(c.logFolder())))
	c.startBroker()
}

// stopBroker ends it in order.
func (c *chaos) stopBroker() {
	c.broker.signal(syscallTerm)
	require.NoError(c.t, c.broker.exited(), "the broker stops")
}

// loseLog has the broker come back with the log that was kept: what it acknowledged since is gone.
func (c *chaos) loseLog() {
	require.NoError(c.t, os.RemoveAll(c.logFolder()))
	require.NoError(c.t, os.CopyFS(c.logFolder(), os.DirFS(c.keptFolder())))
	c.startBroker()
}

// output is where what a process prints goes.
func (c *chaos) output(name string) *chaosOutput {
	out := &chaosOutput{name: name}
	if folder := os.Getenv("CHAOS_LOGS"); folder != "" {
		require.NoError(c.t, os.MkdirAll(folder, 0o750))
		file, err := os.OpenFile(filepath.Join(folder, name+".log"), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
		require.NoError(c.t, err)
		c.t.Cleanup(func() { _ = file.Close() }) // it is for reading only
		out.file = file
	}
	c.t.Cleanup(func() {
		if c.t.Failed() {
			c.t.Logf("the last lines of %s:\n%s", name, out.last())
		}
	})
	return out
}

// chaosOutput keeps the last lines of what a process prints, and all of it in a file where there is one.
type chaosOutput struct {
	name string
	file *os.File

	mu    sync.Mutex // guards what follows
	lines []string
}

func (o *chaosOutput) Write(line []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	const kept = 15
	o.lines = append(o.lines[max(0, len(o.lines)-kept):], string(line))
	if o.file != nil {
		return o.file.Write(line)
	}
	return len(line), nil
}

func (o *chaosOutput) last() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return strings.Join(o.lines, "")
}

func (c *chaos) count(what string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.counts[what]++
}

func (c *chaos) fail(format string, args ...any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.failures = append(c.failures, fmt.Sprintf(format, args...)); len(c.failures) <= 20 {
		c.t.Errorf("seed %d: %s", c.seed, c.failures[len(c.failures)-1])
	}
}

// report prints what was done and seen.
func (c *chaos) report() {
	c.mu.Lock()
	defer c.mu.Unlock()
	names := make([]string, 0, len(c.counts))
	for name := range c.counts {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		c.t.Logf("%7d %s", c.counts[name], name)
	}
}

// lastRound demands that all clients are answered, soon and more than once.
func (c *chaos) lastRound(clients []*chaosClient) {
	began := time.Now()
	ctx, giveUp := context.WithCancel(c.t.Context())
	defer giveUp()
	var all sync.WaitGroup
	for _, client := range clients {
		all.Go(func() {
			for range 3 {
				client.insist(ctx, giveUp)
			}
		})
	}
	all.Wait()
	c.report()
	c.t.Logf("the last round took %v", time.Since(began).Round(time.Millisecond))
	require.Empty(c.t, c.failures)
	var open []string
	for end := time.Now().Add(chaosPatience); time.Now().Before(end); <-time.After(100 * time.Millisecond) {
		if open = c.open(); len(open) == 0 {
			return
		}
	}
	c.autopsy()
	require.Empty(c.t, open, "jobs do not end")
}

// open returns the jobs that have not ended, as far as the database says so.
func (c *chaos) open() []string {
	rows, err := c.site.db.Pool.Query(c.t.Context(), `select j::text || ', now ' || now() from barkeep.job j where ended_at is null`)
	if err != nil {
		return []string{err.Error()}
	}
	open, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return []string{err.Error()}
	}
	return open
}

// chaosPatience is how long a client may have to ask again and again when all is well. A failure is remembered for half a minute the first time, and
// longer where it was not the first (PIPELINE 18).
const chaosPatience = 2 * time.Minute

// spoil draws the fault of a request, by the seed and how often it was made.
func (c *chaos) spoil(r *http.Request) exchange.Fault {
	request := r.URL.RequestURI()
	c.mu.Lock()
	defer c.mu.Unlock()
	n := c.requests[request]
	c.requests[request]++
	if c.calm {
		return exchange.Fault{}
	}
	hash := fnv.New64a()
	_, _ = hash.Write([]byte(request)) // never an error
	random := rand.New(rand.NewPCG(c.seed^hash.Sum64(), uint64(n)))
	if random.IntN(4) > 0 {
		return exchange.Fault{}
	}
	plain := []exchange.Fault{
		{Status: http.StatusTooManyRequests, RetryAfter: time.Second},
		{Status: http.StatusInternalServerError},
		{Status: http.StatusServiceUnavailable},
		{Body: "<html>maintenance</html>"},
		{Cut: true},
		{Clock: -10 * time.Minute},
		{Clock: 10 * time.Minute},
		{Delay: time.Duration(random.IntN(3000)) * time.Millisecond},
		{Delay: time.Duration(random.IntN(300)) * time.Millisecond},
		{SlowEvery: time.Duration(random.IntN(1000)) * time.Microsecond},
	}
	rows := []exchange.Fault{{Garble: true}, {OffGrid: true}, {Outside: true}, {Shuffle: true}}
	klines := strings.Contains(r.URL.Path, "klines")
	candles := strings.Contains(r.URL.Path, "candles")
	query := r.URL.Query()
	switch {
	case !klines && !candles, query.Get("limit") == "1": // what it says of a listing is believed
		return c.drawn(request, plain[random.IntN(len(plain))])
	case klines && query.Get("interval") == "1m", candles && query.Get("granularity") == "60":
		rows = append(rows, exchange.Fault{Behind: 2}, exchange.Fault{Behind: 3})
	}
	if klines {
		rows = append(rows, exchange.Fault{Duplicate: true})
	}
	if middleClosed(r) {
		rows = append(rows, exchange.Fault{Impossible: true})
	}
	if fullAtEnds(r) {
		rows = append(rows, exchange.Fault{Extra: 3})
	}
	if !c.lied[request] {
		rows = append(rows, exchange.Fault{Empty: true})
		if klines { // a sparse source is believed that a row is missing
			rows = append(rows, exchange.Fault{Hole: 1 + random.IntN(5)}, exchange.Fault{Late: 1 + random.IntN(5)})
		}
	}
	fault := append(plain, rows...)[random.IntN(len(plain)+len(rows))]
	if fault.Empty || fault.Hole > 0 || fault.Late > 0 {
		c.lied[request] = true
	}
	return c.drawn(request, fault)
}

// barsAsked returns what the exchange has of the range that a request for bars names, and that range's timeframe.
func barsAsked(r *http.Request) (bars []market.Bar, tf market.Timeframe, asked market.Range) {
	query := r.URL.Query()
	id, name := query.Get("symbol"), query.Get("interval")
	start, end := unixMilli(query.Get("startTime")), unixMilli(query.Get("endTime"))
	if seconds, err := strconv.Atoi(query.Get("granularity")); err == nil {
		id = strings.Split(r.URL.Path, "/")[2] // /products/{id}/candles
		name = map[int]string{60: "1m", 300: "5m", 900: "15m", 3600: "1h", 21600: "6h", 86400: "1d"}[seconds]
		start, _ = time.Parse(time.RFC3339, query.Get("start"))
		end, _ = time.Parse(time.RFC3339, query.Get("end"))
	}
	tf, err := market.ParseTimeframe(name)
	if err != nil || start.IsZero() || end.IsZero() {
		return nil, 0, market.Range{}
	}
	asked = market.Range{Start: market.FromTime(start), End: tf.Next(market.FromTime(end))}
	for _, of := range chaosMarket() {
		if of.id() == id {
			return exchange.Truth(of.base, of.quote, tf, asked), tf, asked
		}
	}
	return nil, 0, market.Range{}
}

func unixMilli(text string) time.Time {
	milliseconds, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		return time.Time{}
	}
	return time.UnixMilli(milliseconds)
}

// middleClosed reports whether the middle one of the bars that are asked for has closed long ago: the one that forms may be anything.
func middleClosed(r *http.Request) bool {
	bars, tf, _ := barsAsked(r)
	now := market.FromTime(time.Now())
	for len(bars) > 0 && bars[len(bars)-1].TS > now {
		bars = bars[:len(bars)-1]
	}
	return len(bars) > 0 && tf.Next(bars[len(bars)/2].TS) < now.Shift(-time.Minute)
}

// fullAtEnds reports whether the first and the last bar that are asked for are there: others in a hole before or behind are believed.
func fullAtEnds(r *http.Request) bool {
	bars, tf, asked := barsAsked(r)
	return len(bars) > 0 && bars[0].TS == asked.Start && tf.Next(bars[len(bars)-1].TS) >= asked.End
}

// drawn counts a fault. The caller holds mu.
func (c *chaos) drawn(request string, f exchange.Fault) exchange.Fault {
	name := fmt.Sprintf("%+v", f)
	for part := range strings.FieldsSeq(strings.Trim(name, "{}")) {
		if key, value, _ := strings.Cut(part, ":"); value != "0" && value != "false" && value != "0s" && value != "" {
			c.counts["exchange: "+key]++
			_, _ = fmt.Fprintf(c.said, "%s %s %s\n", time.Now().UTC().Format(time.RFC3339Nano), request, part) // for reading only
		}
	}
	return f
}

// linked returns the address of the database on another host.
func (c *chaos) linked(host string) string {
	address, err := url.Parse(c.upstream.URL)
	require.NoError(c.t, err)
	address.Host = host
	return address.String()
}

func (c *chaos) databaseHost() string {
	address, err := url.Parse(c.upstream.URL)
	require.NoError(c.t, err)
	return address.Host
}
