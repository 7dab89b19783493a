package producer

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"barkeep/backfill/topic"
	"barkeep/internal/dbtest"
)

// TestRule15_NoQuestionForJobsIsKeptLong: a partition that comes to the producer while the broker keeps its question for jobs is in the next
// one alone. So it is at start, where the offsets of some partitions are known a moment before those of others, and who needs bars then waits
// for as long as the broker keeps a question: five seconds, where nothing else is said.
func TestRule15_NoQuestionForJobsIsKeptLong(t *testing.T) {
	t.Parallel()
	names := topic.Names{}
	cluster := dbtest.FakeBroker(t, kfake.SeedTopics(2, names.Jobs()))
	kept := make(chan time.Duration, 1)
	cluster.ControlKey(int16(kmsg.Fetch), func(r kmsg.Request) (kmsg.Response, error, bool) {
		if fetch, ok := r.(*kmsg.FetchRequest); ok {
			select {
			case kept <- time.Duration(fetch.MaxWaitMillis) * time.Millisecond:
			default:
			}
		}
		return nil, nil, false
	})
	p, _ := bench(&told{})
	p.config.Options, p.config.Deployment = []kgo.Opt{kgo.SeedBrokers(cluster.ListenAddrs()...)}, "d"
	p.commit, p.partitions = make(chan struct{}, 1), make(map[int32]*partition)
	client, err := p.open(t.Context())
	require.NoError(t, err)
	defer client.CloseAllowingRebalance()
	require.LessOrEqual(t, <-kept, time.Second)
}
