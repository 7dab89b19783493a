package dbtest_test

import (
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"barkeep/internal/dbtest"
)

// TestOwnDatabase: what one test writes, another does not see, though they run at the same time.
func TestOwnDatabase(t *testing.T) {
	t.Parallel()
	for _, open := range []func(testing.TB) *dbtest.DB{dbtest.New, dbtest.New, dbtest.NewPlain, dbtest.NewPlain} {
		t.Run("database", func(t *testing.T) {
			t.Parallel()
			db := open(t)
			var count int
			require.NoError(t, db.Pool.QueryRow(t.Context(), "select count(*) from barkeep.source").Scan(&count))
			require.Zero(t, count)
			_, err := db.Pool.Exec(t.Context(), "insert into barkeep.source(name) values ('mine')")
			require.NoError(t, err)
		})
	}
}

// TestOwnDeployment: a copy is a deployment of its own, as topics and groups are told apart by it.
func TestOwnDeployment(t *testing.T) {
	ids := map[string]bool{}
	for range 2 {
		var id string
		require.NoError(t, dbtest.New(t).Pool.QueryRow(t.Context(), "select id::text from barkeep.deployment").Scan(&id))
		ids[id] = true
	}
	require.Len(t, ids, 2)
}

func TestBroker(t *testing.T) {
	client, err := kgo.NewClient(kgo.SeedBrokers(dbtest.Broker(t)...))
	require.NoError(t, err)
	defer client.Close()
	_, err = kadm.NewClient(client).BrokerMetadata(t.Context())
	require.NoError(t, err)
}
