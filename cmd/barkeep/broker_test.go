package main

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"barkeep/backfill/topic"
	"barkeep/internal/dbtest"
	"barkeep/internal/embedded"
	"barkeep/internal/exchange"
)

// TestRule20_BrokerGoneAndItsLogCutShort: pages and the end of their job were acknowledged, and are gone before anybody
// read them. The statement that waits is answered all the same, and what was stored before is not fetched again.
func TestRule20_BrokerGoneAndItsLogCutShort(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	broker, err := embedded.StartBroker(t.Context(), embedded.BrokerConfig{DataDir: folder, NoSync: true})
	require.NoError(t, err)
	t.Cleanup(func() { _ = broker.Stop() })
	again := func(cut func()) {
		require.NoError(t, broker.Stop())
		cut()
		broker, err = embedded.StartBroker(t.Context(), embedded.BrokerConfig{DataDir: folder, NoSync: true})
		require.NoError(t, err)
	}
	s := siteOn(t, broker.Brokers[0])
	proxy := s.start("proxy")
	s.start("producer")
	consumer := s.start("consumer")
	conn := s.connect(proxy)
	stored, lost := minutes("2024-01-01T00:00:00Z", 4), minutes("2024-03-01T00:00:00Z", 10)
	s.right(stored, s.asking(conn, stored))
	s.holds(stored)

	log, copied := filepath.Join(folder, "broker", "log"), filepath.Join(t.TempDir(), "log")
	again(func() { require.NoError(t, os.CopyFS(copied, os.DirFS(log))) })
	consumer.kill()
	got := s.asking(conn, lost)
	s.until("all pages are fetched", func() bool { pages, _ := s.fetched(lost); return pages == 10 })
	s.until("the job's end is published", func() bool { return s.ends() == 2 })
	again(func() {
		require.NoError(t, os.RemoveAll(log))
		require.NoError(t, os.CopyFS(log, os.DirFS(copied)))
	})
	s.start("consumer")
	s.right(lost, got)
	s.holds(lost)
	s.holds(stored)
	s.once(stored)
	_, twice := s.fetched(lost)
	require.Equal(t, 10, twice, "what was lost is fetched once more, not oftener")
}

// killable starts a broker of the test's own as a process, and returns what kills it by kill -9 and what has it back: Kafka where the tests run
// on Kafka, else barkeep's own.
func killable(t *testing.T) (address string, kill, again func()) {
	t.Helper()
	if node, ok := dbtest.Kafka(t, embedded.KafkaConfig{}); ok {
		return node.Broker, func() { require.NoError(t, node.Kill()) }, func() { require.NoError(t, node.Restart(t.Context())) }
	}
	folder := t.TempDir()
	var running *process
	again = func() { running = launchBroker(t, t.Output(), folder) }
	again()
	return running.addr, func() { running.kill() }, again
}

// TestRule20_BrokerKilledMidBackfill: the broker is killed twice while pages come, once with nobody else harmed and once together with the
// consumer. The statement waits and is answered, nothing is lost and nothing is there twice.
func TestRule20_BrokerKilledMidBackfill(t *testing.T) {
	t.Parallel()
	address, kill, again := killable(t)
	s := siteOn(t, address)
	s.exchange.Script(exchange.Fault{Path: "klines", Delay: 100 * time.Millisecond})
	proxy := s.start("proxy")
	s.start("producer")
	consumer := s.start("consumer")
	conn := s.connect(proxy)
	r := minutes("2024-01-01T00:00:00Z", 60)
	got := s.asking(conn, r)
	asked := func() int { pages, _ := s.fetched(r); return pages }
	s.until("the job is under way", func() bool { return asked() >= 15 })
	kill()
	require.Less(t, asked(), 60, "it was killed too late")
	again()
	s.until("the job goes on", func() bool { return asked() >= 35 })
	consumer.kill()
	kill()
	require.Less(t, asked(), 60, "it was killed too late")
	again()
	s.start("consumer")
	s.right(r, got)
	s.holds(r)
	next := minutes("2024-06-01T00:00:00Z", 4)
	s.right(next, s.asking(conn, next))
	s.once(next)
}

// ends counts the end records in the log.
func (s *site) ends() (n int) {
	s.t.Helper()
	client, err := kgo.NewClient(kgo.SeedBrokers(s.brokers), kgo.ConsumeTopics(s.names.Bars()))
	require.NoError(s.t, err)
	defer client.Close()
	offsets, err := kadm.NewClient(client).ListEndOffsets(s.t.Context(), s.names.Bars())
	require.NoError(s.t, err)
	left := int64(0)
	offsets.Each(func(o kadm.ListedOffset) { left += o.Offset })
	for left > 0 {
		for _, r := range client.PollFetches(s.t.Context()).Records() {
			left--
			if value, err := topic.UnmarshalBars(r.Value); err == nil && value.End != nil {
				n++
			}
		}
	}
	return n
}

// TestRule20_TopicsMadeAnew: in mid-job all topics are deleted and made again. What was stored stays, the rest is fetched.
func TestRule20_TopicsMadeAnew(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.exchange.Script(exchange.Fault{Path: "klines", Delay: 200 * time.Millisecond})
	proxy := s.start("proxy")
	s.start("producer")
	s.start("consumer")
	conn := s.connect(proxy)
	r := minutes("2024-01-01T00:00:00Z", 60)
	got := s.asking(conn, r)
	s.until("the job is under way", func() bool { pages, _ := s.fetched(r); return pages >= 20 })
	var deployment string
	require.NoError(t, s.db.Pool.QueryRow(t.Context(), `select id::text from barkeep.deployment`).Scan(&deployment))
	client, err := kgo.NewClient(kgo.SeedBrokers(s.brokers))
	require.NoError(t, err)
	defer client.Close()
	admin := kadm.NewClient(client)
	removed, err := admin.DeleteTopics(t.Context(), s.names.Jobs(), s.names.Bars())
	require.NoError(t, err)
	require.NoError(t, removed.Error())
	s.until("the topics are gone", func() bool {
		there, err := admin.ListTopics(t.Context())
		return err == nil && !there.Has(s.names.Jobs()) && !there.Has(s.names.Bars())
	})
	require.NoError(t, topic.Ensure(t.Context(), []kgo.Opt{kgo.SeedBrokers(s.brokers)}, s.names, deployment))
	s.right(r, got)
	s.holds(r)
	next := minutes("2024-06-01T00:00:00Z", 4)
	s.right(next, s.asking(conn, next))
	s.once(next)
}
