package proxy

import (
	"context"
	"fmt"
	"net"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"
	"github.com/stretchr/testify/require"

	"barkeep/internal/certtest"
	"barkeep/internal/market"
)

// feed is live bars as a test gives them.
type feed struct {
	mu       sync.Mutex // guards what follows
	subs     map[*fedSubscription]market.Series
	askedBy  []string
	changed  chan struct{} // closed and replaced when a subscription comes or goes
	known    chan struct{} // Known waits for it to close
	knowing  chan struct{}
	unlisted map[market.Symbol]bool
}

type fedSubscription struct {
	feed  *feed
	wake  func()
	queue []string // guarded by the feed's mu
}

func newFeed() *feed {
	return &feed{
		subs: map[*fedSubscription]market.Series{}, changed: make(chan struct{}), knowing: make(chan struct{}, 100),
		unlisted: map[market.Symbol]bool{"NOSUCH": true},
	}
}

func (f *feed) Known(ctx context.Context, series market.Series) error {
	f.knowing <- struct{}{}
	f.mu.Lock()
	known, unlisted := f.known, f.unlisted[series.Symbol]
	f.mu.Unlock()
	if known != nil {
		select {
		case <-known:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	if unlisted {
		return &Error{Code: pgerrcode.InvalidParameterValue, Message: "no source knows symbol " + string(series.Symbol)}
	}
	return nil
}

// MayFollow has no quotas; a real coordinator's are asked for in cmd/barkeep.
func (*feed) MayFollow(context.Context, string, ...market.Series) error { return nil }

func (*feed) Want(context.Context, string, market.Series) error { return nil }

func (f *feed) Subscribe(series market.Series, askedBy string, wake func()) Subscription {
	f.mu.Lock()
	defer f.mu.Unlock()
	sub := &fedSubscription{feed: f, wake: wake}
	f.subs[sub] = series
	f.askedBy = append(f.askedBy, askedBy)
	f.change()
	return sub
}

func (f *feed) change() {
	close(f.changed)
	f.changed = make(chan struct{})
}

func (s *fedSubscription) Next() ([]byte, bool) {
	s.feed.mu.Lock()
	defer s.feed.mu.Unlock()
	if len(s.queue) == 0 {
		return nil, false
	}
	next := s.queue[0]
	s.queue = s.queue[1:]
	return []byte(next), true
}

func (s *fedSubscription) Close() {
	s.feed.mu.Lock()
	defer s.feed.mu.Unlock()
	delete(s.feed.subs, s)
	s.feed.change()
}

// give gives a payload to all who listen to the series.
func (f *feed) give(series market.Series, payload string) {
	f.mu.Lock()
	var wakes []func()
	for sub, of := range f.subs {
		if of == series {
			sub.queue = append(sub.queue, payload)
			wakes = append(wakes, sub.wake)
		}
	}
	f.mu.Unlock()
	for _, wake := range wakes {
		wake()
	}
}

// await waits until so many subscriptions are there.
func (f *feed) await(t *testing.T, n int) {
	t.Helper()
	deadline := time.After(time.Minute)
	for {
		f.mu.Lock()
		have, changed := len(f.subs), f.changed
		f.mu.Unlock()
		if have == n {
			return
		}
		select {
		case <-changed:
		case <-deadline:
			require.FailNow(t, "subscriptions", "%d instead of %d", have, n)
		}
	}
}

func (f *feed) now() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.subs)
}

var btc = market.Series{Symbol: "BTCUSD", Timeframe: market.M1}

// startLive starts a proxy with a feed; sessions with TLS have two goroutines each, others are relayed by event loops.
func startLive(t *testing.T, withTLS bool) (*bar, *feed) {
	t.Helper()
	f := newFeed()
	b := start(t, func(c *Config) {
		c.Live = f
		if withTLS {
			c.TLS = shows(t, certtest.NewAuthority(t))
		}
	})
	if withTLS {
		b.url = b.with("sslmode=require")
	}
	return b, f
}

