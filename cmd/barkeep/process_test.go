package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http/httptest"
	"os"
	commands "os/exec"
	"os/signal"
	"regexp"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kfake"

	"barkeep/backfill/topic"
	"barkeep/internal/dbtest"
	"barkeep/internal/embedded"
	"barkeep/internal/exchange"
	"barkeep/internal/market"
)

// asCommand, set in the environment, makes the test's binary the command itself: a process that can be killed.
// asBroker makes it a broker on the folder that it names.
const (
	asCommand = "TEST_AS_COMMAND"
	asBroker  = "TEST_AS_BROKER"
)

func TestMain(m *testing.M) {
	folder := os.Getenv(asBroker)
	if os.Getenv(asCommand) == "" && folder == "" {
		os.Exit(m.Run())
	}
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin) // ends with the test's process
		os.Exit(3)
	}()
	if folder != "" {
		runBroker(folder)
		return
	}
	main()
}

// runBroker is a broker until a signal ends it.
func runBroker(folder string) {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	broker, err := embedded.StartBroker(ctx, embedded.BrokerConfig{DataDir: folder, NoSync: true, Logger: log})
	if err != nil {
		log.ErrorContext(ctx, "start the broker", slog.Any("error", err))
		os.Exit(1)
	}
	fmt.Fprintf(os.Stderr, "broker listens on %s;\n", broker.Brokers[0])
	<-ctx.Done()
	stop()
	if err := broker.Stop(); err != nil {
		log.ErrorContext(ctx, "stop the broker", slog.Any("error", err))
		os.Exit(1)
	}
}

// site is what processes of barkeep work on: a database, a broker and an exchange of the test's own.
type site struct {
	t *testing.T
	// databaseURL and brokers are what processes are told.
	databaseURL string
	brokers     string
	names       topic.Names
	db          *dbtest.DB
	exchange    *exchange.Server
	exchangeURL string
	// vendors are those for which the exchange stands in; the others that are online are off.
	vendors []string
	// out takes what processes print.
	out io.Writer
}

// newSite gives a site with the tests' broker.
func newSite(t *testing.T) *site {
	t.Helper()
	s := siteOn(t, dbtest.Broker(t)[0])
	s.names.Prefix = dbtest.OwnTopics(t)
	return s
}

// newFakeSite gives a site with a broker in memory, whose faults can be scripted.
func newFakeSite(t *testing.T) (*site, *kfake.Cluster) {
	t.Helper()
	broker := dbtest.FakeBroker(t)
	return siteOn(t, broker.ListenAddrs()[0]), broker
}

func siteOn(t *testing.T, brokers string) *site {
	t.Helper()
	return siteOf(t, dbtest.New(t), brokers, exchange.New(exchange.Config{}))
}

func siteOf(t *testing.T, db *dbtest.DB, brokers string, stand *exchange.Server) *site {
	t.Helper()
	server := httptest.NewServer(stand)
	t.Cleanup(server.Close)
	return &site{
		t: t, db: db, databaseURL: db.URL, brokers: brokers, exchange: stand, exchangeURL: server.URL, vendors: []string{"binance"}, out: t.Output(),
	}
}

// process is a running command.
type process struct {
	cmd *commands.Cmd
	// addr is where a proxy listens.
	addr string
	// ready gives that, or nothing, once.
	ready <-chan string
	stdin io.Closer
	log   *readyLog
	once  sync.Once
	err   error
}

// exited waits until the process has ended by itself, and returns how.
func (p *process) exited() error {
	p.once.Do(func() {
		p.err = p.cmd.Wait()
		_ = p.stdin.Close()
	})
	return p.err
}

// kill is kill -9.
func (p *process) kill() {
	p.once.Do(func() {
		_ = p.cmd.Process.Kill()
		_ = p.cmd.Wait() // an exit by a signal is what was asked for
		_ = p.stdin.Close()
	})
}

