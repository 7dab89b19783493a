package proxy

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"barkeep/internal/certtest"
	"barkeep/internal/market"
	"barkeep/internal/netfault"
	"barkeep/internal/pgtest"
)

// way is how the bytes of a transcript reach barkeep: the answers are the same on each.
type way struct {
	name string
	// piece returns how many bytes of n go in one write, nil for all; merge has what comes in several reads go in one write.
	piece func(n int) int
	merge bool
	tls   bool
}

// randomPiece returns more often a few bytes than many.
func randomPiece(n int) int { return 1 + rand.IntN(min(n, 1<<rand.IntN(12))) }

var ways = []way{
	{name: "as they come"},
	{name: "byte by byte", piece: func(int) int { return 1 }},
	{name: "split and merged", piece: randomPiece, merge: true},
	{name: "TLS, split and merged", piece: randomPiece, merge: true, tls: true},
}

// TestTranscripts plays each transcript at PostgreSQL and through barkeep, on each way: the answers are the same, but where the
// file says otherwise. What the transcripts show together is complete.
func TestTranscripts(t *testing.T) {
	files, err := filepath.Glob("../testdata/pgwire/*.txt")
	require.NoError(t, err)
	require.NotEmpty(t, files)
	var shown coverage
	t.Run("play", func(t *testing.T) {
		for _, file := range files {
			t.Run(filepath.Base(file), func(t *testing.T) {
				t.Parallel()
				text, err := os.ReadFile(file)
				require.NoError(t, err)
				script := string(text)
				direct := newStage(t, way{}).direct(t, script)
				for _, on := range ways {
					if on.tls && strings.Contains(script, "start ssl") {
						continue // it has TLS already
					}
					t.Run(on.name, func(t *testing.T) {
						through := newStage(t, on).through(t, script)
						require.NoError(t, pgtest.Compare(script, direct, through))
						shown.add(script, through)
					})
				}
			})
		}
	})
	if !t.Failed() {
		require.Empty(t, shown.missing())
	}
}

// stage is what a transcript is played on: a database, and a barkeep in front of it.
type stage struct {
	*bar
	on     way
	fails  *scripted
	link   *netfault.Link // to PostgreSQL
	block  chan struct{}
	locker pgx.Tx
}

// never is later than a transcript ends.
const never = time.Hour

// scripted is a coordinator whose fetches fail while reason is set.
type scripted struct {
	Coordinator
	reason atomic.Pointer[error]
}

func (c *scripted) Ensure(ctx context.Context, request Request, progress func(market.Progress)) ([]string, error) {
	if reason := c.reason.Load(); reason != nil {
		return nil, *reason
	}
	return c.Coordinator.Ensure(ctx, request, progress)
}

func newStage(t *testing.T, on way) *stage {
	t.Helper()
	s := &stage{on: on, fails: &scripted{}}
	s.bar = start(t, func(cfg *Config) {
		cfg.NoticeAfter = never
		s.link = netfault.New(t, cfg.Upstream.Address)
		cfg.Upstream.Address = s.link.Addr()
		if on.piece != nil {
			cfg.Upstream.Address = rechunk(t, cfg.Upstream.Address, on)
		}
		if on.tls {
			cfg.TLS = &tls.Config{Certificates: []tls.Certificate{certtest.NewAuthority(t).Pair(t, "barkeep")}, MinVersion: tls.VersionTLS12}
		}
		s.fails.Coordinator, cfg.Coordinator = cfg.Coordinator, s.fails
	})
	require.NoError(t, s.fill(t.Context(), market.Series{Symbol: "sim:BTCUSD", Timeframe: market.M1}))
	return s
}

// replaceHost returns the address with another host and port.
func replaceHost(address, host string) string {
	before, rest, _ := strings.Cut(address, "@")
	_, path, _ := strings.Cut(rest, "/")
	return before + "@" + host + "/" + path
}

func hostIn(address string) string {
	_, rest, _ := strings.Cut(address, "@")
	host, _, _ := strings.Cut(rest, "/")
	return host
}

