package main

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kmsg"

	"barkeep/internal/exchange"
)

// TestRule19_ConsumerKilledBetweenCommits: the broker sees the group's commit when the database has committed. It never
// gets there, and the process is killed: the next one begins where the database is, not where the group is.
func TestRule19_ConsumerKilledBetweenCommits(t *testing.T) {
	t.Parallel()
	s, broker := newFakeSite(t)
	s.exchange.Script(exchange.Fault{Path: "klines", Delay: 200 * time.Millisecond})
	reached := make(chan struct{}, 64)
	broker.ControlKey(int16(kmsg.OffsetCommit), func(request kmsg.Request) (kmsg.Response, error, bool) {
		broker.KeepControl()
		if commit, ok := request.(*kmsg.OffsetCommitRequest); ok && strings.Contains(commit.Group, "ingest") {
			select {
			case reached <- struct{}{}:
			default:
			}
			return nil, errLost, true
		}
		return nil, nil, false
	})
	proxy, _, consumer := s.start("proxy"), s.start("producer"), s.start("consumer")
	r := minutes("2024-01-01T00:00:00Z", 80)
	got := s.asking(s.connect(proxy), r)
	s.receive("the group's commit", reached)
	consumer.kill()
	before := s.stored()
	require.NotEmpty(t, before, "the database has committed")
	require.False(t, before.ContainsRange(r), "it was killed too late")
	s.start("consumer")
	s.right(r, got)
	s.holds(r)
	s.once(r)
}

// TestRule15_ProducerKilledMidJob: what it had published is not fetched again, but for the pages in hand.
func TestRule15_ProducerKilledMidJob(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.exchange.Script(exchange.Fault{Path: "klines", Delay: 100 * time.Millisecond})
	proxy, producer := s.start("proxy"), s.start("producer")
	s.start("consumer")
	r := minutes("2024-01-01T00:00:00Z", 60)
	got := s.asking(s.connect(proxy), r)
	s.until("the job is under way", func() bool { pages, _ := s.fetched(r); return pages >= 20 })
	producer.kill()
	s.start("producer")
	s.right(r, got)
	s.holds(r)
	pages, again := s.fetched(r)
	require.Equal(t, 60, pages)
	require.LessOrEqual(t, again, inHand, "pages fetched again")
}

// errLost has the broker close the connection instead of an answer.
var errLost = errors.New("lost on the way")

// inHand bounds the pages that a producer has in hand at one time: those being fetched, and as many being published.
const inHand = 2 * 8

// TestProxyKilled: its clients are cut off, its job goes on, and who asks the next proxy gets what was fetched meanwhile.
func TestProxyKilled(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.exchange.Script(exchange.Fault{Path: "klines", Delay: 100 * time.Millisecond})
	proxy := s.start("proxy")
	s.start("producer")
	s.start("consumer")
	r := minutes("2024-01-01T00:00:00Z", 60)
	got := s.asking(s.connect(proxy), r)
	s.until("the job is under way", func() bool { pages, _ := s.fetched(r); return pages >= 20 })
	proxy.kill()
	require.Error(t, (<-got).err, "a client of a proxy that is gone must not believe that it has an answer")
	s.right(r, s.asking(s.connect(s.start("proxy")), r))
	s.holds(r)
	s.once(r)
}

// TestTwoProxiesAndManySessions: 100 sessions of two proxies ask for one range at once, and each page is fetched once.
func TestTwoProxiesAndManySessions(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.exchange.Script(exchange.Fault{Path: "klines", Delay: 20 * time.Millisecond})
	proxies := []*process{s.start("proxy"), s.start("proxy")}
	s.start("producer")
	s.start("producer")
	s.start("consumer")
	r := minutes("2024-01-01T00:00:00Z", 6)
	all := make([]<-chan answer, 100)
	for i := range all {
		conn := s.connect(proxies[i%2])
		require.NoError(t, conn.Ping(t.Context()))
		all[i] = s.asking(conn, r)
	}
	for _, got := range all {
		s.right(r, got)
	}
	s.holds(r)
	s.once(r)
}