// both runs the test for sessions of event loops and for those of goroutines.
func both(t *testing.T, test func(t *testing.T, b *bar, f *feed)) {
	t.Helper()
	for _, withTLS := range []bool{false, true} {
		t.Run(fmt.Sprintf("TLS=%v", withTLS), func(t *testing.T) {
			t.Parallel()
			b, f := startLive(t, withTLS)
			test(t, b, f)
		})
	}
}

func notification(t *testing.T, conn *pgx.Conn) *pgconn.Notification {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	n, err := conn.WaitForNotification(ctx)
	require.NoError(t, err)
	return n
}

func run(t *testing.T, conn *pgx.Conn, list ...string) {
	t.Helper()
	for _, sql := range list {
		_, err := conn.Exec(t.Context(), sql)
		require.NoError(t, err, sql)
	}
}

// madeListen is SQL that makes a LISTEN which nobody can see in it.
func madeListen(series string) string {
	return `do $$ begin execute format('listen %I', concat('oh', 'lcv.', '` + series + `')); end $$`
}

// TestListenTakesEffectAtCommit: what a session listens to is what PostgreSQL says, in and out of blocks.
func TestListenTakesEffectAtCommit(t *testing.T) {
	t.Parallel()
	both(t, func(t *testing.T, b *bar, f *feed) {
		t.Helper()
		conn := b.connect(t, nil)
		run(t, conn, `set barkeep.mode = 'stored'`) // else made SQL is refused, which may read ohlcv
		for _, c := range []struct {
			name string
			sql  []string
			want int
		}{
			{"alone", []string{`listen "ohlcv.BTCUSD.1m"`}, 1},
			{"twice", []string{`listen "ohlcv.BTCUSD.1m"`, `listen "ohlcv.BTCUSD.1m"`}, 1},
			{"unlisten", []string{`listen "ohlcv.BTCUSD.1m"`, `listen "ohlcv.ETHUSD.1m"`, `unlisten "ohlcv.BTCUSD.1m"`}, 1},
			{"unlisten all", []string{`listen "ohlcv.BTCUSD.1m"`, `unlisten *`}, 0},
			{"discard all", []string{`listen "ohlcv.BTCUSD.1m"`, `discard all`, `set barkeep.mode = 'stored'`}, 0},
			{"committed", []string{`begin`, `listen "ohlcv.BTCUSD.1m"`, `select 1`, `commit`}, 1},
			{"rolled back", []string{`begin`, `listen "ohlcv.BTCUSD.1m"`, `rollback`}, 0},
			{"unlisten rolled back", []string{`listen "ohlcv.BTCUSD.1m"`, `begin`, `unlisten *`, `rollback`}, 1},
			{"savepoint", []string{
				`begin`, `listen "ohlcv.BTCUSD.1m"`, `savepoint a`, `listen "ohlcv.ETHUSD.1m"`, `rollback to a`, `listen "ohlcv.LTCUSD.1m"`, `commit`,
			}, 2},
			{"several of one Query", []string{`begin; listen "ohlcv.BTCUSD.1m"; listen "ohlcv.coinbase:BTC.USD.1M"; commit`}, 2},
			{"made SQL", []string{madeListen("BTCUSD.1h")}, 1},
			{"another's", []string{`listen "ohlcv"`, `listen ohlcv_changes`}, 0},
		} {
			run(t, conn, c.sql...)
			f.await(t, c.want)
			run(t, conn, `unlisten *`)
			f.await(t, 0)
		}
		require.NoError(t, conn.Close(t.Context()))
	})
}

// TestListenInABlock: nothing is subscribed, nor notified, before the block ends; an error undoes it.
func TestListenInABlock(t *testing.T) {
	t.Parallel()
	both(t, func(t *testing.T, b *bar, f *feed) {
		t.Helper()
		conn := b.connect(t, nil)
		run(t, conn, `listen "ohlcv.BTCUSD.1m"`)
		f.await(t, 1)
		run(t, conn, `begin`, `listen "ohlcv.ETHUSD.1m"`)
		f.give(btc, `{"a":1}`)
		rows, err := conn.Query(t.Context(), `select pg_listening_channels()`)
		require.NoError(t, err)
		channels, err := pgx.CollectRows(rows, pgx.RowTo[string])
		require.NoError(t, err)
		require.Equal(t, []string{"ohlcv.BTCUSD.1m"}, channels)
		require.Equal(t, 1, f.now())
		_, err = conn.Exec(t.Context(), `select 1/0`)
		require.Error(t, err)
		run(t, conn, `rollback`)
		n := notification(t, conn)
		require.Equal(t, &pgconn.Notification{Channel: "ohlcv.BTCUSD.1m", Payload: `{"a":1}`}, n)
		require.Equal(t, 1, f.now())
	})
}

