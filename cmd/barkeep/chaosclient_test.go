package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"

	"barkeep/backfill/source/sourcetest"
	"barkeep/internal/exchange"
	"barkeep/internal/market"
)

// chaosSeries is one of the series that clients ask for.
type chaosSeries struct {
	series             market.Series
	venue, base, quote string
	// from is the timeframe that it is derived from, itself where the source has it.
	from market.Timeframe
}

// chaosMarket are instruments of a dense source and of a sparse one; one has holes, one a listing and one a delisting.
func chaosMarket() (all []chaosSeries) {
	add := func(venue, base, quote string, frames ...market.Timeframe) {
		for _, tf := range frames {
			s := chaosSeries{venue: venue, base: base, quote: quote, from: tf}
			s.series = market.Series{Symbol: market.Symbol(venue + ":" + base + quote), Timeframe: tf}
			if venue == "coinbase" && tf == market.H4 {
				s.from = market.H1
			}
			all = append(all, s)
		}
	}
	add("binance", "BTC", "USDT", market.M1, market.H1)
	add("binance", "GAP", "USD", market.M1)
	add("binance", "NEW", "USD", market.M5, market.D1)
	add("binance", "OLD", "USD", market.H1)
	add("coinbase", "ETH", "BTC", market.M1)
	add("coinbase", "GAP", "USD", market.M1)
	add("coinbase", "SOL", "USD", market.H1, market.H4)
	return all
}

// id is the instrument's name at its venue.
func (s *chaosSeries) id() string {
	if s.venue == "coinbase" {
		return s.base + "-" + s.quote
	}
	return s.base + s.quote
}

// truth is what the exchange has in the end, derived where the source has not got the timeframe.
func (s *chaosSeries) truth(r market.Range) []market.Bar {
	if s.from == s.series.Timeframe {
		return exchange.Truth(s.base, s.quote, s.from, r)
	}
	var bars []market.Bar
	for _, b := range sourcetest.RollUp(exchange.Truth(s.base, s.quote, s.from, r.Outward(s.series.Timeframe)), s.series.Timeframe) {
		if r.Contains(b.TS) {
			bars = append(bars, b)
		}
	}
	return bars
}

// chaosLag is how long after its close a bar may be missing: the finality lag of three minutes that the sources are given, and what a tail may
// be old for which a refresh has failed (DESIGN §1).
const chaosLag = 3*time.Minute + 150*time.Second

type chaosClient struct {
	chaos  *chaos
	name   string
	random *rand.Rand
	last   string // the last error
}

func (c *chaos) client(n int) *chaosClient {
	return &chaosClient{chaos: c, name: fmt.Sprintf("chaos-%d", n), random: rand.New(rand.NewPCG(c.seed, uint64(n)+2))}
}

// chaosQuestion is a range of a series.
type chaosQuestion struct {
	chaosSeries
	r market.Range
}

func (q chaosQuestion) String() string { return fmt.Sprintf("%v %v", q.series, q.r) }

// question draws one: mostly where others ask too, sometimes of the newest bars.
func (c *chaosClient) question() chaosQuestion {
	all := chaosMarket()
	q := chaosQuestion{chaosSeries: all[c.random.IntN(len(all))]}
	tf := q.series.Timeframe
	spot, drawn, bars := c.chaos.spots[c.random.IntN(len(c.chaos.spots))], soakInstant(c.random), 1+c.random.Int64N(400)
	if tf == market.M1 {
		bars = 1 + c.random.Int64N(2500)
	}
	kind := c.random.IntN(10)
	switch {
	case kind < 3:
		spot = drawn
	case kind == 3 && q.from == tf && tf < market.D1:
		q.r.End = tf.Next(market.FromTime(time.Now()))
		q.r.Start = tf.Add(q.r.End, -bars)
		return q
	}
	q.r.Start = tf.Next(spot)
	q.r.End = tf.Add(q.r.Start, bars)
	return q
}

func (c *chaosClient) run(ctx context.Context) {
	for ctx.Err() == nil {
		conn, err := c.connect(ctx)
		if err != nil {
			c.pause(ctx)
			continue
		}
		for n := 1 + c.random.IntN(20); n > 0 && ctx.Err() == nil && !conn.IsClosed(); n-- {
			if !c.ask(ctx, conn, c.question(), "20s") {
				c.pause(ctx)
			}
		}
		c.leave(ctx, conn)
	}
}

func (c *chaosClient) pause(ctx context.Context) {
	select {
	case <-ctx.Done():
	case <-time.After(time.Duration(50+c.random.IntN(400)) * time.Millisecond):
	}
}

func (*chaosClient) leave(ctx context.Context, conn *pgx.Conn) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	_ = conn.Close(ctx) // its end may be gone
}