// direct plays at PostgreSQL. There a statement on ohlcv is held by a lock.
func (s *stage) direct(t *testing.T, script string) *pgtest.Record {
	t.Helper()
	t.Cleanup(func() {
		if s.locker != nil {
			_ = s.locker.Rollback(context.Background())
		}
	})
	none := func(context.Context, []string) error { return nil }
	hooks := s.hooks()
	maps.Copy(hooks, map[string]func(context.Context, []string) error{
		"hold": func(ctx context.Context, _ []string) (err error) {
			if s.locker, err = s.db.Pool.Begin(context.WithoutCancel(ctx)); err == nil {
				_, err = s.locker.Exec(ctx, "lock table public.ohlcv in access exclusive mode")
			}
			return err
		},
		"held":    func(ctx context.Context, _ []string) error { return s.waitsFor(ctx, "wait_event_type = 'Lock'") },
		"release": func(ctx context.Context, _ []string) error { return s.locker.Rollback(ctx) },
		"fails":   none, "works": none, "holds": none, "blocks": none, "forget": none, "notices": none, "quiet": none, "refresh": none,
		"stop": func(ctx context.Context, _ []string) error {
			_, err := s.db.Pool.Exec(ctx, "select pg_terminate_backend(pid) from pg_stat_activity where datname = current_database() and application_name = ''")
			return err
		},
	})
	record, err := pgtest.Play(t.Context(), pgtest.Peer{Name: "postgres", URL: replaceHost(s.db.URL, s.link.Addr()), Hooks: hooks}, script)
	require.NoError(t, err)
	return record
}

// through plays at barkeep.
func (s *stage) through(t *testing.T, script string) *pgtest.Record {
	t.Helper()
	hooks := s.hooks()
	maps.Copy(hooks, map[string]func(context.Context, []string) error{
		"hold": func(context.Context, []string) error {
			for len(s.began) > 0 {
				<-s.began
			}
			s.block = make(chan struct{})
			s.forget(s.block)
			return nil
		},
		"held": func(ctx context.Context, _ []string) error {
			select {
			case <-s.began:
				return nil
			case <-ctx.Done():
				return errors.New("nothing is held")
			}
		},
		"release": func(context.Context, []string) error { close(s.block); s.forget(nil); return nil },
		"fails": func(_ context.Context, words []string) error {
			reason := fmt.Errorf("ensure: %w", stated{words[0], "do this"})
			if words[0] == "XX000" {
				reason = errors.New("nobody vouches for this")
			}
			s.forget(nil)
			s.fails.reason.Store(&reason)
			return nil
		},
		"forget": func(context.Context, []string) error { s.forget(nil); return nil },
		"works":  func(context.Context, []string) error { s.fails.reason.Store(nil); return nil },
		"holds": func(_ context.Context, words []string) error {
			return s.limit(func(l *Limits) { l.MaxHolds = int(words[0][0] - '0') })
		},
		"notices": func(context.Context, []string) error {
			return s.limit(func(l *Limits) { l.NoticeAfter, l.NoticeEvery = time.Millisecond, never })
		},
		"quiet": func(context.Context, []string) error { return s.limit(func(l *Limits) { l.NoticeAfter = never }) },
		"blocks": func(context.Context, []string) error {
			for _, each := range s.server.list() {
				s.server.EndBlockingHold(each.pid)
			}
			return nil
		},
		"refresh": func(context.Context, []string) error { s.refresh(t); return nil }, //nolint:contextcheck // the test's
		"stop":    func(context.Context, []string) error { s.stop(); return nil },
	})
	peer := pgtest.Peer{Name: "barkeep", URL: s.url, Hooks: hooks}
	switch {
	case s.on.tls:
		peer.Dial = s.dialTLS
	case s.on.piece != nil:
		peer.URL = replaceHost(s.url, rechunk(t, hostIn(s.url), s.on))
	}
	record, err := pgtest.Play(t.Context(), peer, script)
	require.NoError(t, err, "%v", record)
	return record
}

// limit changes limits of barkeep's.
func (s *stage) limit(change func(*Limits)) error {
	limits := *s.server.limits()
	change(&limits)
	s.server.SetLimits(limits)
	return nil
}

// hooks are those that are the same at both.
func (s *stage) hooks() map[string]func(context.Context, []string) error {
	return map[string]func(context.Context, []string) error{
		"asleep": func(ctx context.Context, _ []string) error { return s.waitsFor(ctx, "wait_event = 'PgSleep'") },
		"down":   func(context.Context, []string) error { s.link.Down(); return nil },
		"up":     func(context.Context, []string) error { s.link.Up(); return nil },
		"reload": func(ctx context.Context, _ []string) error {
			_, err := s.db.Pool.Exec(ctx, "select pg_reload_conf()")
			return err
		},
	}
}