// TestListenExtended: by Parse, Bind and Execute, with a named statement and a named portal too.
func TestListenExtended(t *testing.T) {
	t.Parallel()
	both(t, func(t *testing.T, b *bar, f *feed) {
		t.Helper()
		client := messagesOf(t, b)
		client.say(
			&pgproto3.Parse{Name: "l", Query: `listen "ohlcv.BTCUSD.1m"`}, &pgproto3.Bind{PreparedStatement: "l"}, &pgproto3.Execute{}, &pgproto3.Sync{})
		require.Equal(t, "12CZ", client.until('Z'))
		f.await(t, 1)
		client.say(&pgproto3.Query{String: "unlisten *"})
		require.Equal(t, "CZ", client.until('Z'))
		f.await(t, 0)
		client.say(&pgproto3.Query{String: "begin"}, &pgproto3.Bind{DestinationPortal: "p", PreparedStatement: "l"}, &pgproto3.Sync{},
			&pgproto3.Execute{Portal: "p"}, &pgproto3.Flush{})
		require.Equal(t, "CZ2ZC", client.until('C')+client.until('C'))
		client.say(&pgproto3.Sync{}, &pgproto3.Query{String: "select 1"}, &pgproto3.Query{String: "commit"})
		require.Equal(t, "ZTDCZCZ", client.until('Z')+client.until('Z')+client.until('Z'))
		f.await(t, 1)
		f.give(btc, `{}`)
		require.Equal(t, "A", client.until('A'))
		client.say(&pgproto3.Terminate{})
		f.await(t, 0)
	})
}

// rawMessages is a client that sees messages.
type rawMessages struct {
	t     *testing.T
	conn  net.Conn
	front *pgproto3.Frontend
}

func messagesOf(t *testing.T, b *bar) *rawMessages {
	t.Helper()
	conn := b.connect(t, nil)
	raw, err := conn.PgConn().Hijack()
	require.NoError(t, err)
	t.Cleanup(func() { _ = raw.Conn.Close() })
	require.NoError(t, raw.Conn.SetDeadline(time.Now().Add(2*time.Minute)))
	return &rawMessages{t: t, conn: raw.Conn, front: raw.Frontend}
}

func (c *rawMessages) say(list ...pgproto3.FrontendMessage) {
	c.t.Helper()
	for _, each := range list {
		c.front.Send(each)
	}
	require.NoError(c.t, c.front.Flush())
}

// until returns the types of the messages up to the first of that type.
func (c *rawMessages) until(kind byte) string {
	c.t.Helper()
	var types strings.Builder
	for {
		message, err := c.front.Receive()
		require.NoError(c.t, err, types.String())
		encoded, err := message.Encode(nil)
		require.NoError(c.t, err)
		types.WriteByte(encoded[0])
		if encoded[0] == kind {
			return types.String()
		}
	}
}

