package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kgo"

	"barkeep/backfill/topic"
	"barkeep/internal/exchange"
	"barkeep/internal/market"
)

// liveFeed publishes bars of a series as a producer does.
type liveFeed struct {
	s      *site
	client *kgo.Client
	series market.Series
	dep    string
	seq    int64
}

func (s *site) feed(series market.Series) *liveFeed {
	f := &liveFeed{s: s, series: series}
	require.NoError(s.t, s.db.Pool.QueryRow(s.t.Context(), `select id::text from barkeep.deployment`).Scan(&f.dep))
	var err error
	f.client, err = kgo.NewClient(kgo.SeedBrokers(strings.Split(s.brokers, ",")...), kgo.ProducerLinger(0),
		kgo.UnknownTopicRetries(-1)) // the row that says who wants it is there before the topic
	require.NoError(s.t, err)
	s.t.Cleanup(f.client.Close)
	return f
}

func (f *liveFeed) publish(n int, final bool) {
	f.seq++
	record, err := f.s.names.LiveRecord(topic.Live{
		Deployment: f.dep, Series: f.series, Final: final, Seq: f.seq,
		Bar: market.Bar{TS: market.FromTime(time.Date(2024, 1, 1, 0, n, 0, 0, time.UTC)), Open: 1, High: 2, Low: 1, Close: 1.5, Volume: 3},
	})
	require.NoError(f.s.t, err)
	require.NoError(f.s.t, f.client.ProduceSync(f.s.t.Context(), record).FirstErr())
}

// wanted waits until so many proxies want the series.
func (f *liveFeed) wanted(n int) {
	f.s.t.Helper()
	require.Eventually(f.s.t, func() bool {
		var have int
		err := f.s.db.Pool.QueryRow(f.s.t.Context(), `select count(*) from barkeep.live where symbol = $1 and timeframe = $2 and wanted_until > clock_timestamp()`,
			string(f.series.Symbol), f.series.Timeframe.String()).Scan(&have)
		return err == nil && have == n
	}, 2*time.Minute, 20*time.Millisecond)
}

// got is a payload.
type got struct {
	Symbol, Timeframe, TS          string
	Open, High, Low, Close, Volume float64
	Final                          bool
	Seq                            int64
}

// nextFinal waits for the next final bar, publishing n as long as the reader may not have begun.
func (f *liveFeed) nextFinal(conn *pgx.Conn) got {
	t := f.s.t
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	for {
		n, err := conn.WaitForNotification(ctx)
		require.NoError(t, err)
		require.Equal(t, "ohlcv."+string(f.series.Symbol)+"."+f.series.Timeframe.String(), n.Channel)
		require.Zero(t, n.PID)
		var bar got
		require.NoError(t, json.Unmarshal([]byte(n.Payload), &bar))
		if bar.Final {
			return bar
		}
	}
}

// pumped publishes forming bars of minute 0 until the connection has got one: its proxy reads by then.
func (f *liveFeed) pumped(conn *pgx.Conn) {
	t := f.s.t
	t.Helper()
	for range 1000 {
		f.publish(0, false)
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		_, err := conn.WaitForNotification(ctx)
		cancel()
		if err == nil {
			return
		}
	}
	require.FailNow(t, "no bar came")
}

func (s *site) listener(p *process) *pgx.Conn {
	s.t.Helper()
	conn, err := pgx.Connect(s.t.Context(), s.address(p, s.db.Pool.Config().ConnConfig.User))
	require.NoError(s.t, err)
	s.t.Cleanup(func() { _ = conn.Close(context.Background()) })
	return conn
}

// lists has a producer read what sources list, and kills it: the test publishes bars in its place.
func (s *site) lists() {
	s.t.Helper()
	p := s.start("producer")
	defer p.kill()
	require.Eventually(s.t, func() bool {
		var read bool
		return s.db.Pool.QueryRow(s.t.Context(), `select exists (select from barkeep.source where name = 'sim' and read_at is not null)`).Scan(&read) == nil && read
	}, 2*time.Minute, 20*time.Millisecond)
}

// TestLiveBarsOfAProducer: from the first LISTEN to a bar of the minute that it is, with nobody's help.
func TestLiveBarsOfAProducer(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.start("producer")
	s.start("consumer")
	conn := s.listener(s.start("proxy"))
	_, err := conn.Exec(t.Context(), `listen "ohlcv.sim:BTCUSD.1m"`)
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	n, err := conn.WaitForNotification(ctx)
	require.NoError(t, err)
	var bar got
	require.NoError(t, json.Unmarshal([]byte(n.Payload), &bar))
	at, err := time.Parse(time.RFC3339, bar.TS)
	require.NoError(t, err)
	require.WithinDuration(t, time.Now(), at, 5*time.Minute)
	require.Positive(t, bar.Close)
	_, err = conn.Exec(t.Context(), `listen "ohlcv.sim:NOSUCH.1m"`)
	require.Equal(t, "22023", codeOf(err))
}