// waitsFor returns when one of the database's sessions is in the state.
func (s *stage) waitsFor(ctx context.Context, state string) error {
	for {
		var there bool
		err := s.db.Pool.QueryRow(ctx, "select exists (select from pg_stat_activity where datname = current_database() and "+state+")").Scan(&there)
		if err != nil || there {
			return err
		}
		if err := wait(ctx, 2*time.Millisecond); err != nil {
			return err
		}
	}
}

// dialTLS connects with TLS; each piece that is written is a record.
func (s *stage) dialTLS(ctx context.Context, address string) (net.Conn, error) {
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	encrypted, err := secure(ctx, conn, &Place{TLS: &tls.Config{InsecureSkipVerify: true}}, time.Minute)
	if err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return &pieceConn{Conn: encrypted, on: s.on}, nil
}

// pieceConn writes as its way says.
type pieceConn struct {
	net.Conn
	on way
}

func (p *pieceConn) Write(b []byte) (int, error) {
	written := 0
	for written < len(b) {
		n, err := p.Conn.Write(b[written : written+p.on.piece(len(b)-written)])
		written += n
		if err != nil {
			return written, err
		}
	}
	return written, nil
}

// rechunk relays to the address in other pieces, in both directions, and returns where it listens.
func rechunk(t *testing.T, address string, on way) string {
	t.Helper()
	return accepting(t, func(in net.Conn) {
		out, err := new(net.Dialer).DialContext(context.WithoutCancel(t.Context()), "tcp", address)
		if err != nil {
			return
		}
		var back sync.WaitGroup
		back.Go(func() { on.pass(in, out) })
		on.pass(out, in)
		back.Wait()
	})
}

// pass copies until an error.
func (w way) pass(to, from net.Conn) {
	defer func() { _, _ = to.Close(), from.Close() }()
	buf := make([]byte, 16<<10)
	into := &pieceConn{Conn: to, on: w}
	for have := 0; ; {
		until := time.Time{}
		if have > 0 { // perhaps more comes
			until = time.Now().Add(time.Millisecond)
		}
		_ = from.SetReadDeadline(until)
		n, err := from.Read(buf[have:])
		have += n
		late := errors.Is(err, os.ErrDeadlineExceeded)
		if w.merge && err == nil && have < len(buf) && rand.IntN(2) == 0 {
			continue
		}
		if _, failed := into.Write(buf[:have]); failed != nil {
			return
		}
		have = 0
		if err != nil && !late {
			return
		}
	}
}

// coverage is what transcripts show.
type coverage struct {
	mu      sync.Mutex // guards what follows
	types   map[string]bool
	codes   map[string]bool // severity and SQLSTATE
	hazards map[string]bool
}

func (c *coverage) add(script string, record *pgtest.Record) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.types == nil {
		c.types, c.codes, c.hazards = map[string]bool{}, map[string]bool{}, map[string]bool{}
	}
	maps.Copy(c.types, record.Types)
	for _, step := range record.Steps {
		for _, text := range step.Seen {
			if words := strings.Fields(text); words[0] == "E" {
				c.codes[words[1]+" "+words[2]] = true
			}
		}
	}
	for line := range strings.Lines(script) {
		if hazard, ok := strings.CutPrefix(strings.TrimSpace(line), "# hazard: "); ok {
			c.hazards[hazard] = true
		}
	}
}

// missing returns what must be shown and is not.
func (c *coverage) missing() []string {
	var list []string
	for _, each := range slices.Concat(clientTypes, upstreamTypes) {
		if !c.types[each] {
			list = append(list, "message "+each)
		}
	}
	for _, each := range statedCodes {
		if !c.codes[each] {
			list = append(list, "SQLSTATE "+each)
		}
	}
	for _, each := range hazards {
		if !c.hazards[each] {
			list = append(list, "hazard "+each)
		}
	}
	return list
}

// clientTypes are the messages of the manual's "Message Formats" that a client sends, but GSSResponse: there is no Kerberos to
// speak to, and barkeep refuses what asks for it (TestUnrelayedAuthentication).
var clientTypes = []string{
	"B>", "C>", "d>", "c>", "f>", "D>", "E>", "H>", "F>", "P>", "Q>", "S>", "X>",
	"CancelRequest>", "GSSENCRequest>", "SSLRequest>", "StartupMessage>",
}