// TestNotifiedWherePostgreSQLDoes: right before ReadyForQuery outside of a block, or while idle outside of one; never in a block, nor in the
// middle of an answer.
func TestNotifiedWherePostgreSQLDoes(t *testing.T) {
	t.Parallel()
	both(t, func(t *testing.T, b *bar, f *feed) {
		t.Helper()
		client := messagesOf(t, b)
		client.say(&pgproto3.Query{String: `listen "ohlcv.BTCUSD.1m"`})
		client.until('Z')
		f.await(t, 1)
		f.give(btc, `{}`)
		require.Equal(t, "A", client.until('A'), "an idle client wakes")

		client.say(&pgproto3.Query{String: `begin`})
		require.Equal(t, "CZ", client.until('Z'))
		f.give(btc, `{}`)
		client.say(&pgproto3.Query{String: `select generate_series(1, 2)`})
		require.Equal(t, "TDDCZ", client.until('Z'))
		client.say(&pgproto3.Query{String: `commit`})
		require.Equal(t, "CAZ", client.until('Z'))

		// The statement waits for a lock while bars come.
		holder := b.connect(t, nil)
		run(t, holder, `select pg_advisory_lock(7)`)
		client.say(&pgproto3.Query{String: `select 1; select pg_advisory_lock(7); select 2`})
		require.Eventually(t, func() bool {
			var waits bool
			return holder.QueryRow(t.Context(), `select exists (select from pg_locks where locktype = 'advisory' and not granted
				and database = (select oid from pg_database where datname = current_database()))`).Scan(&waits) == nil && waits
		}, time.Minute, 5*time.Millisecond)
		for range 3 {
			f.give(btc, `{}`)
		}
		run(t, holder, `select pg_advisory_unlock(7)`)
		require.Equal(t, "TDCTDCTDCAAAZ", client.until('Z'))

		// Pipelined statements are no block.
		client.say(&pgproto3.Parse{Query: `select 1`}, &pgproto3.Bind{}, &pgproto3.Execute{}, &pgproto3.Flush{})
		require.Equal(t, "12DC", client.until('C'))
		f.give(btc, `{}`)
		client.say(&pgproto3.Execute{}, &pgproto3.Sync{})
		require.Equal(t, "CAZ", client.until('Z'))
	})
}

// TestUnlistenIsTheEnd: what had come before is not notified after it.
func TestUnlistenIsTheEnd(t *testing.T) {
	t.Parallel()
	both(t, func(t *testing.T, b *bar, f *feed) {
		t.Helper()
		client := messagesOf(t, b)
		client.say(&pgproto3.Query{String: `listen "ohlcv.BTCUSD.1m"`})
		client.until('Z')
		f.await(t, 1)
		client.say(&pgproto3.Query{String: `begin`})
		client.until('Z')
		f.give(btc, `{}`)
		client.say(&pgproto3.Query{String: `unlisten *`}, &pgproto3.Query{String: `commit`}, &pgproto3.Query{String: `select 1`})
		require.Equal(t, "CZCZTDCZ", client.until('Z')+client.until('Z')+client.until('Z'))
		f.await(t, 0)
	})
}

// TestListenRefused: a name that is no series, is too long, or that nobody knows is an error, also in a block, which fails then.
func TestListenRefused(t *testing.T) {
	t.Parallel()
	b, f := startLive(t, false)
	run(t, b.connect(t, nil), `create role live_stranger login; grant usage on schema public to live_stranger`)
	t.Cleanup(func() {
		_, err := b.db.Pool.Exec(context.Background(), `drop owned by live_stranger; drop role live_stranger`)
		require.NoError(t, err)
	})
	for _, c := range []struct{ role, sql, code, word string }{
		{"", `listen "ohlcv.BTCUSD.7m"`, pgerrcode.InvalidParameterValue, "7m"},
		{"", `listen "ohlcv.BTCUSD"`, pgerrcode.InvalidParameterValue, "timeframe"},
		{"", `listen "ohlcv..1m"`, pgerrcode.InvalidParameterValue, "symbol"},
		{"", `listen "ohlcv.NOSUCH.1m"`, pgerrcode.InvalidParameterValue, "NOSUCH"},
		{"", `listen "ohlcv.` + strings.Repeat("X", 60) + `.1m"`, pgerrcode.NameTooLong, "63 bytes"},
		{"", `listen ohlcv.x`, pgerrcode.SyntaxError, "syntax error"},
		{"live_stranger", `listen "ohlcv.BTCUSD.1m"`, pgerrcode.InsufficientPrivilege, "permission denied"},
	} {
		for _, mode := range []pgx.QueryExecMode{pgx.QueryExecModeSimpleProtocol, pgx.QueryExecModeCacheStatement} {
			for _, inBlock := range []bool{false, true} {
				conn := b.connect(t, nil)
				if c.role != "" {
					run(t, conn, "set role "+c.role)
				}
				if inBlock {
					run(t, conn, `begin`)
				}
				_, err := conn.Exec(t.Context(), c.sql, mode)
				var told *pgconn.PgError
				require.ErrorAs(t, err, &told, c.sql)
				require.Equal(t, c.code, told.Code, c.sql)
				require.Contains(t, told.Message, c.word)
				if inBlock {
					require.Equal(t, byte('E'), conn.PgConn().TxStatus())
					run(t, conn, `rollback`)
				}
				require.NoError(t, conn.Close(t.Context()))
			}
		}
	}
	require.Zero(t, f.now())
	require.Empty(t, f.askedBy)
}