// TestRule12_ProducerKilledAmongLiveBars: a producer is killed while a bar forms, and nobody follows until after that bar's end; the next one is killed
// while the bar after it forms, and another begins at once. The session that listens gets each final bar, in order and once, those
// that nobody saw close with what the source's history has; and the table has them too.
func TestRule12_ProducerKilledAmongLiveBars(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	producer := s.start("producer")
	s.start("consumer")
	heard := &liveHeard{t: t, conn: s.listener(s.start("proxy"))}
	_, err := heard.conn.Exec(t.Context(), `listen "ohlcv.sim:BTCUSD.1m"`)
	require.NoError(t, err)
	first := heard.next().start()
	producer.kill()
	missed := market.M1.Floor(market.FromTime(time.Now())) // it forms: who was killed cannot have called it final
	ended := time.NewTimer(time.Until(market.M1.Next(missed).Time()))
	defer ended.Stop()
	select {
	case <-ended.C:
	case <-t.Context().Done():
	}
	producer = s.start("producer")
	for heard.next().start() <= missed { // until it shows the bar after that
	}
	producer.kill()
	s.start("producer")
	until := market.M1.Add(missed, 2)
	for len(heard.finals) == 0 || market.M1.Next(heard.finals[len(heard.finals)-1].TS) < until {
		heard.next()
	}
	want := exchange.Truth("BTC", "USD", market.M1, market.Range{Start: first, End: until})
	s.same(want, heard.finals, "the final bars that were told")
	s.until("the database has the bars", func() bool {
		bars, err := askFor(t.Context(), s.db.Pool, market.Series{Symbol: "sim:BTCUSD", Timeframe: market.M1}, market.Range{Start: first, End: until})
		return err == nil && slices.Equal(bars, want)
	})
}

// liveHeard is a session that listens, and the final bars that it was told.
type liveHeard struct {
	t      *testing.T
	conn   *pgx.Conn
	seq    int64
	finals []market.Bar
}

// next waits for the next bar, which must be told after those before it and begin after all that were final.
func (h *liveHeard) next() *got {
	h.t.Helper()
	ctx, cancel := context.WithTimeout(h.t.Context(), 3*time.Minute)
	defer cancel()
	n, err := h.conn.WaitForNotification(ctx)
	require.NoError(h.t, err)
	var bar got
	require.NoError(h.t, json.Unmarshal([]byte(n.Payload), &bar))
	require.Greater(h.t, bar.Seq, h.seq)
	h.seq = bar.Seq
	if len(h.finals) > 0 {
		require.Greater(h.t, bar.start(), h.finals[len(h.finals)-1].TS, "a bar that was final")
	}
	if bar.Final {
		h.finals = append(h.finals, market.Bar{TS: bar.start(), Open: bar.Open, High: bar.High, Low: bar.Low, Close: bar.Close, Volume: bar.Volume})
	}
	return &bar
}

// start is when the bar begins.
func (g *got) start() market.Instant {
	at, err := time.Parse(time.RFC3339, g.TS)
	if err != nil {
		panic(err)
	}
	return market.FromTime(at)
}

// TestLiveBars: interest makes the topic; bars reach the sessions of all proxies, each once; the view shows who listens; a proxy that is
// killed and started again goes on for those who come back; interest ends with its sessions.
func TestLiveBars(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.lists()
	a, b := s.start("proxy"), s.start("proxy")
	feed := s.feed(market.Series{Symbol: "sim:BTCUSD", Timeframe: market.M1})
	const listen = `listen "ohlcv.sim:BTCUSD.1m"`
	var conns []*pgx.Conn
	for _, p := range []*process{a, a, b} {
		conn := s.listener(p)
		_, err := conn.Exec(t.Context(), listen)
		require.NoError(t, err)
		conns = append(conns, conn)
	}
	feed.wanted(2)
	for _, conn := range conns {
		feed.pumped(conn)
	}
	for n := 1; n <= 5; n++ {
		feed.publish(n, false)
		feed.publish(n, true)
	}
	for _, conn := range conns {
		for n := 1; n <= 5; n++ {
			bar := feed.nextFinal(conn)
			require.Equal(t, fmt.Sprintf("2024-01-01T00:0%d:00Z", n), bar.TS)
			require.InDelta(t, 1.5, bar.Close, 0)
		}
	}
	var shown []string
	require.NoError(t, conns[2].QueryRow(t.Context(), `select live from barkeep.session where pid = pg_backend_pid()`).Scan(&shown))
	require.Equal(t, []string{"ohlcv.sim:BTCUSD.1m"}, shown)

	a.kill()
	again := s.start("proxy")
	conn := s.listener(again)
	_, err := conn.Exec(t.Context(), "begin; "+listen)
	require.NoError(t, err)
	_, err = conn.Exec(t.Context(), "commit")
	require.NoError(t, err)
	feed.pumped(conn)
	feed.publish(6, true)
	for _, each := range []*pgx.Conn{conn, conns[2]} {
		require.Equal(t, "2024-01-01T00:06:00Z", feed.nextFinal(each).TS)
	}
	require.NoError(t, conn.Close(t.Context()))
	require.NoError(t, conns[2].Close(t.Context()))
	feed.wanted(0)
}

