package embedded_test

import (
	"context"
	"fmt"
	"net"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"barkeep/internal/embedded"
)

// occupy holds a port of the loopback.
func occupy(t *testing.T, port uint16) (release func()) {
	t.Helper()
	var listen net.ListenConfig
	listener, err := listen.Listen(t.Context(), "tcp4", fmt.Sprintf("127.0.0.1:%d", port))
	require.NoError(t, err)
	return func() { require.NoError(t, listener.Close()) }
}

func client(t *testing.T, broker *embedded.Broker, opts ...kgo.Opt) *kgo.Client {
	t.Helper()
	c, err := kgo.NewClient(append(opts, kgo.SeedBrokers(broker.Brokers...))...)
	require.NoError(t, err)
	return c
}

// TestBrokerAgain: records, address and cluster id outlive the process; the log is locked meanwhile.
func TestBrokerAgain(t *testing.T) {
	config := embedded.BrokerConfig{DataDir: t.TempDir()}
	broker, err := embedded.StartBroker(t.Context(), config)
	require.NoError(t, err)
	_, err = embedded.StartBroker(t.Context(), config)
	require.ErrorContains(t, err, "in use by another barkeep")

	c := client(t, broker)
	_, err = kadm.NewClient(c).CreateTopic(t.Context(), 1, 1, nil, "bars")
	require.NoError(t, err)
	before, err := kadm.NewClient(c).BrokerMetadata(t.Context())
	require.NoError(t, err)
	require.NoError(t, c.ProduceSync(t.Context(), &kgo.Record{Topic: "bars", Value: []byte("page")}).FirstErr())
	c.Close()
	require.NoError(t, broker.Stop())

	again, err := embedded.StartBroker(t.Context(), config)
	require.NoError(t, err)
	defer func() { require.NoError(t, again.Stop()) }()
	require.Equal(t, broker.Brokers, again.Brokers)
	c = client(t, again, kgo.ConsumeTopics("bars"), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	defer c.Close()
	after, err := kadm.NewClient(c).BrokerMetadata(t.Context())
	require.NoError(t, err)
	require.Equal(t, before.Cluster, after.Cluster)
	require.NotEqual(t, "kfake", after.Cluster)
	fetches := c.PollFetches(context.WithoutCancel(t.Context()))
	require.NoError(t, fetches.Err())
	require.Equal(t, "page", string(fetches.Records()[0].Value))
}

func TestBrokerNeedsFolder(t *testing.T) {
	_, err := embedded.StartBroker(t.Context(), embedded.BrokerConfig{})
	require.ErrorContains(t, err, "data folder")
}
