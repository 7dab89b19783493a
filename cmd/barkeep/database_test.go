package main

import (
	"encoding/binary"
	"io"
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
	"github.com/stretchr/testify/require"

	"barkeep/backfill/coverage"
	"barkeep/internal/exchange"
	"barkeep/internal/market"
	"barkeep/internal/netfault"
)

// TestRule19_DatabaseComesBackWithoutItsLastCommits: in mid-job the database is replaced by what it was some jobs ago,
// before it knew one of the symbols. What it lost is a gap again: no statement finds a hole, and what was lost is read from
// the log or fetched once more, as comes first, not oftener.
func TestRule19_DatabaseComesBackWithoutItsLastCommits(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	proxy := s.start("proxy")
	s.start("producer")
	s.start("consumer")
	kept, lost, pending := minutes("2024-01-01T00:00:00Z", 4), minutes("2024-03-01T00:00:00Z", 10), minutes("2024-06-01T00:00:00Z", 60)
	s.right(kept, s.asking(s.connect(proxy), kept))
	s.holds(kept)
	comeBack := s.db.Keep(t)

	conn := s.connectSoon(proxy)
	s.right(lost, s.asking(conn, lost))
	day := minutes("2024-10-01T00:00:00Z", 1)
	s.rightOf(conn, "binance:ETHBTC", day, exchange.Truth("ETH", "BTC", market.M1, day))
	s.holds(lost)
	s.exchange.Script(exchange.Fault{Path: "klines", Delay: 100 * time.Millisecond})
	got := s.asking(conn, pending)
	s.until("the job is under way", func() bool { pages, _ := s.fetched(pending); return pages >= 20 })
	comeBack()
	require.Error(t, (<-got).err, "its session ended with the database")

	conn = s.connectSoon(proxy)
	s.right(kept, s.asking(conn, kept))
	s.right(lost, s.asking(conn, lost))
	s.right(pending, s.asking(conn, pending))
	s.rightOf(conn, "binance:ETHBTC", day, exchange.Truth("ETH", "BTC", market.M1, day))
	for _, r := range []market.Range{kept, lost, pending} {
		s.holds(r)
	}
	s.once(kept)
	_, again := s.fetched(lost)
	require.LessOrEqual(t, again, 10, "pages fetched again")
	_, again = s.fetched(pending)
	require.LessOrEqual(t, again, 20+inHand, "pages fetched again")
}

// connectSoon opens a session as soon as the database takes one.
func (s *site) connectSoon(p *process) (conn *pgx.Conn) {
	s.t.Helper()
	config := s.db.Pool.Config().ConnConfig
	s.until("the database takes sessions", func() bool {
		probe, err := pgx.Connect(s.t.Context(), "postgres://"+config.User+":"+config.Password+"@"+p.addr+"/"+config.Database+"?sslmode=disable")
		if err != nil {
			return false
		}
		return probe.Close(s.t.Context()) == nil
	})
	return s.connect(p)
}

// rightOf demands that the minutes of another symbol are answered as they are in truth.
func (s *site) rightOf(conn *pgx.Conn, of market.Symbol, r market.Range, want []market.Bar) {
	s.t.Helper()
	var bars int
	var sum float64
	require.NoError(s.t, conn.QueryRow(s.t.Context(), `select count(*), sum(close) from public.ohlcv
	  where symbol = $1 and timeframe = '1m' and ts >= $2 and ts < $3`, string(of), r.Start.Time(), r.End.Time()).Scan(&bars, &sum))
	require.Len(s.t, want, bars)
	for _, b := range want {
		sum -= b.Close
	}
	require.InDelta(s.t, 0, sum, 1e-3)
}

// TestRule7_ADeafProxyDoesNotRelyOnItsIndex: coverage is withdrawn, and its rows are deleted as soon as nobody may vouch for
// them any more, while a proxy cannot hear of it. No statement gets an answer with a hole in it.
func TestRule7_ADeafProxyDoesNotRelyOnItsIndex(t *testing.T) {
	t.Parallel()
	for name, deafen := range map[string]func(*netfault.Link){"stalled": (*netfault.Link).Stall, "broken": (*netfault.Link).Down} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, service, conn, r := deafSite(t)
			deafen(service)
			s.withdrawAndDelete(conn, r)
			_, err := ask(t.Context(), conn, r)
			require.Error(t, err, "the rows are gone and the proxy cannot know")
			_, err = conn.Exec(t.Context(), `reset barkeep.timeout`)
			require.NoError(t, err)
			got := s.asking(conn, r)
			service.Up()
			s.right(r, got)
			s.holds(r)
			_, again := s.fetched(r)
			require.Equal(t, 1, again, "the page that was withdrawn")
		})
	}
}

