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
)

// TestRule13_Listing: the symbols of a pattern are those that are bound, those that are listed under their prefix, and those that
// were named and would be bound without one.
func TestRule13_Listing(t *testing.T) {
	t.Parallel()
	db := dbtest.New(t)
	ctx := t.Context()
	alpha := &fixed{name: "alpha", list: []source.Instrument{coin("1", "BTCUSD", 0), coin("2", "ETHUSD", 0), coin("3", "BTC_USD", 0)}}
	toy := &fixed{name: "toy", prefixOnly: true, list: []source.Instrument{coin("1", "BTCUSD", 0), coin("2", "TOYUSD", 0)}}
	require.NoError(t, directory.Announce(ctx, db.Pool, []source.Source{alpha, toy}))
	for _, s := range []source.Source{alpha, toy} {
		require.NoError(t, directory.Refresh(ctx, db.Pool, s, time.Hour))
	}
	_, bound, err := directory.Bind(ctx, db.Pool, "ETHUSD", time.Hour, 0)
	require.NoError(t, err)
	require.True(t, bound)
	_, err = db.Pool.Exec(ctx, `INSERT INTO barkeep.symbol (symbol, source, vendor_id) VALUES ('gone:XYZ', 'gone', 'XYZ')`)
	require.NoError(t, err)
	for _, c := range []struct {
		prefix string
		named  []string
		want   []string
	}{
		{"", nil, []string{"ETHUSD", "alpha:BTCUSD", "alpha:BTC_USD", "alpha:ETHUSD", "gone:XYZ", "toy:BTCUSD", "toy:TOYUSD"}},
		{"", []string{"BTCUSD", "TOYUSD", "1d"}, []string{"BTCUSD", "ETHUSD", "alpha:BTCUSD", "alpha:BTC_USD", "alpha:ETHUSD", "gone:XYZ", "toy:BTCUSD", "toy:TOYUSD"}},
		{"alpha:BTC_", nil, []string{"alpha:BTC_USD"}},
		{"al", nil, []string{"alpha:BTCUSD", "alpha:BTC_USD", "alpha:ETHUSD"}},
		{"BTC", []string{"BTCUSD"}, []string{"BTCUSD"}},
		{"ETH", nil, []string{"ETHUSD"}},
		{"toy:X", nil, nil},
	} {
		rows, err := db.Pool.Query(ctx, directory.ListingSQL, c.prefix, c.named)
		require.NoError(t, err)
		got, err := pgx.CollectRows(rows, pgx.RowTo[string])
		require.NoError(t, err)
		require.ElementsMatch(t, c.want, got, c.prefix)
	}
}

// TestRule13_ListsThatAreWaitedFor: no list that might add a symbol is left out, unless nobody serves it any more.
func TestRule13_ListsThatAreWaitedFor(t *testing.T) {
	t.Parallel()
	db := dbtest.New(t)
	ctx := t.Context()
	listed := func(prefix string, waited time.Duration) bool {
		ready, err := directory.Listed(ctx, db.Pool, prefix, time.Hour, waited, time.Minute)
		require.NoError(t, err)
		return ready
	}
	wanted := func(name string) (is bool) {
		require.NoError(t, db.Pool.QueryRow(ctx, `SELECT wanted_at IS NOT NULL FROM barkeep.source WHERE name = $1`, name).Scan(&is))
		return is
	}
	require.False(t, listed("", 0), "nobody has announced anything")
	remote := &fixed{name: "remote", list: []source.Instrument{coin("1", "BTCUSD", 0)}}
	folder := &fixed{name: "folder", local: true, prefixOnly: true, list: []source.Instrument{coin("1", "NEWUSD", 0)}}
	require.NoError(t, directory.Announce(ctx, db.Pool, []source.Source{remote, folder}))
	require.False(t, listed("", 0), "neither was read")
	require.True(t, wanted("remote") && wanted("folder"))
	require.True(t, listed("BTC", 0), "no source has a symbol that begins so")

	require.NoError(t, directory.Refresh(ctx, db.Pool, folder, 0))
	require.True(t, listed("folder:N", 0))
	require.False(t, listed("", 0))
	remote.err = errors.New("down")
	require.Error(t, directory.Refresh(ctx, db.Pool, remote, 0))
	_, err := directory.Listed(ctx, db.Pool, "re", time.Hour, 0, time.Minute)
	require.ErrorAs(t, err, new(*directory.ListError))
	require.True(t, listed("folder:", 0), "another one's failure does not matter")
	remote.err = nil
	require.NoError(t, directory.Refresh(ctx, db.Pool, remote, 0))
	require.True(t, listed("", 0))

	older := func(by time.Duration) {
		_, err := db.Pool.Exec(ctx, `UPDATE barkeep.source SET read_at = read_at - $1::interval, wanted_at = NULL`, by)
		require.NoError(t, err)
	}
	older(10 * time.Second)
	require.True(t, listed("remote:", 0))
	require.False(t, listed("folder:", 0), "what is local is read again")
	require.True(t, listed("folder:", time.Minute), "it was read since")
	older(2 * time.Hour)
	require.False(t, listed("remote:", 0))
	_, err = db.Pool.Exec(ctx, `UPDATE barkeep.source SET wanted_at = now() - interval '2 min'`)
	require.NoError(t, err)
	require.True(t, listed("", 0), "nobody has read them since they were asked for")
}