// TestListenUnseen: what a function listens to is found out when it has; a role that may not read gets a WARNING and no bars.
func TestListenUnseen(t *testing.T) {
	t.Parallel()
	b, f := startLive(t, false)
	run(t, b.connect(t, nil), `create role live_unseen login; grant usage on schema public to live_unseen`)
	t.Cleanup(func() {
		_, err := b.db.Pool.Exec(context.Background(), `drop owned by live_unseen; drop role live_unseen`)
		require.NoError(t, err)
	})
	notices := make(chan string, 10)
	conn := b.connect(t, notices)
	run(t, conn, `set barkeep.mode = 'stored'`, `set role live_unseen`, madeListen("BTCUSD.1m"))
	run(t, conn, `select 1`) // pgx reads when it is asked something
	require.Contains(t, <-notices, "it runs a DO block")
	require.Contains(t, <-notices, `no bars on channel "ohlcv.BTCUSD.1m": permission denied`)
	require.Zero(t, f.now())
	run(t, conn, `reset role`, madeListen("ETHUSD.1m"))
	f.await(t, 2)
}

// TestListenHeld: a LISTEN that waits for the sources' lists can be cancelled, and is not executed then.
func TestListenHeld(t *testing.T) {
	t.Parallel()
	both(t, func(t *testing.T, b *bar, f *feed) {
		t.Helper()
		f.known = make(chan struct{})
		conn := b.connect(t, nil)
		run(t, conn, `select 1`)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		ended := make(chan error, 1)
		go func() { _, err := conn.Exec(t.Context(), `listen "ohlcv.BTCUSD.1m"`); ended <- err }()
		<-f.knowing
		require.NoError(t, conn.PgConn().CancelRequest(ctx))
		var told *pgconn.PgError
		require.ErrorAs(t, <-ended, &told)
		require.Equal(t, pgerrcode.QueryCanceled, told.Code)
		var n int
		require.NoError(t, conn.QueryRow(t.Context(), `select count(*) from pg_listening_channels()`).Scan(&n))
		require.Zero(t, n)
	})
}

// TestListenersEnd: a session that ends in any way ends its interest.
func TestListenersEnd(t *testing.T) {
	t.Parallel()
	both(t, func(t *testing.T, b *bar, f *feed) {
		t.Helper()
		for name, end := range map[string]func(conn *pgx.Conn){
			"terminate": func(conn *pgx.Conn) { require.NoError(t, conn.Close(t.Context())) },
			"cut":       func(conn *pgx.Conn) { require.NoError(t, conn.PgConn().Conn().Close()) },
			"killed upstream": func(conn *pgx.Conn) {
				_, err := b.db.Pool.Exec(t.Context(), `select pg_terminate_backend($1)`, conn.PgConn().PID())
				require.NoError(t, err)
			},
		} {
			conn := b.connect(t, nil)
			run(t, conn, `listen "ohlcv.BTCUSD.1m"`)
			f.await(t, 1)
			end(conn)
			f.await(t, 0)
			t.Log(name)
		}
		run(t, b.connect(t, nil), `listen "ohlcv.BTCUSD.1m"`)
		f.await(t, 1)
		b.stop()
		f.await(t, 0)
	})
}

