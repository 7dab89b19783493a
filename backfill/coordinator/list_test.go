package coordinator_test

import (
	"context"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"barkeep/backfill/directory"
	"barkeep/backfill/producer"
	"barkeep/backfill/source"
	"barkeep/backfill/source/file"
	"barkeep/backfill/source/sim"
	"barkeep/internal/market"
)

// lists starts a producer that does not look at its lists by itself again.
func (r *rig) lists(s source.Source) (stop func()) {
	p, err := producer.New(producer.Config{
		Options: r.opts, Pool: r.db.Pool, Names: r.names, Deployment: r.dep, Registry: source.RegistryOf(s), Logger: r.log, ListPoll: time.Hour,
	})
	require.NoError(r.t, err)
	return r.start(p.Run)
}

// TestRule10_AFileThatIsAdded: a symbol whose file comes after the folder was read is known as soon as somebody asks for it again.
func TestRule10_AFileThatIsAdded(t *testing.T) {
	t.Parallel()
	r := newRig(t, sim.Config{})
	dir := t.TempDir()
	add := func(name string) {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte("ts,open,high,low,close,volume\n2024-01-01T00:00:00Z,1,1,1,1,1\n"), 0o600))
	}
	add("OLDUSD_1m.csv")
	folder, err := file.New(source.Config{Path: dir})
	require.NoError(t, err)
	r.consumer()
	c := r.coordinator()
	r.lists(folder)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	ask := func(symbol market.Symbol) error {
		_, err := c.Ensure(ctx, need(symbol, market.M1, "2024-01-01T00:00:00Z", "2024-01-01T01:00:00Z"), nil)
		return err
	}
	require.NoError(t, ask("file:OLDUSD"))
	requireState(t, ask("file:NEWUSD"), "22023")
	add("NEWUSD_1m.csv")
	require.Eventually(t, func() bool { return ask("file:NEWUSD") == nil }, 10*time.Second, 100*time.Millisecond)
	require.Equal(t, 1, r.bars("file:NEWUSD", "1m", "2024-01-01Z", "2024-01-02Z"))
}

// remote counts the readings of its list.
type remote struct {
	source.Source
	local bool
	reads atomic.Int64
}

func (s *remote) Info() source.Info {
	info := s.Source.Info()
	info.Local = s.local
	return info
}

func (s *remote) Instruments(ctx context.Context) ([]source.Instrument, error) {
	s.reads.Add(1)
	return s.Source.Instruments(ctx)
}

// TestRule10_ListsAreReadAtStart: a list of before is read again, by the first of the producers that start together; one that
// costs no request by each of them.
func TestRule10_ListsAreReadAtStart(t *testing.T) {
	t.Parallel()
	for _, local := range []bool{false, true} {
		r := newRig(t, sim.Config{})
		s := &remote{Source: sim.New(sim.Config{}), local: local}
		require.NoError(t, directory.Announce(t.Context(), r.db.Pool, []source.Source{s}))
		_, err := r.db.Pool.Exec(t.Context(), `UPDATE barkeep.source SET read_at = now() - interval '10 min'`)
		require.NoError(t, err)
		read := func() (at time.Time) {
			require.NoError(t, r.db.Pool.QueryRow(t.Context(), `SELECT read_at FROM barkeep.source`).Scan(&at))
			return at
		}
		before := read()
		r.lists(s)
		require.Eventually(t, func() bool { return read().After(before) }, 10*time.Second, 10*time.Millisecond)
		require.EqualValues(t, 1, s.reads.Load())
		before = read()
		r.lists(s)
		if local {
			require.Eventually(t, func() bool { return read().After(before) }, 10*time.Second, 10*time.Millisecond)
			continue
		}
		require.Never(t, func() bool { return s.reads.Load() > 1 }, 500*time.Millisecond, 50*time.Millisecond)
	}
}