// TestRule7_AProxyLeavesConnectionsThatAreDead: the address leads on, but what was open to it is gone without a word. The
// proxy is right, and does not wait for TCP.
func TestRule7_AProxyLeavesConnectionsThatAreDead(t *testing.T) {
	t.Parallel()
	s, service, conn, r := deafSite(t)
	service.Strand()
	s.withdrawAndDelete(conn, r)
	_, err := conn.Exec(t.Context(), `set barkeep.timeout = '60s'`)
	require.NoError(t, err)
	s.right(r, s.asking(conn, r))
	s.holds(r)
}

// deafSite gives a site whose proxy talks to the database over a link of its own, but for its clients' sessions, and a
// session with a timeout of two seconds to which r was answered.
func deafSite(t *testing.T) (*site, *netfault.Link, *pgx.Conn, market.Range) {
	t.Helper()
	s := newSite(t)
	address, err := url.Parse(s.databaseURL)
	require.NoError(t, err)
	fork := newFork(t, address.Host)
	address.Host = fork.listener.Addr().String()
	forked := *s
	forked.databaseURL = address.String()
	proxy := forked.start("proxy")
	s.start("producer")
	s.start("consumer")
	r := minutes("2024-01-01T00:00:00Z", 3)
	conn := s.connect(proxy)
	s.right(r, s.asking(conn, r))
	s.holds(r)
	_, err = conn.Exec(t.Context(), `set barkeep.timeout = '2s'`)
	require.NoError(t, err)
	return s, fork.service, conn, r
}

// leaseTime is how long a process may rely on what it heard last, and some time for a statement that began within it.
const leaseTime = 5*time.Second + 2*time.Second

// withdrawAndDelete takes a page of r away in two steps, and asks meanwhile: an answer is whole, or there is none.
func (s *site) withdrawAndDelete(conn *pgx.Conn, r market.Range) {
	t := s.t
	t.Helper()
	page := market.Range{Start: r.Start, End: market.M1.Add(r.Start, 1000)}
	require.NoError(t, pgx.BeginFunc(t.Context(), s.db.Pool, func(tx pgx.Tx) error {
		return coverage.Withdraw(t.Context(), tx, market.Series{Symbol: symbol, Timeframe: market.M1}, market.RangeSet{page})
	}))
	withdrawn := time.Now()
	for time.Since(withdrawn) < leaseTime {
		began := time.Now()
		bars, err := ask(t.Context(), conn, r)
		if err != nil {
			var told *pgconn.PgError
			require.ErrorAs(t, err, &told)
			require.Contains(t, []string{pgerrcode.QueryCanceled, pgerrcode.IOError}, told.Code, told.Message)
			require.Less(t, time.Since(began), 15*time.Second, "an answer in time")
			continue
		}
		s.same(truth(r), bars, "an answer within the lease")
	}
	_, err := s.db.Pool.Exec(t.Context(), `delete from public.ohlcv o where symbol = $1 and timeframe = '1m' and ts >= $2 and ts < $3
	  and not exists (select from barkeep.coverage c where c.symbol = o.symbol and c.timeframe = o.timeframe and c.range_start <= o.ts and o.ts < c.range_end)`,
		symbol, page.Start.Time(), page.End.Time())
	require.NoError(t, err)
}

// fork is an address of the database whose service connections, which their startup message tells, go over a link.
type fork struct {
	listener net.Listener
	target   string
	service  *netfault.Link
	open     sync.WaitGroup
}

func newFork(t *testing.T, target string) *fork {
	t.Helper()
	var config net.ListenConfig
	listener, err := config.Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	f := &fork{listener: listener, target: target, service: netfault.New(t, target)}
	f.open.Go(f.accept)
	t.Cleanup(func() { require.NoError(t, listener.Close()); f.service.Up(); f.open.Wait() })
	return f
}

func (f *fork) accept() {
	for {
		near, err := f.listener.Accept()
		if err != nil {
			return // closed
		}
		f.open.Go(func() {
			defer near.Close()
			first, err := startup(near)
			if err != nil {
				return // as a server whose client goes away
			}
			to := f.target
			if strings.Contains(string(first), "barkeep.maintenance") {
				to = f.service.Addr()
			}
			far, err := (&net.Dialer{}).Dial("tcp", to)
			if err != nil {
				return
			}
			defer far.Close()
			if _, err := far.Write(first); err != nil {
				return
			}
			f.open.Go(func() {
				_, _ = io.Copy(near, far) // either end may break
				_ = near.Close()
			})
			_, _ = io.Copy(far, near)
		})
	}
}

// startup reads a client's startup message, and declines encryption before it.
func startup(conn net.Conn) ([]byte, error) {
	for {
		message := make([]byte, 8)
		if _, err := io.ReadFull(conn, message); err != nil {
			return nil, err
		}
		length, code := binary.BigEndian.Uint32(message), binary.BigEndian.Uint32(message[4:])
		if code == 80877103 || code == 80877104 { // SSLRequest, GSSENCRequest
			if _, err := conn.Write([]byte{'N'}); err != nil {
				return nil, err
			}
			continue
		}
		rest := make([]byte, length-8)
		if _, err := io.ReadFull(conn, rest); err != nil {
			return nil, err
		}
		return slices.Concat(message, rest), nil
	}
}
