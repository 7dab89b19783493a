package main

import (
	"encoding/binary"
	"io"
	"math/rand/v2"
	"net"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"barkeep/internal/dbtest"
	"barkeep/internal/netfault"
)

// brokerLink is a way to a broker of one node that can be broken. A broker tells its clients its own address, past any link; on this way
// it tells them the link's.
type brokerLink struct {
	*netfault.Link
	target   string
	host     string
	port     int32
	listener net.Listener
	open     sync.WaitGroup
}

func newBrokerLink(t *testing.T, target string) *brokerLink {
	t.Helper()
	var config net.ListenConfig
	listener, err := config.Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	l := &brokerLink{target: target, listener: listener}
	t.Cleanup(func() { require.NoError(t, listener.Close()); l.open.Wait() })
	l.Link = netfault.New(t, listener.Addr().String())
	host, port, err := net.SplitHostPort(l.Addr())
	require.NoError(t, err)
	number, err := strconv.ParseInt(port, 10, 32)
	require.NoError(t, err)
	l.host, l.port = host, int32(number)
	l.open.Go(l.accept)
	return l
}

func (l *brokerLink) accept() {
	for {
		near, err := l.listener.Accept()
		if err != nil {
			return // closed
		}
		l.open.Go(func() {
			defer near.Close()
			far, err := (&net.Dialer{}).Dial("tcp", l.target)
			if err != nil {
				return // as a broker that is not there
			}
			defer far.Close()
			asked := &brokerRequests{by: map[uint32]brokerRequest{}}
			l.open.Go(func() {
				defer near.Close()
				defer far.Close()
				_ = eachFrame(far, near, func(frame []byte) []byte { return l.answer(asked, frame) }) // either end may break
			})
			_ = eachFrame(near, far, func(frame []byte) []byte { asked.add(frame); return frame })
		})
	}
}

// brokerRequests are those of a connection whose answers tell addresses.
type brokerRequests struct {
	mu sync.Mutex
	by map[uint32]brokerRequest // by correlation id; guarded by mu
}

type brokerRequest struct{ key, version int16 }

// add takes note of a request: key, version and correlation id begin each (Kafka protocol guide, request header).
func (q *brokerRequests) add(frame []byte) {
	if len(frame) < 8 {
		return
	}
	request := brokerRequest{int16(binary.BigEndian.Uint16(frame)), int16(binary.BigEndian.Uint16(frame[2:]))}
	if kmsg.Key(request.key) == kmsg.Metadata || kmsg.Key(request.key) == kmsg.FindCoordinator {
		q.mu.Lock()
		defer q.mu.Unlock()
		q.by[binary.BigEndian.Uint32(frame[4:])] = request
	}
}

func (q *brokerRequests) take(id uint32) (brokerRequest, bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	request, found := q.by[id]
	delete(q.by, id)
	return request, found
}

// answer puts the link's address into an answer that tells the broker's.
func (l *brokerLink) answer(asked *brokerRequests, frame []byte) []byte {
	if len(frame) < 4 {
		return frame
	}
	request, found := asked.take(binary.BigEndian.Uint32(frame))
	if !found {
		return frame
	}
	response := kmsg.ResponseForKey(request.key)
	response.SetVersion(request.version)
	header := 4
	if response.IsFlexible() {
		header++ // the count of tags in the header, of which there are none
	}
	if response.ReadFrom(frame[header:]) != nil {
		return frame
	}
	switch r := response.(type) {
	case *kmsg.MetadataResponse:
		for i := range r.Brokers {
			r.Brokers[i].Host, r.Brokers[i].Port = l.host, l.port
		}
	case *kmsg.FindCoordinatorResponse:
		r.Host, r.Port = l.host, l.port
		for i := range r.Coordinators {
			r.Coordinators[i].Host, r.Coordinators[i].Port = l.host, l.port
		}
	}
	return response.AppendTo(frame[:header:header])
}

// eachFrame passes on what each frame is made into, until an end breaks.
func eachFrame(from io.Reader, to io.Writer, each func([]byte) []byte) error {
	for {
		var size [4]byte
		if _, err := io.ReadFull(from, size[:]); err != nil {
			return err
		}
		frame := make([]byte, binary.BigEndian.Uint32(size[:]))
		if _, err := io.ReadFull(from, frame); err != nil {
			return err
		}
		frame = each(frame)
		binary.BigEndian.PutUint32(size[:], uint32(len(frame)))
		if _, err := to.Write(append(size[:], frame...)); err != nil {
			return err
		}
	}
}

// TestBrokerLink: all of a client's traffic, also that with the coordinator of its group, goes over the link, which can be broken.
func TestBrokerLink(t *testing.T) {
	t.Parallel()
	broker := dbtest.FakeBroker(t, kfake.SeedTopics(1, "t"))
	link := newBrokerLink(t, broker.ListenAddrs()[0])
	client, err := kgo.NewClient(kgo.SeedBrokers(link.Addr()), kgo.DefaultProduceTopic("t"), kgo.ConsumeTopics("t"), kgo.ConsumerGroup("g"),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.RecordDeliveryTimeout(2*time.Second), kgo.DisableIdempotentWrite(),
		kgo.MetadataMinAge(100*time.Millisecond))
	require.NoError(t, err)
	defer client.CloseAllowingRebalance()
	value := make([]byte, 32<<10)
	_, _ = rand.NewChaCha8([32]byte{}).Read(value) // it cannot be made smaller on the way; never an error
	produce := func() error { return client.ProduceSync(t.Context(), &kgo.Record{Value: value}).FirstErr() }
	before := link.Bytes()
	require.NoError(t, produce())
	require.Greater(t, link.Bytes(), before+int64(len(value)), "it goes there over the link")
	require.Len(t, client.PollFetches(t.Context()).Records(), 1)
	require.Greater(t, link.Bytes(), before+2*int64(len(value)), "and comes back over it")
	before = link.Bytes()
	require.NoError(t, client.CommitUncommittedOffsets(t.Context()))
	require.Greater(t, link.Bytes(), before, "as does what concerns the group")
	link.Down()
	require.Error(t, produce(), "the link is down")
	link.Up()
	require.Eventually(t, func() bool { return produce() == nil }, 30*time.Second, 10*time.Millisecond, "it is up again")
}