// start runs one of barkeep's commands and waits until it is ready. It is killed with the test at the latest.
func (s *site) start(role string, more ...string) *process {
	s.t.Helper()
	return s.run(append(s.args(role), more...)...)
}

func (s *site) args(role string) []string {
	return []string{role, "--listen=127.0.0.1:0", "--upstream-url=" + s.databaseURL, "--brokers=" + s.brokers}
}

func (s *site) run(args ...string) *process {
	s.t.Helper()
	p := s.launch(args...)
	p.wait(s.t)
	return p
}

// launch runs one of barkeep's commands, which may not be ready yet, or ever.
func (s *site) launch(args ...string) *process {
	s.t.Helper()
	for _, vendor := range onlineVendors {
		if !slices.Contains(s.vendors, vendor) {
			args = append(args, "--set=sources."+vendor+".enabled=false") // tests stay on loopback
			continue
		}
		for _, setting := range []string{"url=" + s.exchangeURL, "rate=1000", "burst=1000"} {
			args = append(args, "--set=sources."+vendor+"."+setting)
		}
	}
	return launch(s.t, s.out, args[0], s.environment(), append(args, "--status-listen=127.0.0.1:0")...)
}

// environment is what processes get: the names of the topics, where they are the site's own, and what makes this binary the command.
func (s *site) environment() []string {
	environment := append(os.Environ(), asCommand+"=1")
	if s.names.Prefix != "" {
		environment = append(environment, "BARKEEP_TOPIC_PREFIX="+s.names.Prefix)
	}
	return environment
}

// launchBroker runs a broker that keeps its log in a folder, and waits until it is ready.
func launchBroker(t *testing.T, out io.Writer, folder string) *process {
	t.Helper()
	p := launch(t, out, "broker", append(os.Environ(), asBroker+"="+folder))
	p.wait(t)
	return p
}

// launch runs the test's binary in an environment that makes it something else.
func launch(t *testing.T, out io.Writer, name string, environment []string, args ...string) *process {
	t.Helper()
	ready := make(chan string, 1)
	lines := &readyLog{out: out, prefix: name, ready: ready}
	p := &process{cmd: commands.CommandContext(t.Context(), os.Args[0], args...), ready: ready, log: lines}
	p.cmd.Env = environment
	p.cmd.Stdout, p.cmd.Stderr = lines, lines
	p.cmd.WaitDelay = 5 * time.Second
	var err error
	p.stdin, err = p.cmd.StdinPipe()
	require.NoError(t, err)
	require.NoError(t, p.cmd.Start())
	t.Cleanup(p.kill)
	return p
}

// wait waits until the process is ready.
func (p *process) wait(t *testing.T) {
	t.Helper()
	select {
	case p.addr = <-p.ready:
	case <-time.After(60 * time.Second):
		require.Fail(t, p.log.prefix+" does not start")
	}
}

// readyLog passes a process's lines on to the test's log and tells when one says that it is ready.
type readyLog struct {
	out    io.Writer
	prefix string
	ready  chan<- string

	mu   sync.Mutex // guards what follows
	rest []byte
	all  []byte
}

// contains reports whether the process has said the text.
func (l *readyLog) contains(text string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return bytes.Contains(l.all, []byte(text))
}

var readyLine = regexp.MustCompile(`(?:barkeep|broker) listens on ([^,; ]+)|msg="barkeep runs"`)

// Write takes what may be a part of a line.
func (l *readyLog) Write(text []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.rest, l.all = append(l.rest, text...), append(l.all, text...)
	for {
		end := bytes.IndexByte(l.rest, '\n')
		if end < 0 {
			return len(text), nil
		}
		line := l.rest[:end+1]
		if found := readyLine.FindSubmatch(line); found != nil {
			select {
			case l.ready <- string(found[1]):
			default: // it said so before
			}
		}
		_, _ = l.out.Write(append([]byte(l.prefix+": "), line...))
		l.rest = l.rest[end+1:]
	}
}

