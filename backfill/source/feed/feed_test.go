package feed_test

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"barkeep/backfill/source"
	"barkeep/backfill/source/feed"
	"barkeep/internal/market"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// venue is a stand-in exchange: it remembers what is subscribed to, and says what it is told to.
type venue struct {
	url string

	mu    sync.Mutex
	conns map[*websocket.Conn]map[string]bool
	seen  int
}

type order struct {
	On  bool
	Ids []string
}

func newVenue(t *testing.T) *venue {
	t.Helper()
	v := &venue{conns: map[*websocket.Conn]map[string]bool{}}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		conn, err := websocket.Accept(w, r, nil)
		if err != nil {
			return
		}
		defer conn.CloseNow()
		v.mu.Lock()
		v.conns[conn], v.seen = map[string]bool{}, v.seen+1
		v.mu.Unlock()
		defer func() {
			v.mu.Lock()
			defer v.mu.Unlock()
			delete(v.conns, conn)
		}()
		for {
			_, text, err := conn.Read(r.Context())
			if err != nil {
				return
			}
			var o order
			if json.Unmarshal(text, &o) != nil {
				return
			}
			v.mu.Lock()
			for _, id := range o.Ids {
				v.conns[conn][id] = o.On
			}
			v.mu.Unlock()
		}
	}))
	t.Cleanup(server.Close)
	v.url = "ws" + strings.TrimPrefix(server.URL, "http")
	return v
}

// subscribed counts the connections that have id.
func (v *venue) subscribed(id string) (n int) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, ids := range v.conns {
		if ids[id] {
			n++
		}
	}
	return n
}

func (v *venue) connections() (open, all int) {
	v.mu.Lock()
	defer v.mu.Unlock()
	return len(v.conns), v.seen
}

// say sends text to whoever has id.
func (v *venue) say(id, text string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for conn, ids := range v.conns {
		if ids[id] {
			_ = conn.Write(context.Background(), websocket.MessageText, []byte(text))
		}
	}
}

func (v *venue) cut() {
	v.mu.Lock()
	defer v.mu.Unlock()
	for conn := range v.conns {
		_ = conn.CloseNow()
	}
}

func protocol(v *venue) feed.Protocol {
	return feed.Protocol{
		Source: "test", URL: v.url, Spacing: time.Millisecond,
		Subscribe: func(of []source.Instance, on bool, _ int64) []byte {
			o := order{On: on}
			for _, i := range of {
				o.Ids = append(o.Ids, i.VendorID)
			}
			text, _ := json.Marshal(o)
			return text
		},
		Parse: func(text []byte) (source.Instance, source.Tick, bool, error) {
			id, rest, ok := strings.Cut(string(text), "=")
			if !ok {
				return source.Instance{}, source.Tick{}, false, errors.New("no bar")
			}
			return instance(id), source.Tick{Closed: rest == "closed"}, true, nil
		},
	}
}

func instance(id string) source.Instance { return source.Instance{VendorID: id, Timeframe: market.M1} }

func run(t *testing.T, p feed.Protocol) *feed.Socket {
	t.Helper()
	s := feed.New(p, slog.New(slog.DiscardHandler))
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		require.NoError(t, <-done)
	})
	return s
}

func eventually(t *testing.T, what string, condition func() bool) {
	t.Helper()
	require.Eventually(t, condition, 30*time.Second, 5*time.Millisecond, what)
}

// TestFeedConnectsAgain: ticks go on after the connection was cut, and messages that cannot be read are passed over.
func TestFeedConnectsAgain(t *testing.T) {
	t.Parallel()
	v := newVenue(t)
	s := run(t, protocol(v))
	told := make(chan source.Tick, 100)
	leave := s.Follow(instance("A"), func(tick source.Tick) { told <- tick })
	other := make(chan source.Tick, 100)
	s.Follow(instance("B"), func(tick source.Tick) { other <- tick })
	for range 3 {
		eventually(t, "subscribed", func() bool { return v.subscribed("A") == 1 && v.subscribed("B") == 1 })
		v.say("A", "garbage")
		v.say("A", "A=closed")
		require.Equal(t, source.Tick{Closed: true}, <-told)
		_, before := v.connections()
		v.cut()
		eventually(t, "connected anew", func() bool { _, all := v.connections(); return all > before })
	}
	require.EqualValues(t, 3, s.Stats().Unread)
	require.EqualValues(t, 3, s.Stats().Ticks)
	require.GreaterOrEqual(t, s.Stats().Connects, int64(3))
	leave()
	leave()
	eventually(t, "left", func() bool { return v.subscribed("A") == 0 && v.subscribed("B") == 1 })
	v.say("B", "A=closed")
	v.say("B", "B=")
	require.Equal(t, source.Tick{}, <-other)
	require.Empty(t, told)
}

