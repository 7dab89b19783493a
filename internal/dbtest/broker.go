package dbtest

import (
	"context"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"barkeep/internal/embedded"
)

// Broker gives the addresses of a broker: those of TEST_BROKERS, else of one in memory that ends with the test. Topics
// there are the test's own only in the latter case, so tests take a prefix of TopicPrefix.
func Broker(tb testing.TB) []string {
	tb.Helper()
	if brokers := shared(); brokers != nil {
		return brokers
	}
	return FakeBroker(tb).ListenAddrs()
}

// shared are the addresses of the broker that all tests share, if there is one.
func shared() []string {
	if brokers := os.Getenv("TEST_BROKERS"); brokers != "" {
		return strings.Split(brokers, ",")
	}
	return nil
}

// TopicPrefix gives a prefix that no other test has. Topics with it are removed from a shared broker when the test ends.
func TopicPrefix(tb testing.TB) string {
	tb.Helper()
	prefix := "t" + uuid.NewString()[:8] + "."
	if brokers := shared(); brokers != nil {
		tb.Cleanup(func() { removeTopics(tb, brokers, prefix) })
	}
	return prefix
}

// OwnTopics gives the prefix of a test that makes its topics on what Broker gives: none on a broker of its own, which is the default of a
// configuration, and that of TopicPrefix on one that is shared.
func OwnTopics(tb testing.TB) string {
	tb.Helper()
	if shared() == nil {
		return ""
	}
	return TopicPrefix(tb)
}

// removeTopics removes the topics of a prefix, so that the broker does not slow down from test to test.
func removeTopics(tb testing.TB, brokers []string, prefix string) {
	tb.Helper()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(tb.Context()), 30*time.Second)
	defer cancel()
	client, err := kgo.NewClient(kgo.SeedBrokers(brokers...))
	if err != nil {
		tb.Errorf("open broker client: %v", err)
		return
	}
	defer client.Close()
	admin := kadm.NewClient(client)
	topics, err := admin.ListTopics(ctx)
	if err != nil {
		tb.Errorf("list topics: %v", err)
		return
	}
	var names []string
	for _, name := range topics.Names() {
		if strings.HasPrefix(name, prefix) {
			names = append(names, name)
		}
	}
	if len(names) == 0 {
		return
	}
	if _, err := admin.DeleteTopics(ctx, names...); err != nil {
		tb.Errorf("remove topics: %v", err)
	}
}

// FakeBroker gives a broker in memory whose faults a test can script.
func FakeBroker(tb testing.TB, opts ...kfake.Opt) *kfake.Cluster {
	tb.Helper()
	cluster, err := kfake.NewCluster(append([]kfake.Opt{kfake.NumBrokers(1)}, opts...)...)
	if err != nil {
		tb.Fatalf("start broker: %v", err)
	}
	tb.Cleanup(cluster.Close)
	return cluster
}

// Kafka gives a node of Apache Kafka that only this test uses, in place of Broker and FakeBroker where the tests run on Kafka; ok is false
// where they do not (TEST_KAFKA, see cmd/testenv).
func Kafka(tb testing.TB, config embedded.KafkaConfig) (node *embedded.Kafka, ok bool) {
	tb.Helper()
	if config.Libs = os.Getenv("TEST_KAFKA"); config.Libs == "" {
		return nil, false
	}
	if config.DataDir == "" {
		config.DataDir = tb.TempDir()
	}
	node, err := embedded.StartKafka(tb.Context(), config)
	if err != nil {
		tb.Fatalf("start a node of Kafka: %v", err)
	}
	tb.Cleanup(func() {
		if err := node.Kill(); err != nil {
			tb.Errorf("end a node of Kafka: %v", err)
		}
	})
	return node, true
}
