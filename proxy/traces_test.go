package proxy

import (
	"context"
	"net"
	"strings"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5/pgproto3"
	"github.com/stretchr/testify/require"

	"barkeep/internal/market"
	"barkeep/internal/pgtest"
)

// spoiler relays a session to the upstream, and has statements of the proxy's own fail there.
type spoiler struct {
	mu      sync.Mutex // guards what follows
	spoils  func(sql string) bool
	spoiled int
}

// plan says what is spoiled from here on.
func (p *spoiler) plan(spoils func(sql string) bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.spoils, p.spoiled = spoils, 0
}

// count returns how many statements were spoiled since.
func (p *spoiler) count() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.spoiled
}

// listen returns an address that leads to the upstream's.
func (p *spoiler) listen(t *testing.T, upstream string) (address string) {
	t.Helper()
	return accepting(t, func(near net.Conn) {
		far, err := new(net.Dialer).DialContext(context.WithoutCancel(t.Context()), "tcp", upstream)
		if err != nil {
			return
		}
		packet, err := readStartup(near)
		if err != nil {
			_ = far.Close()
			return
		}
		_, _ = far.Write(packet)
		tunnel(&spoiledConn{Conn: near, spoiler: p}, far)
	})
}

// spoiledConn is what is read of the client of a relay.
type spoiledConn struct {
	net.Conn
	spoiler *spoiler
	left    []byte
}

func (c *spoiledConn) Read(b []byte) (int, error) {
	if len(c.left) == 0 {
		kind, body, err := readMessage(c.Conn)
		if err != nil {
			return 0, err
		}
		c.left = c.spoiler.spoil(kind, body)
	}
	n := copy(b, c.left)
	c.left = c.left[n:]
	return n, nil
}

// spoil returns the message, or one that cannot be executed: it parses, and fails as it is bound.
func (p *spoiler) spoil(kind byte, body []byte) []byte {
	p.mu.Lock()
	defer p.mu.Unlock()
	if kind == 'P' && p.spoils != nil {
		var parse pgproto3.Parse
		if parse.Decode(body) == nil && parse.Name == ownName && p.spoils(parse.Query) {
			p.spoiled++
			return encode(&pgproto3.Parse{Name: ownName, Query: "select 1/0"})
		}
	}
	return append([]byte{kind, byte((len(body) + 4) >> 24), byte((len(body) + 4) >> 16), byte((len(body) + 4) >> 8), byte(len(body) + 4)}, body...)
}

// nth spoils the statement of that number, from 1. Of the settings, which are read by one statement each, the first two count.
func nth(n int) func(sql string) bool {
	seen := 0
	return func(sql string) bool {
		if strings.HasPrefix(sql, "show ") && sql != "show search_path" && sql != "show transaction_isolation" {
			return false
		}
		seen++
		return seen == n
	}
}

// Two statements whose needs hang on more than their texts: on what the database has in a list, and on parameters.
const (
	listedRead = "select count(*) from ohlcv where symbol in (select symbol from watchlist where owner = 'me') and timeframe = '1m' and ts >= '2024-01-01Z' and ts < '2024-01-02Z'"
	askedRead  = "select count(*) from ohlcv where symbol = $1 and timeframe = '1m' and ts >= $2::timestamptz and ts < '2024-01-02Z'"
)

// left are the prepared statements and the portals of the proxy's own that a session can see.
const left = "select name from pg_prepared_statements where name ~ 'barkeep' union all select name from pg_cursors where name ~ 'barkeep'"

// Of what the proxy asks in a session of its own, nothing is left that its client can see, whichever of its statements fails upstream, and
// wherever it does: no prepared statement, no portal, no savepoint and no transaction. A session is never ended by it.
func TestNothingOfTheProxysOwnIsLeft(t *testing.T) {
	const block = "Q begin\nwait Z\nQ savepoint mine\nwait Z\n"
	spoiler := &spoiler{}
	f := newFeed()
	b := startWithLists(t, func(cfg *Config) {
		cfg.NoticeAfter, cfg.Live = never, f
		cfg.Upstream.Address = spoiler.listen(t, cfg.Upstream.Address)
	})
	for name, script := range map[string]string{
		"settings":         "Q " + read,
		"a question":       "Q " + listedRead,
		"an unknown name":  "Q execute nothing_of_mine",
		"its types":        "P s " + askedRead + "\nB - s sim:BTCUSD 2024-01-01Z\nE -\nS",
		"a refused Bind":   "P s " + askedRead + "\nB - s sim:BTCUSD 2023-13-45\nE -\nS",
		"a refused portal": "P s " + askedRead + "\nB p s sim:BTCUSD 2023-13-45\nE p\nS",
		"a refused text":   "P s selec " + askedRead + "\nB - s sim:BTCUSD 2024-01-01Z\nE -\nS",
		"a taken name":     "P s " + askedRead + "\nS\nwait Z\nP s " + askedRead + "\nB - s sim:BTCUSD 2024-01-01Z\nE -\nS",
		"a table's name":   "Q create temp table ohlcv as select * from public.ohlcv where false\nwait Z\nQ " + read,
		"a plan that is kept": "Q set local barkeep.mode = stored\nwait Z\nQ prepare v as " + read + "\nwait Z\nQ execute v\nwait Z\n" +
			"Q set local barkeep.mode = wait\nwait Z\ndo fill\nQ execute v",
		"its BEGIN":       "P - begin\nB - -\nE -\nP s " + askedRead + "\nB - s sim:NOSUCH 2023-13-45\nE -\nS",
		"a failed block":  "Q begin; select 1/0\nwait Z\nQ rollback; " + read,
		"channels":        `Q listen "ohlcv.BTCUSD.1m"` + "\nwait Z\nQ select 1",
		"what it defines": "Q do 'begin create temp view mine as select 1; end'\nwait Z\nQ " + read,
	} {
		for _, in := range []string{"", block} {
			t.Run(name+map[string]string{"": "", block: ", in a block"}[in], func(t *testing.T) {
				for n := 1; ; n++ {
					spoiler.plan(nth(n))
					seen := b.playedToTheEnd(t, in+script+"\nwait Z\nQ rollback to mine\nwait Z\nQ "+left+"\nwait Z\nQ rollback\nwait Z\nQ "+left+"\nwait Z")
					require.NotContains(t, seen, "\nD barkeep", "statement %d", n)
					require.True(t, strings.HasSuffix(seen, "\nC SELECT 0\nZ I"), "statement %d: %s", n, seen)
					if spoiler.count() == 0 {
						require.Greater(t, n, 2, "nothing was asked")
						break
					}
				}
			})
		}
	}
}