// TestFeedThatIsSilentIsBroken: a connection that tells nothing is given up, though it stands.
func TestFeedThatIsSilentIsBroken(t *testing.T) {
	t.Parallel()
	v := newVenue(t)
	p := protocol(v)
	p.Silence = 50 * time.Millisecond
	s := run(t, p)
	s.Follow(instance("A"), func(source.Tick) {})
	eventually(t, "connected again", func() bool { return s.Stats().Connects >= 2 })
}

// TestFeedBoundsItsConnections: beyond MaxInstances there is another connection, and none without followers.
func TestFeedBoundsItsConnections(t *testing.T) {
	t.Parallel()
	v := newVenue(t)
	p := protocol(v)
	p.MaxInstances, p.Batch = 2, 1
	s := run(t, p)
	var leaves []func()
	for _, id := range []string{"A", "B", "C"} {
		leaves = append(leaves, s.Follow(instance(id), func(source.Tick) {}), s.Follow(instance(id), func(source.Tick) {}))
	}
	eventually(t, "subscribed", func() bool { return v.subscribed("A") == 1 && v.subscribed("B") == 1 && v.subscribed("C") == 1 })
	open, _ := v.connections()
	require.Equal(t, 2, open)
	for _, leave := range leaves {
		leave()
	}
	eventually(t, "closed", func() bool { open, _ := v.connections(); return open == 0 })
	s.Follow(instance("D"), func(source.Tick) {})
	eventually(t, "connected again", func() bool { return v.subscribed("D") == 1 })
}

// TestTradesAreNotContinuedAcrossABreak: a bar in progress is told no more when the connection broke, or a message could not be read,
// until a period begins; two timeframes share one subscription, and one stays when the other leaves.
func TestTradesAreNotContinuedAcrossABreak(t *testing.T) {
	t.Parallel()
	v := newVenue(t)
	p := protocol(v)
	p.Parse = nil
	p.Read = func(text []byte) ([]feed.Event, error) {
		var e feed.Trade
		if err := json.Unmarshal(text, &e); err != nil {
			return nil, err
		}
		if e.ID == 0 {
			return nil, feed.ErrReconnect
		}
		return []feed.Event{{Of: source.Instance{VendorID: "A"}, Trade: &e}}, nil
	}
	s := feed.NewTrades(p, true, slog.New(slog.DiscardHandler))
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		require.NoError(t, <-done)
	})
	minutes, fives := make(chan source.Tick, 10), make(chan source.Tick, 10)
	s.Follow(source.Instance{VendorID: "A", Timeframe: market.M1}, func(tick source.Tick) { minutes <- tick })
	leave := s.Follow(source.Instance{VendorID: "A", Timeframe: market.M5}, func(tick source.Tick) { fives <- tick })
	id := 0
	say := func(seconds int) {
		id++
		text, err := json.Marshal(feed.Trade{ID: int64(id), At: market.Instant(seconds) * 1e6, Price: float64(id), Size: 1})
		require.NoError(t, err)
		v.say("A", string(text))
	}
	told := func(from chan source.Tick, seconds int, volume float64) {
		t.Helper()
		tick := <-from
		require.False(t, tick.Closed)
		require.Equal(t, market.Instant(seconds)*1e6, tick.Bar.TS)
		require.InDelta(t, volume, tick.Bar.Volume, 0)
	}
	subscribed := func() { eventually(t, "subscribed", func() bool { return v.subscribed("A") == 1 }) }
	subscribed()
	say(599)
	say(600)
	told(minutes, 600, 1)
	told(fives, 600, 1)
	leave()
	say(601)
	told(minutes, 600, 2)
	require.Empty(t, fives)

	v.say("A", "garbage") // it may have been a trade
	say(602)
	say(603)
	say(660)
	told(minutes, 660, 1)

	for _, broken := range []func(){v.cut, func() { v.say("A", `{"ID":0}`) }} {
		_, before := v.connections()
		broken()
		eventually(t, "connected anew", func() bool { open, all := v.connections(); return open == 1 && all > before })
		subscribed()
		minute := 660 + 60*before
		say(minute + 1)
		say(minute + 2)
		say(minute + 60)
		told(minutes, minute+60, 1)
	}
	require.Empty(t, minutes)
}
