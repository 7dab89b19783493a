package embedded

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

// A record is acknowledged while the log is synced, and is synced thereafter, hints excepted. What is there when the broker is stopped is synced too.
func TestBrokerSyncsBesideItsAnswers(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	config := BrokerConfig{DataDir: t.TempDir(), NoSync: true, Hint: func(topic string) bool { return topic == "hints" }}
	broker, err := StartBroker(ctx, config)
	require.NoError(t, err)
	broker.flusher = newFlusher(filepath.Join(config.DataDir, "broker", "log"), config)
	syncs, goOn := make(chan string), make(chan struct{})
	broker.flusher.sync = func(file *os.File) error {
		select {
		case syncs <- file.Name():
		case <-goOn:
			return nil
		}
		<-goOn
		return nil
	}
	broker.startFlusher(ctx)

	client, err := kgo.NewClient(kgo.SeedBrokers(broker.Brokers...))
	require.NoError(t, err)
	defer client.Close()
	_, err = kadm.NewClient(client).CreateTopics(ctx, 1, 1, nil, "bars", "hints")
	require.NoError(t, err)
	produce := func(topic string) {
		require.NoError(t, client.ProduceSync(ctx, &kgo.Record{Topic: topic, Value: []byte("record")}).FirstErr())
	}
	next := func() string {
		select {
		case name := <-syncs:
			return name
		case <-ctx.Done():
			require.FailNow(t, "nothing was synced")
			return ""
		}
	}
	produce("hints")
	produce("bars")
	require.Contains(t, next(), "bars-0", "the pages go first")
	produce("bars") // while the sync hangs
	produce("hints")
	all := map[string]bool{}
	for !all["meta"] {
		goOn <- struct{}{}
		name := next()
		require.NotContains(t, name, "hints")
		all[filepath.Ext(name)] = true
		all["meta"] = filepath.Dir(name) == broker.flusher.folder
	}
	require.True(t, all[".idx"] || all[".dat"])
	goOn <- struct{}{} // the round ends; what came meanwhile is synced by the next
	for name := next(); !strings.Contains(name, "bars-0"); name = next() {
		goOn <- struct{}{}
	}
	close(goOn)
	require.NoError(t, broker.Stop())
	synced, err := broker.flusher.round()
	require.NoError(t, err)
	require.Zero(t, synced, "all was synced by the end")
}

func TestBrokerSaysThatItCannotSync(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(folder, "groups.log"), []byte("offset"), 0o600))
	f := newFlusher(folder, BrokerConfig{})
	f.sync = func(*os.File) error { return os.ErrPermission }
	synced, err := f.round()
	require.ErrorIs(t, err, os.ErrPermission)
	require.Zero(t, synced)
	f.sync = func(*os.File) error { return nil }
	synced, err = f.round()
	require.NoError(t, err)
	require.Equal(t, 1, synced, "what failed is tried again")
}