// connect opens a session through a proxy.
func (s *site) connect(p *process) *pgx.Conn {
	s.t.Helper()
	config := s.db.Pool.Config().ConnConfig
	conn, err := pgx.Connect(s.t.Context(), "postgres://"+config.User+":"+config.Password+"@"+p.addr+"/"+config.Database+"?sslmode=disable")
	require.NoError(s.t, err)
	s.t.Cleanup(func() { _ = conn.Close(context.Background()) })
	return conn
}

// symbol is what the tests ask for: an instrument that the exchange lists as Binance.
const symbol = "binance:BTCUSDT"

// minutes is a stretch of one-minute bars.
func minutes(from string, pages int64) market.Range {
	start, err := time.Parse(time.RFC3339, from)
	if err != nil {
		panic(err)
	}
	// A page of Binance is 1,000 bars, counted from the epoch.
	first := (market.FromTime(start).Time().Unix()/60 + 999) / 1000 * 1000
	open := func(n int64) market.Instant { return market.FromTime(time.Unix(60*n, 0)) }
	return market.Range{Start: open(first), End: open(first + 1000*pages)}
}

const readBars = `select ts, open, high, low, close, volume from public.ohlcv where symbol = $1 and timeframe = $2 and ts >= $3 and ts < $4 order by ts`

// querier is a session through barkeep or a pool straight at the database.
type querier interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
}

// minuteBars is what the tests ask for.
var minuteBars = market.Series{Symbol: symbol, Timeframe: market.M1}

// ask reads the minutes of a range.
func ask(ctx context.Context, q querier, r market.Range) ([]market.Bar, error) {
	return askFor(ctx, q, minuteBars, r)
}

// askFor reads the bars of a series.
func askFor(ctx context.Context, q querier, of market.Series, r market.Range) ([]market.Bar, error) {
	rows, err := q.Query(ctx, readBars, string(of.Symbol), of.Timeframe.String(), r.Start.Time(), r.End.Time())
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (market.Bar, error) {
		var b market.Bar
		var ts time.Time
		err := row.Scan(&ts, &b.Open, &b.High, &b.Low, &b.Close, &b.Volume)
		b.TS = market.FromTime(ts)
		return b, err
	})
}

func truth(r market.Range) []market.Bar { return exchange.Truth("BTC", "USDT", market.M1, r) }

// answer is what a statement in the background came to.
type answer struct {
	bars []market.Bar
	err  error
}

// asking asks in the background. The caller receives the answer.
func (s *site) asking(conn *pgx.Conn, r market.Range) <-chan answer {
	got := make(chan answer, 1)
	go func() {
		bars, err := ask(s.t.Context(), conn, r)
		got <- answer{bars, err}
	}()
	return got
}

// right demands that the answer is the exchange's truth.
func (s *site) right(r market.Range, got <-chan answer) {
	s.t.Helper()
	select {
	case a := <-got:
		require.NoError(s.t, a.err)
		s.same(truth(r), a.bars, "answer")
	case <-time.After(90 * time.Second):
		require.Fail(s.t, "no answer")
	}
}

func (s *site) same(want, got []market.Bar, what string) {
	s.t.Helper()
	require.Len(s.t, got, len(want), what)
	for i := range want {
		if want[i] != got[i] { // require.Equal alone takes its time, a million times
			require.Equal(s.t, want[i], got[i], what)
		}
	}
}

// stored returns the ranges of the minutes that the database vouches for, after checking each against the truth: what a
// segment covers is there and right, and there is no bar that the exchange has not.
func (s *site) stored() market.RangeSet {
	s.t.Helper()
	return s.storedOf(minuteBars, truth, 0)
}

