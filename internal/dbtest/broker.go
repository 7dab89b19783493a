package dbtest

import (
	"os"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kfake"
)

// Broker gives the addresses of a broker: those of TEST_BROKERS, else of one in memory that ends with the test. Topics
// there are the test's own only in the latter case, so tests take a topic prefix of their own.
func Broker(tb testing.TB) []string {
	tb.Helper()
	if brokers := os.Getenv("TEST_BROKERS"); brokers != "" {
		return strings.Split(brokers, ",")
	}
	return FakeBroker(tb).ListenAddrs()
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
