package directory_test

import (
	"errors"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"barkeep/backfill/directory"
	"barkeep/backfill/source"
	"barkeep/internal/dbtest"
	"barkeep/internal/market"
)

// TestRule10_ASourceThatWasDisabled: its row stays from when it was asked, and keeps nobody from the others: neither by a list that was never
// read, nor by what it lists. What is bound to it stays bound. Enabled again it is as it was.
func TestRule10_ASourceThatWasDisabled(t *testing.T) {
	t.Parallel()
	db := dbtest.New(t)
	ctx := t.Context()
	down := &fixed{name: "down", err: errors.New("no such host")}
	gone := &fixed{name: "gone", list: []source.Instrument{coin("b", "BTCUSD", 0), coin("e", "ETHUSD", 0)}}
	here := &fixed{name: "here", list: []source.Instrument{coin("BTC", "BTCUSD", 0), coin("ETH", "ETHUSD", 0)}}
	require.NoError(t, directory.Announce(ctx, db.Pool, []source.Source{down, gone, here}))
	for _, s := range []source.Source{gone, here} {
		require.NoError(t, directory.Refresh(ctx, db.Pool, s, time.Hour))
	}
	require.Error(t, directory.Refresh(ctx, db.Pool, down, time.Hour))
	_, bound, err := directory.Bind(ctx, db.Pool, "gone:ETHUSD", time.Hour, 0)
	require.NoError(t, err)
	require.True(t, bound)
	_, _, err = directory.Bind(ctx, db.Pool, "BTCUSD", time.Hour, 0)
	_, failed := errors.AsType[*directory.ListError](err)
	require.True(t, failed, "%v", err)

	require.NoError(t, directory.Announce(ctx, db.Pool, []source.Source{here}, "down", "gone", "unheard"))
	b, bound, err := directory.Bind(ctx, db.Pool, "BTCUSD", time.Hour, 0)
	require.NoError(t, err)
	require.True(t, bound)
	require.Equal(t, "here", b.Source)
	_, _, err = directory.Bind(ctx, db.Pool, "gone:BTCUSD", time.Hour, 0)
	unknown, found := errors.AsType[*directory.UnknownSymbolError](err)
	require.True(t, found, "%v", err)
	require.Equal(t, []string{"here"}, unknown.Sources)
	b, bound, err = directory.Bind(ctx, db.Pool, "gone:ETHUSD", time.Hour, 0)
	require.NoError(t, err)
	require.True(t, bound, "its bars may be stored")
	require.Equal(t, []market.Timeframe{market.M1}, b.Native, "which is what they are derived from")
	known, err := directory.Listed(ctx, db.Pool, "", time.Hour, 0, time.Hour)
	require.NoError(t, err)
	require.True(t, known)
	rows, err := db.Pool.Query(ctx, directory.ListingSQL, "", []string{"BTCUSD"})
	require.NoError(t, err)
	names, err := pgx.CollectRows(rows, pgx.RowTo[string])
	require.NoError(t, err)
	require.ElementsMatch(t, []string{"BTCUSD", "here:BTCUSD", "here:ETHUSD", "gone:ETHUSD"}, names)

	require.NoError(t, directory.Announce(ctx, db.Pool, []source.Source{here, gone}))
	_, bound, err = directory.Bind(ctx, db.Pool, "gone:BTCUSD", time.Hour, 0)
	require.NoError(t, err)
	require.True(t, bound)
}