// TestListenBeyondTheQuota: a LISTEN that is beyond its role's quota is an error, or a WARNING where it is over by then, and never a channel on which no bar
// comes; and it keeps nobody else from the series.
func TestListenBeyondTheQuota(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.lists()
	p := s.start("proxy")
	role := "live_" + strings.ReplaceAll(uuid.NewString(), "-", "")
	_, err := s.db.Pool.Exec(t.Context(), `create role `+role+` login superuser; insert into barkeep.quota (role, live_series) values ('`+role+`', 1)`)
	require.NoError(t, err)
	t.Cleanup(func() {
		_, err := s.db.Pool.Exec(context.Background(), `drop role `+role)
		require.NoError(t, err)
	})
	connect := func(as string) (*pgx.Conn, *[]string) {
		config, err := pgx.ParseConfig(s.address(p, as))
		require.NoError(t, err)
		var told []string
		config.OnNotice = func(_ *pgconn.PgConn, n *pgconn.Notice) { told = append(told, n.Message) }
		conn, err := pgx.ConnectConfig(t.Context(), config)
		require.NoError(t, err)
		t.Cleanup(func() { _ = conn.Close(context.Background()) })
		return conn, &told
	}
	refused := func(conn *pgx.Conn, sql string) {
		t.Helper()
		_, err := conn.Exec(t.Context(), sql)
		var told *pgconn.PgError
		require.ErrorAs(t, err, &told, sql)
		require.Equal(t, "53000", told.Code)
		require.Equal(t, "2 series would be live, more than the quota of role "+role+" allows: live_series = 1 (barkeep.quota, row "+role+")", told.Message)
		require.Contains(t, told.Hint, "UNLISTEN one")
	}
	const btc, eth = `listen "ohlcv.sim:BTCUSD.1m"`, `listen "ohlcv.sim:ETHUSD.1m"`
	conn, told := connect(role)
	refused(conn, btc+"; "+eth)
	_, err = conn.Exec(t.Context(), btc)
	require.NoError(t, err)
	refused(conn, eth)
	other, _ := connect(role)
	refused(other, "begin; "+eth)
	_, err = other.Exec(t.Context(), "rollback")
	require.NoError(t, err)
	_, err = conn.Exec(t.Context(), `set barkeep.mode = 'stored'; do $$ begin execute 'listen "ohlcv.sim:ETHUSD.1m"'; end $$`)
	require.NoError(t, err)
	_, err = conn.Exec(t.Context(), "select 1")
	require.NoError(t, err)
	require.Contains(t, strings.Join(*told, "\n"), `the session gets no bars on channel "ohlcv.sim:ETHUSD.1m": 2 series would be live`)

	feed := s.feed(market.Series{Symbol: "sim:ETHUSD", Timeframe: market.M1})
	free := s.listener(p)
	_, err = free.Exec(t.Context(), eth)
	require.NoError(t, err)
	feed.pumped(free)
}

// TestLiveBarsPsql: psql shows a notification after the next command, as with PostgreSQL.
func TestLiveBarsPsql(t *testing.T) {
	t.Parallel()
	psql, err := exec.LookPath("psql")
	if err != nil {
		t.Skip("psql is not installed")
	}
	s := newSite(t)
	s.lists()
	p := s.start("proxy")
	feed := s.feed(market.Series{Symbol: "sim:ETHUSD", Timeframe: market.M1})
	command := exec.CommandContext(t.Context(), psql, "-X", "-At", s.address(p, s.db.Pool.Config().ConnConfig.User))
	in, err := command.StdinPipe()
	require.NoError(t, err)
	out := &sharedBuffer{}
	command.Stdout, command.Stderr = out, out
	require.NoError(t, command.Start())
	_, err = in.Write([]byte("listen \"ohlcv.sim:ETHUSD.1m\";\n"))
	require.NoError(t, err)
	feed.wanted(1)
	require.Eventually(t, func() bool {
		feed.publish(0, false)
		_, err := in.Write([]byte("select 1;\n"))
		return err == nil && strings.Contains(out.String(), `Asynchronous notification "ohlcv.sim:ETHUSD.1m" with payload "{"symbol":"sim:ETHUSD","timeframe":"1m","ts":"2024-01-01T00:00:00Z"`)
	}, 2*time.Minute, 50*time.Millisecond)
	require.NoError(t, in.Close())
	require.NoError(t, command.Wait())
	require.NotContains(t, out.String(), "ERROR")
}
