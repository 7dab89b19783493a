package quota_test

import (
	"context"
	"strings"
	"testing"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"barkeep/backfill/quota"
	"barkeep/internal/dbtest"
	"barkeep/internal/market"
)

// roles makes roles of this test alone, and returns their names.
func roles(t *testing.T, db *dbtest.DB, count int) []string {
	t.Helper()
	names := make([]string, count)
	for i := range names {
		names[i] = "barkeep_q_" + strings.ReplaceAll(uuid.NewString(), "-", "")
		run(t, db, "create role "+names[i])
		t.Cleanup(func() { _, _ = db.Pool.Exec(context.Background(), "drop role "+names[i]) })
	}
	return names
}

func run(t *testing.T, db *dbtest.DB, sql string, args ...any) {
	t.Helper()
	_, err := db.Pool.Exec(t.Context(), sql, args...)
	require.NoError(t, err, sql)
}

// TestWhoseLimits: a row of one's own is before those of the roles that one is a member of, the largest of these before any smaller, and all before
// that of public.
func TestWhoseLimits(t *testing.T) {
	t.Parallel()
	db := dbtest.New(t)
	list := roles(t, db, 5)
	user, desk, firm, other, root := list[0], list[1], list[2], list[3], list[4]
	run(t, db, "grant "+desk+" to "+user)
	run(t, db, "grant "+firm+" to "+desk)
	run(t, db, "alter role "+root+" superuser")
	limits := func(role string) quota.Limits {
		t.Helper()
		l, err := quota.Of(t.Context(), db.Pool, role)
		require.NoError(t, err)
		return l
	}
	require.Equal(t, quota.Limits{Role: user}, limits(user))
	run(t, db, "insert into barkeep.quota (role, max_bars) values ('public', 7)")
	require.Equal(t, quota.Limits{Role: user, Named: "public", MaxBars: new(int64(7))}, limits(user))
	require.Equal(t, "public", limits("nobody at all").Named)

	run(t, db, "insert into barkeep.quota (role, max_bars, bars_per_hour, jobs, live_series) values ($1, 10, 20, 3, null), ($2, 5, null, 4, 6), ($3, 100, 100, 100, 100)", desk, firm, other)
	got := limits(user)
	require.ElementsMatch(t, []string{desk, firm}, strings.Split(got.Named, ", "))
	got.Named = ""
	require.Equal(t, quota.Limits{Role: user, MaxBars: new(int64(10)), Jobs: new(int64(4))}, got, "no limit is larger than any")
	require.Equal(t, firm, limits(firm).Named)
	require.Equal(t, "public", limits(root).Named, "a superuser is a member of what was granted to it")

	run(t, db, "insert into barkeep.quota (role, jobs) values ($1, 1)", user)
	require.Equal(t, quota.Limits{Role: user, Named: user, Jobs: new(int64(1))}, limits(user))
}

// TestWhoSetsLimits: the owner, and not the service that keeps to them.
func TestWhoSetsLimits(t *testing.T) {
	t.Parallel()
	db := dbtest.New(t)
	tx, err := db.Pool.Begin(t.Context())
	require.NoError(t, err)
	defer func() { _ = tx.Rollback(context.Background()) }()
	_, err = tx.Exec(t.Context(), "set local role barkeep_service")
	require.NoError(t, err)
	_, err = quota.Of(t.Context(), tx, "postgres")
	require.NoError(t, err)
	_, err = tx.Exec(t.Context(), "insert into barkeep.quota (role) values ('public')")
	require.ErrorContains(t, err, "permission denied for table quota")

	_, err = db.Pool.Exec(t.Context(), "insert into barkeep.quota (role, jobs) values ('public', -1)")
	require.ErrorContains(t, err, "quota_jobs_check")
}

// TestAdmit counts what is open, and what the last hour has brought.
func TestAdmit(t *testing.T) {
	t.Parallel()
	db := dbtest.New(t)
	limits := quota.Limits{Role: "o'hara", Named: "o'hara", BarsPerHour: new(int64(100)), Jobs: new(int64(2))}
	job := func(state string, costs, done int64, age, silence string) {
		t.Helper()
		run(t, db, `insert into barkeep.job (id, symbol, timeframe, range_start, range_end, source, generation, asked_by, asked_at, updated_at, state, costs, bars_done)
			values ($1, 's', '1m', '2024-01-01Z', '2024-01-02Z', 'sim', 1, $2, now() - $3::interval, now() - $4::interval, $5, $6, $7)`,
			uuid.NewString(), limits.Role, age, silence, state, costs, done)
	}
	admit := func(jobs, bars int64) (code, text string) {
		t.Helper()
		err := pgx.BeginFunc(t.Context(), db.Pool, func(tx pgx.Tx) error { return limits.Admit(t.Context(), tx, jobs, bars) })
		if err == nil {
			return "", ""
		}
		var refused *quota.Error
		require.ErrorAs(t, err, &refused)
		return refused.SQLState(), refused.Error() + " " + refused.Hint()
	}
	require.Empty(t, first(admit(2, 100)))
	code, text := admit(1, 101)
	require.Equal(t, "54000", code, "it will never be allowed")
	require.Contains(t, text, `101 bars are to be fetched, 0 were within the hour, more than the quota of role o'hara allows: bars_per_hour = 100`)
	require.Contains(t, text, `UPDATE barkeep.quota SET bars_per_hour = 101 WHERE role = 'o''hara'.`)
	code, text = admit(3, 3)
	require.Equal(t, "53000", code)
	require.Contains(t, text, "3 fetches would be under way, more than the quota of role o'hara allows: jobs = 2")

	job("done", 90, 30, "10 min", "9 min") // a source that had 30 of 90
	job("done", 90, 90, "61 min", "60 min")
	job("fetching", 20, 5, "5 min", "1 s")
	job("queued", 0, 0, "1 s", "1 s")         // a roll-up
	job("queued", 10, 0, "2 hours", "1 hour") // nobody wants it, nobody works on it
	require.Empty(t, first(admit(1, 50)))
	code, text = admit(1, 51)
	require.Equal(t, "53000", code)
	require.Contains(t, text, "51 bars are to be fetched, 50 were within the hour")
	require.Contains(t, text, "Try again after ")
	require.Equal(t, "53000", first(admit(2, 2)))
	require.Empty(t, first(admit(0, 0)), "what is fetched by others costs nothing")

	limits.Jobs, limits.BarsPerHour = nil, nil
	require.Empty(t, first(admit(1000, 1e9)))
}