// upstreamTypes are those that an upstream sends.
var upstreamTypes = []string{
	"<R Ok", "<K", "<2", "<3", "<C", "<d", "<c", "<G", "<H", "<W", "<D", "<I", "<E", "<V", "<v", "<n", "<N", "<A", "<t", "<S", "<1", "<s",
	"<Z", "<T",
}

// statedCodes are the rows of STYLE §5's table.
var statedCodes = []string{
	"FATAL 08P01", "FATAL 28000", "FATAL 53300", "FATAL 57P03", "FATAL 08006", "ERROR 0A000", "ERROR 40001", "ERROR 42501", "ERROR 53300", "ERROR 55P03",
	"ERROR 22023", "ERROR 54000", "ERROR 25P02", "ERROR 57014", "ERROR 58000", "ERROR 58030", "ERROR 53000", "FATAL 57P01", "ERROR XX000",
}

// hazards are those of PROTOCOL.md, "Traps", that a transcript can show.
var hazards = []string{
	"the status through savepoints, failures and their ends",
	"an implicit block: what is executed before the failure is not kept",
	"BEGIN and COMMIT in the middle of a Query and of a pipeline",
	"cursors live as long as their block, those WITH HOLD longer",
	"SET LOCAL ROLE is taken back by ROLLBACK TO",
	"cancel of an idle session",
	"cancel of a statement that was forwarded",
	"cancel of a held Query, which does not hit the next",
	"cancel of a held Query in a block: the upstream's block fails too",
	"cancel of a held segment",
	"cancel in the middle of a pipeline",
	"cancel of what comes after something that was executed in its segment",
	"cancel of a held COPY",
	"cancel of a held DECLARE",
	"cancel of a held EXECUTE",
	"cancel during a COPY from the client",
	"a Sync before the data of a COPY is ignored",
	"COPY whose messages do not wait for the upstream's word, and what comes between them",
	"NotificationResponse during a hold",
	"NOTICE of the progress, unless the session does not want to hear it",
	"what is pipelined behind a hold keeps its order",
	"statement_timeout during a hold",
	"transaction_timeout during a hold: its session outlives it",
	"a hold outlives the idle timeouts",
	"Terminate during a hold",
	"the upstream's FATAL during a hold",
	"a simple Query destroys the unnamed statement",
	"Describe and Flush before Bind (asyncpg, postgres.js)",
	"a name that is taken, and what is dropped until Sync",
	"a portal goes on behind PortalSuspended",
	"a message that does not belong in a COPY: PostgreSQL ends the session",
	"FunctionCall: int4pl(40, 2), text out; then one that is not there, and what follows it",
	"ParameterStatus, taken back by the rollback",
	"CopyData, CopyDone and CopyFail outside of a COPY are ignored",
	"Flush has no reply of its own; Sync after Sync",
	"BEGIN and the statement in one segment (JDBC)",
	"an error before it in the same segment",
	"a statement in a failed block is not held",
	"several segments at once; the failure of one leaves the others",
	"a Query while skipping is ignored until Sync",
	"one namespace: Parse and EXECUTE, PREPARE and Bind",
	"DEALLOCATE and Close take the name back",
	"TimeZone of literals",
	"DateStyle of literals",
	"a temporary table, a CTE and another schema that hide ohlcv",
	"views, EXPLAIN ANALYZE, COPY, CREATE TABLE AS, INSERT of a SELECT, LATERAL, TABLE in a subquery",
	"arguments arrive with Bind, for a statement that was described before",
	"a portal with a row limit is held once",
	"SQL PREPARE and EXECUTE, of an EXECUTE with parameters too",
	"DECLARE takes the snapshot, FETCH waits for nothing",
	"an error without a Sync: what follows is dropped, a Close has no answer, a Query is ignored",
	"a snapshot of REPEATABLE select count(*) from ohlcv where symbol = 'sim:BTCUSD' and timeframe = '1m' and ts >= '2024-01-01Z' and ts < '2024-01-02Z' that is older than the fill; the retry succeeds",
	"a snapshot of SERIALIZABLE that is older than the fill",
	"SSLRequest and GSSENCRequest that are declined, one after the other",
	"NegotiateProtocolVersion is the upstream's",
	"search_path in options",
	"CopyBoth by replication, which is passed through",
}