// storedOf does what stored does for any series. Bars that had not been closed for the lag when they were read may be missing from what is
// provisional.
func (s *site) storedOf(of market.Series, truth func(market.Range) []market.Bar, lag time.Duration) market.RangeSet {
	t := s.t
	t.Helper()
	rows, err := s.db.Pool.Query(t.Context(), `select greatest(range_start, '2000-01-01Z'), least(range_end, now()), state, fetched_at from barkeep.coverage
	  where symbol = $1 and timeframe = $2 order by 1`, string(of.Symbol), of.Timeframe.String())
	require.NoError(t, err)
	var vouched market.RangeSet
	var start, end, fetched time.Time
	var state int
	_, err = pgx.ForEachRow(rows, []any{&start, &end, &state, &fetched}, func() error {
		r := market.Range{Start: market.FromTime(start), End: market.FromTime(end)}
		what := fmt.Sprintf("bars of the segment %v %v, state %d, fetched at %v", of, r, state, fetched)
		switch state {
		case 1, 2:
			bars, err := askFor(t.Context(), s.db.Pool, of, r)
			require.NoError(t, err)
			want := truth(r)
			if due := market.FromTime(fetched.Add(-lag)); state == 2 && lag > 0 {
				want = cutLate(of.Timeframe, want, bars, due)
			}
			s.same(want, bars, what)
			vouched = vouched.Add(r)
		case 3:
			require.Empty(t, truth(r), what)
		}
		return nil
	})
	require.NoError(t, err)
	all, err := askFor(t.Context(), s.db.Pool, of, market.Range{Start: market.FromTime(time.Unix(0, 0)), End: market.FromTime(time.Now())})
	require.NoError(t, err)
	var there []market.Bar
	if len(all) > 0 {
		there = truth(market.Range{Start: all[0].TS, End: of.Timeframe.Next(all[len(all)-1].TS)})
	}
	known := make(map[market.Instant]market.Bar, len(there))
	for _, b := range there {
		known[b.TS] = b
	}
	for _, b := range all {
		if known[b.TS] != b {
			require.Equal(t, known[b.TS], b, "a bar of the table")
		}
	}
	return vouched
}

// cutLate takes from the end of want the bars that got does not have and that were not due, since they close after that.
func cutLate(tf market.Timeframe, want, got []market.Bar, due market.Instant) []market.Bar {
	for len(want) > len(got) && tf.Next(want[len(want)-1].TS) > due {
		want = want[:len(want)-1]
	}
	return want
}

// holds demands that the database holds r, and that all jobs end.
func (s *site) holds(r market.Range) {
	s.t.Helper()
	require.True(s.t, s.stored().ContainsRange(r), "the coverage has a gap")
	require.Eventually(s.t, func() bool {
		var open int
		err := s.db.Pool.QueryRow(s.t.Context(), `select count(*)::int from barkeep.job where ended_at is null`).Scan(&open)
		return err == nil && open == 0
	}, 30*time.Second, 20*time.Millisecond, "a job does not end")
}

// fetched returns how many pages within r the exchange was asked for, and how many of those again.
func (s *site) fetched(r market.Range) (pages, again int) {
	for page, n := range s.exchange.Asked() {
		if page.Timeframe != market.M1 || !page.Range.Overlaps(r) {
			continue
		}
		pages++
		again += n - 1
	}
	return pages, again
}

// once demands that each of the pages of r was asked for once.
func (s *site) once(r market.Range) {
	s.t.Helper()
	pages, again := s.fetched(r)
	require.EqualValues(s.t, market.M1.Count(r)/1000, pages)
	require.Zero(s.t, again, "pages fetched again")
}

// until waits for something that comes by itself.
func (s *site) until(what string, met func() bool) {
	s.t.Helper()
	require.Eventually(s.t, met, 60*time.Second, 2*time.Millisecond, what)
}

// receive waits for a signal.
func (s *site) receive(what string, from <-chan struct{}) {
	s.t.Helper()
	select {
	case <-from:
	case <-time.After(60 * time.Second):
		require.Fail(s.t, "never came: "+what)
	}
}