var errNoProxy = errors.New("no proxy takes sessions")

func (c *chaosClient) connect(ctx context.Context) (*pgx.Conn, error) {
	addr := c.chaos.proxyAddr(c.random)
	if addr == "" {
		return nil, errNoProxy
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 15*time.Second)
	defer cancel()
	conn, err := pgx.Connect(ctx, c.chaos.linked(addr))
	if err != nil {
		c.failed("connect", err)
	}
	return conn, err
}

// insist asks until it is answered, by any proxy, within a bound; else it has the others give up.
func (c *chaosClient) insist(ctx context.Context, giveUp func()) {
	q := c.question()
	began := time.Now()
	for time.Since(began) < chaosPatience && ctx.Err() == nil {
		conn, err := c.connect(ctx)
		if err != nil {
			c.pause(ctx)
			continue
		}
		well := c.ask(ctx, conn, q, "60s")
		c.leave(ctx, conn)
		if well {
			return
		}
		c.pause(ctx)
	}
	if ctx.Err() != nil {
		return // another was not answered, and the processes have ended for that
	}
	c.chaos.fail("%v: no answer within %v, though all is well; the last error was %q; jobs that have not ended: %v", q, chaosPatience, c.last, c.chaos.open()) //nolint:contextcheck // it is the test that asks, not the client
	c.chaos.autopsy()
	giveUp()
}

// ask reports whether there was an answer; it has to be right.
func (c *chaosClient) ask(ctx context.Context, conn *pgx.Conn, q chaosQuestion, patience string) bool {
	wait, err := time.ParseDuration(patience)
	if err != nil {
		panic(err)
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), wait+10*time.Second)
	defer cancel()
	if _, err := conn.Exec(ctx, `set barkeep.timeout = '`+patience+`'`); err != nil {
		c.failed("set", err)
		return false
	}
	began := time.Now()
	bars, err := askFor(ctx, conn, q.series, q.r)
	if err != nil {
		c.failed(q.String(), err)
		return false
	}
	if wrong := q.wrong(bars, began); wrong != "" {
		c.chaos.fail("%v, asked at %v of the proxy at %v: %s", q, began, conn.PgConn().Conn().RemoteAddr(), wrong)
		return true
	}
	c.chaos.count("right answers")
	return true
}

// wrong says what is wrong with the bars of an answer to what was asked at a time, or nothing.
func (q chaosQuestion) wrong(bars []market.Bar, asked time.Time) string {
	want := cutLate(q.series.Timeframe, q.truth(q.r), bars, market.FromTime(asked.Add(-chaosLag)))
	for i := range min(len(bars), len(want)) {
		if bars[i] != want[i] {
			return fmt.Sprintf("%d bars for %d, and the first that differs is %v for %v", len(bars), len(want), bars[i], want[i])
		}
	}
	if len(bars) != len(want) {
		return fmt.Sprintf("%d bars for %d", len(bars), len(want))
	}
	return ""
}

// failed counts an error, and judges it: one that says no more than that something is broken in barkeep is not allowed.
func (c *chaosClient) failed(what string, err error) {
	c.last = fmt.Sprintf("%s: %v", what, err)
	told, found := errors.AsType[*pgconn.PgError](err)
	switch {
	case !found:
		c.chaos.count("connections lost")
	case told.Code == pgerrcode.InternalError:
		c.chaos.fail("%s: %v", what, err)
	default:
		first, _, _ := strings.Cut(told.Message, ":")
		c.chaos.count("error " + told.Code + " " + first)
	}
}

// TestChaosJudges: an answer that lacks a bar, has a wrong one or one too many is seen as such; only the newest bars may be missing.
func TestChaosJudges(t *testing.T) {
	t.Parallel()
	now := time.Date(2024, 1, 2, 0, 0, 30, 0, time.UTC)
	q := chaosQuestion{chaosSeries: chaosMarket()[0]}
	require.Equal(t, "binance:BTCUSDT", string(q.series.Symbol))
	q.r = market.Range{Start: market.FromTime(now.Add(-time.Hour)), End: market.FromTime(now)}.Outward(market.M1)
	want := q.truth(q.r)
	require.Len(t, want, 61)
	require.Empty(t, q.wrong(want, now))
	require.Empty(t, q.wrong(want[:len(want)-6], now), "the newest")
	require.NotEmpty(t, q.wrong(want[:len(want)-7], now), "those that are older")
	require.NotEmpty(t, q.wrong(want[1:], now))
	require.NotEmpty(t, q.wrong(append(want[:30:30], want[31:]...), now))
	require.NotEmpty(t, q.wrong(append(slices.Clip(want), want[0]), now))
	other := append([]market.Bar{}, want...)
	other[3].Close++
	require.NotEmpty(t, q.wrong(other, now))
}