// TestListenBesideStatements: a session that listens and asks at the same time gets each bar once, and its answers whole, with COPY and with
// pipelines.
func TestListenBesideStatements(t *testing.T) {
	t.Parallel()
	both(t, func(t *testing.T, b *bar, f *feed) {
		t.Helper()
		var got []string
		config, err := pgx.ParseConfig(b.url)
		require.NoError(t, err)
		config.OnNotification = func(_ *pgconn.PgConn, n *pgconn.Notification) { got = append(got, n.Payload) }
		conn, err := pgx.ConnectConfig(t.Context(), config)
		require.NoError(t, err)
		defer conn.Close(context.Background())
		run(t, conn, `listen "ohlcv.BTCUSD.1m"`, `create temporary table x (n int)`)
		f.await(t, 1)
		const rounds = 200
		var want []string
		for i := range rounds {
			want = append(want, fmt.Sprintf(`{"seq":%d}`, i))
			f.give(btc, want[i])
			switch i % 4 {
			case 0:
				run(t, conn, `listen "ohlcv.ETHUSD.1m"`)
			case 1:
				n, err := conn.CopyFrom(t.Context(), pgx.Identifier{"x"}, []string{"n"}, pgx.CopyFromRows([][]any{{1}, {2}}))
				require.NoError(t, err)
				require.Equal(t, int64(2), n)
			case 2:
				batch := &pgx.Batch{}
				for range 5 {
					batch.Queue(`select $1::int`, i)
				}
				require.NoError(t, conn.SendBatch(t.Context(), batch).Close())
			case 3:
				tx, err := conn.Begin(t.Context())
				require.NoError(t, err)
				_, err = tx.Exec(t.Context(), `unlisten "ohlcv.ETHUSD.1m"`)
				require.NoError(t, err)
				require.NoError(t, tx.Commit(t.Context()))
			}
		}
		for len(got) < rounds {
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			err := conn.PgConn().WaitForNotification(ctx)
			cancel()
			require.NoError(t, err)
		}
		require.Equal(t, want, got)
	})
}

// TestSlowClientKeepsNobody: one that does not read gets no more than its socket takes, and others all; when it reads it gets the rest.
func TestSlowClientKeepsNobody(t *testing.T) {
	t.Parallel()
	both(t, func(t *testing.T, b *bar, f *feed) {
		t.Helper()
		slow, quick := b.connect(t, nil), b.connect(t, nil)
		for i, conn := range []*pgx.Conn{slow, quick} {
			run(t, conn, `listen "ohlcv.BTCUSD.1m"`)
			f.await(t, i+1)
		}
		payload := strings.Repeat("x", 4000)
		const count = 5000 // 20 MB: more than sockets take
		for i := range count {
			f.give(btc, fmt.Sprintf("%d %s", i, payload))
		}
		for _, conn := range []*pgx.Conn{quick, slow} {
			for i := range count {
				require.True(t, strings.HasPrefix(notification(t, conn).Payload, fmt.Sprintf("%d x", i)))
			}
		}
	})
}

// TestListenIsShown: List names what sessions listen to.
func TestListenIsShown(t *testing.T) {
	t.Parallel()
	b, f := startLive(t, false)
	run(t, b.connect(t, nil), `listen "ohlcv.ETHUSD.1m"`, `listen "ohlcv.BTCUSD.1m"`)
	f.await(t, 2)
	require.Eventually(t, func() bool {
		list := b.server.List()
		return len(list) == 1 && slices.Equal([]string{"ohlcv.BTCUSD.1m", "ohlcv.ETHUSD.1m"}, list[0].Live)
	}, time.Minute, 10*time.Millisecond)
}

// TestListenElsewhere: sessions of other databases are PostgreSQL's alone.
func TestListenElsewhere(t *testing.T) {
	t.Parallel()
	b, f := startLive(t, false)
	at, err := url.Parse(b.url)
	require.NoError(t, err)
	at.Path = "/postgres"
	conn, err := pgx.Connect(t.Context(), at.String())
	require.NoError(t, err)
	defer conn.Close(context.Background())
	run(t, conn, `listen "ohlcv.NOSUCH.1m"`, `listen "ohlcv.BTCUSD.1m"`, `select 1`)
	require.Zero(t, f.now(), "another database is relayed")
}
