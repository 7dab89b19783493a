package main

import (
	"context"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"

	"barkeep/internal/exchange"
	"barkeep/internal/market"
)

// TestSourceFailsThenIsWell: everything that a vendor answers with when it is not well, and then it is. The statement is
// answered right, and nothing of what was wrong is stored.
func TestSourceFailsThenIsWell(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	proxy := s.start("proxy")
	s.start("producer")
	s.start("consumer")
	for _, fault := range []exchange.Fault{
		{Status: 429, RetryAfter: time.Second},
		{Status: 500},
		{Status: 503},
		{Body: "<html>maintenance</html>"},
		{Body: `{"a":[1,2]}`},
		{Garble: true},
		{Cut: true},
		{OffGrid: true},
		{Outside: true},
		{Impossible: true},
		{Shuffle: true},
		{Duplicate: true},
		{Extra: 3},
	} {
		fault.Path, fault.Times = "klines", 1
		s.exchange.Script(fault)
	}
	r := minutes("2024-01-01T00:00:00Z", 16)
	began := time.Now()
	s.right(r, s.asking(s.connect(proxy), r))
	require.GreaterOrEqual(t, time.Since(began), time.Second, "Retry-After")
	s.holds(r)
}

// TestRule5_RowsThatComeLate: a vendor has not got its newest rows yet. Who asks then gets what there is, and nobody
// believes that there is no more: who asks later gets the rest.
func TestRule5_RowsThatComeLate(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	proxy := s.start("proxy")
	s.start("producer")
	s.start("consumer")
	conn := s.connect(proxy)
	_, err := conn.Exec(t.Context(), `set barkeep.freshness = '1s'`)
	require.NoError(t, err)
	// Six rows, of which one forms and one or two are beyond the range.
	s.exchange.Script(exchange.Fault{Path: "klines", Behind: 6})
	now := market.M1.Floor(market.FromTime(time.Now()))
	r := market.Range{Start: market.M1.Add(now, -40), End: market.M1.Add(now, -1)}
	want := truth(r)
	bars, err := ask(t.Context(), conn, r)
	require.NoError(t, err)
	require.Less(t, len(bars), len(want), "the newest are not there yet")
	require.Equal(t, want[:len(bars)], bars)
	var settled int
	require.NoError(t, s.db.Pool.QueryRow(t.Context(), `select count(*)::int from barkeep.coverage
	  where symbol = $1 and timeframe = '1m' and state in (1, 3) and range_end > $2 and range_start < $3`,
		symbol, want[len(bars)].TS.Time(), r.End.Time()).Scan(&settled))
	require.Zero(t, settled, "what has not come is not settled")
	s.exchange.Heal()
	require.Eventually(t, func() bool {
		bars, err := ask(t.Context(), conn, r)
		require.NoError(t, err)
		return len(bars) == len(want)
	}, 30*time.Second, 100*time.Millisecond, "the late rows never come")
	bars, err = ask(t.Context(), conn, r)
	require.NoError(t, err)
	s.same(want, bars, "answer")
}

// TestPartial: mode partial answers by barkeep.timeout with what is stored, and one WARNING says what is missing (DESIGN §9).
// A source that refuses is no reason to wait for the timeout.
func TestPartial(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	proxy := s.start("proxy")
	s.start("producer")
	s.start("consumer")
	stored, all := minutes("2024-01-01T00:00:00Z", 2), minutes("2024-01-01T00:00:00Z", 6)
	var warnings []string // of the statement in hand
	config := s.connect(proxy).Config()
	config.OnNotice = func(_ *pgconn.PgConn, n *pgconn.Notice) {
		if n.Severity == "WARNING" {
			warnings = append(warnings, n.Message)
		}
	}
	conn, err := pgx.ConnectConfig(t.Context(), config)
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	s.right(stored, s.asking(conn, stored))
	s.exchange.Script(exchange.Fault{Path: "klines", Delay: time.Hour})
	partial := func(sql string) {
		t.Helper()
		_, err := conn.Exec(t.Context(), sql)
		require.NoError(t, err)
		warnings = nil
		bars, err := ask(t.Context(), conn, all)
		require.NoError(t, err)
		s.same(truth(stored), bars, "answer")
		require.Len(t, warnings, 1, "%v", warnings)
		require.Contains(t, warnings[0], "bars of "+symbol+" 1m are missing in ["+stored.End.Time().Format(time.RFC3339))
	}
	partial(`set barkeep.mode = 'partial'; set barkeep.timeout = '300ms'`)
	_, err = conn.Exec(t.Context(), `begin isolation level repeatable read; select 1`)
	require.NoError(t, err)
	partial(`select 2`)
	_, err = conn.Exec(t.Context(), `rollback; set statement_timeout = '200ms'`)
	require.NoError(t, err)
	_, err = ask(t.Context(), conn, all)
	var refused *pgconn.PgError
	require.ErrorAs(t, err, &refused)
	require.Equal(t, "57014", refused.Code, "statement_timeout stays an error")
}

// TestListingIsAskedForOnce: many statements are the first on one symbol, each on another range. Its source is asked once when it was listed.
func TestListingIsAskedForOnce(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.exchange.Script(exchange.Fault{Path: "klines", Delay: 300 * time.Millisecond})
	proxy := s.start("proxy")
	s.start("producer")
	s.start("consumer")
	all := make(map[market.Range]<-chan answer)
	for n := range int64(10) {
		r := minutes("2024-01-01T00:00:00Z", 1)
		r = market.Range{Start: market.M1.Add(r.Start, 5000*n), End: market.M1.Add(r.End, 5000*n)}
		conn := s.connect(proxy)
		require.NoError(t, conn.Ping(t.Context()))
		all[r] = s.asking(conn, r)
	}
	for r, got := range all {
		s.right(r, got)
		s.once(r)
	}
	probes := 0
	for page, n := range s.exchange.Asked() {
		if market.M1.Count(page.Range) == 1 {
			probes += n
		}
	}
	require.Equal(t, 1, probes)
}