// playedToTheEnd returns what a script has brought.
func (b *bar) playedToTheEnd(t *testing.T, script string) string {
	t.Helper()
	b.forget(nil)
	record, err := pgtest.Play(t.Context(), pgtest.Peer{URL: b.url, Hooks: map[string]func(context.Context, []string) error{
		"fill": func(ctx context.Context, _ []string) error {
			return b.fill(ctx, market.Series{Symbol: "sim:BTCUSD", Timeframe: market.M1})
		},
	}}, script)
	require.NoError(t, err, "%+v", record)
	var all []string
	for _, step := range record.Steps {
		all = append(all, step.Seen...)
	}
	return strings.Join(all, "\n")
}

// TestRule19_ABlockThatAQuestionHasFailed: where a question cannot be taken back, however often that is tried, the client's block has failed. It is told
// so (25P02), nothing that comes then is executed, whatever it reads, and nothing behind the end of the block in the same message. A ROLLBACK
// of the client's ends that.
func TestRule19_ABlockThatAQuestionHasFailed(t *testing.T) {
	const failed = "E ERROR 25P02 current transaction is aborted, commands ignored until end of transaction block"
	spoiler := &spoiler{}
	b := startWithLists(t, func(cfg *Config) {
		cfg.NoticeAfter = never
		cfg.Upstream.Address = spoiler.listen(t, cfg.Upstream.Address)
	})
	const begin = "Q begin; insert into watchlist values ('sim:LTCUSD', 'you')\nwait Z\n"
	for name, c := range map[string]struct{ spoiled, script string }{
		"a Query":              {`rollback to savepoint "barkeep/own"`, begin + "Q " + listedRead},
		"extended":             {`rollback to savepoint "barkeep/own"`, begin + "P - " + listedRead + "\nB - -\nE -\nS"},
		"a refused Bind":       {`rollback to savepoint "barkeep/own"`, begin + "P s " + askedRead + "\nB - s sim:BTCUSD soon\nE -\nS"},
		"its end":              {`release savepoint "barkeep/own"`, begin + "Q " + listedRead},
		"behind its own end":   {`rollback to savepoint "barkeep/own"`, begin + "Q " + listedRead + "; rollback; insert into watchlist values ('sim:BCHUSD', 'you'); " + read},
		"behind the block":     {"show search_path", begin + "Q set local search_path = public\nwait Z\nQ rollback; " + read},
		"outside of any block": {"rollback", "Q " + listedRead},
	} {
		t.Run(name, func(t *testing.T) {
			tries, times := 1+endTries, 0
			if name == "behind the block" { // it is not a question, and is not taken back
				tries = 1
			}
			spoiler.plan(func(sql string) bool {
				if sql != c.spoiled || times == tries {
					return false
				}
				times++
				return true
			})
			seen := b.playedToTheEnd(t, c.script+"\nwait Z\nQ select 1\nwait Z\nQ "+read+"\nwait Z\nQ rollback\nwait Z\nQ "+left+"\nwait Z\nQ "+read+"\nwait Z")
			require.Equal(t, tries, spoiler.count(), seen)
			require.Equal(t, 3, strings.Count(seen, failed), seen)
			require.Equal(t, 3, strings.Count(seen, "\nZ E"), seen)
			require.NotContains(t, seen, "\nD barkeep")
			require.True(t, strings.HasSuffix(seen, "\nD 10\nC SELECT 1\nZ I"), seen)
			var others int
			require.NoError(t, b.db.Pool.QueryRow(t.Context(), "select count(*) from public.watchlist where owner = 'you'").Scan(&others))
			require.Equal(t, 1, others, "nothing is left of the block")
		})
	}
}