func first(code, _ string) string { return code }

// TestAdmitHoldsOffOthers: two processes do not both find room for the last one.
func TestAdmitHoldsOffOthers(t *testing.T) {
	t.Parallel()
	db := dbtest.New(t)
	limits := quota.Limits{Role: "r", Named: "r", Jobs: new(int64(1))}
	tx, err := db.Pool.Begin(t.Context())
	require.NoError(t, err)
	require.NoError(t, limits.Admit(t.Context(), tx, 1, 1))
	second := make(chan error, 1)
	go func() {
		second <- pgx.BeginFunc(context.Background(), db.Pool, func(tx pgx.Tx) error { return limits.Admit(context.Background(), tx, 1, 1) })
	}()
	_, err = tx.Exec(t.Context(), `insert into barkeep.job (id, symbol, timeframe, range_start, range_end, source, generation, asked_by, costs)
		values ($1, 's', '1m', '2024-01-01Z', '2024-01-02Z', 'sim', 1, 'r', 1)`, uuid.NewString())
	require.NoError(t, err)
	require.NoError(t, tx.Commit(t.Context()))
	var refused *quota.Error
	require.ErrorAs(t, <-second, &refused)
}

func TestCheckBarsAndLive(t *testing.T) {
	t.Parallel()
	series := market.Series{Symbol: "sim:BTCUSD", Timeframe: market.M1}
	none, some := quota.Limits{}, quota.Limits{Role: "alice", Named: "desk, firm", MaxBars: new(int64(10)), LiveSeries: new(int64(2))}
	require.NoError(t, none.CheckBars(series, 1<<60))
	require.NoError(t, none.CheckLive(1<<60))
	require.NoError(t, some.CheckBars(series, 10))
	require.NoError(t, some.CheckLive(2))
	for want, err := range map[string]error{"54000": some.CheckBars(series, 11), "53000": some.CheckLive(3)} {
		var refused *quota.Error
		require.ErrorAs(t, err, &refused)
		require.Equal(t, want, refused.SQLState())
		require.Contains(t, refused.Error(), "more than the quota of role alice allows")
		require.Contains(t, refused.Error(), "(barkeep.quota, row desk, firm)")
		require.Contains(t, refused.Hint(), "WHERE role = 'desk'.")
	}
}

// TestAdmitLive counts each series of the role once, on whichever proxies it is followed, and those that are still wanted.
func TestAdmitLive(t *testing.T) {
	t.Parallel()
	db := dbtest.New(t)
	limits := quota.Limits{Role: "alice", Named: "alice", LiveSeries: new(int64(2))}
	follow := func(symbol, role, lease string) {
		t.Helper()
		run(t, db, `insert into barkeep.live (symbol, timeframe, proxy, asked_by, wanted_until) values ($1, '1m', $2, $3, now() + $4::interval)`,
			symbol, uuid.NewString(), role, lease)
	}
	admit := func(symbol market.Symbol) error {
		return pgx.BeginFunc(t.Context(), db.Pool, func(tx pgx.Tx) error {
			return limits.AdmitLive(t.Context(), tx, market.Series{Symbol: symbol, Timeframe: market.M1})
		})
	}
	follow("a", "alice", "1 min")
	follow("a", "alice", "1 min") // by another proxy
	follow("b", "alice", "-1 s")
	follow("c", "bob", "1 min")
	require.NoError(t, admit("c"))
	follow("c", "alice", "1 min")
	require.NoError(t, admit("a"), "it is followed already")
	err := admit("b")
	var refused *quota.Error
	require.ErrorAs(t, err, &refused)
	require.Equal(t, "53000", refused.SQLState())
	require.ErrorContains(t, err, "3 series would be live, more than the quota of role alice allows: live_series = 2")
	limits.LiveSeries = nil
	require.NoError(t, admit("b"))
}
