package feed

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/coder/websocket"

	"barkeep/backfill/source"
)

// Protocol is how a vendor's feed is spoken to. Its functions are pure and safe for concurrent use.
type Protocol struct {
	// Source is the source's name, for logs; URL is ws:// or wss://.
	Source, URL string
	// MaxInstances bounds what is subscribed to on one connection, default 100; Batch what one message names, default 50.
	MaxInstances, Batch int
	// Spacing is the least time between two messages of ours, default 250 ms.
	Spacing time.Duration
	// Keepalive is sent beside each ping, where the vendor wants to be told something; empty for nothing.
	Keepalive []byte
	// Silence is how long a connection with subscriptions may tell nothing, default 90 s.
	Silence time.Duration
	// Subscribe returns the message that begins, or with on false ends, the subscriptions; number is new in each message.
	Subscribe func(of []source.Instance, on bool, number int64) []byte
	// Parse reads one message. ok is false for what is no bar. An error tells of a message that cannot be read, or one by which
	// the vendor refuses something.
	Parse func(message []byte) (of source.Instance, tick source.Tick, ok bool, err error)
	// Read stands in for Parse where one message tells several things, or trades.
	Read func(message []byte) ([]Event, error)
}

// Event is one thing that a message tells: a trade, that a subscription begins, or else a tick.
type Event struct {
	Of    source.Instance
	Tick  source.Tick
	Trade *Trade
	// Begins tells that what comes from here on does not continue what came before.
	Begins bool
}

// ErrReconnect is wrapped by what Read returns where the vendor asks for a new connection.
var ErrReconnect = errors.New("the vendor asks for a new connection")

// events reads one message.
func (p *Protocol) events(message []byte) ([]Event, error) {
	if p.Read != nil {
		return p.Read(message)
	}
	of, tick, ok, err := p.Parse(message)
	if err != nil || !ok {
		return nil, err
	}
	return []Event{{Of: of, Tick: tick}}, nil
}

const (
	dialTimeout = 10 * time.Second
	// pingEvery and pongWithin find out that the peer is gone where it has nothing to tell.
	pingEvery  = 20 * time.Second
	pongWithin = 10 * time.Second
	// maxMessageBytes bounds a message: snapshots of a thousand bars have some hundred kilobytes.
	maxMessageBytes = 1 << 20
	// The pause before a new connection, of which up to half is taken away at random.
	firstPause, longestPause = 500 * time.Millisecond, 30 * time.Second
)

// Stats counts what a Socket has seen.
type Stats struct {
	// Connects counts the connections that came about, Ticks the bars and trades told, Unread the messages that could not be read.
	Connects, Ticks, Unread int64
}

// Socket is a feed over WebSockets. Make it with New and Run it once; its methods are safe for concurrent use.
type Socket struct {
	protocol                Protocol
	log                     *slog.Logger
	connects, ticks, unread atomic.Int64
	started                 chan struct{} // has an element when there is a link that was not started

	mu     sync.Mutex
	links  []*link                                 // guarded by mu
	placed map[source.Instance]*link               // guarded by mu
	tells  map[source.Instance]map[*follower]empty // guarded by mu
}

type empty struct{}

// follower is one who is told of an instance.
type follower struct{ tell func(Event) }

// New returns a Socket that is connected to nobody yet.
func New(protocol Protocol, log *slog.Logger) *Socket {
	for _, n := range []struct {
		set *int
		to  int
	}{{&protocol.MaxInstances, 100}, {&protocol.Batch, 50}} {
		if *n.set <= 0 {
			*n.set = n.to
		}
	}
	if protocol.Spacing <= 0 {
		protocol.Spacing = 250 * time.Millisecond
	}
	if protocol.Silence <= 0 {
		protocol.Silence = 90 * time.Second
	}
	return &Socket{
		protocol: protocol, log: log, started: make(chan struct{}, 1), placed: map[source.Instance]*link{},
		tells: map[source.Instance]map[*follower]empty{},
	}
}

// Stats returns what was counted so far.
func (s *Socket) Stats() Stats {
	return Stats{Connects: s.connects.Load(), Ticks: s.ticks.Load(), Unread: s.unread.Load()}
}

// Run holds the connections until ctx ends, and returns nil.
func (s *Socket) Run(ctx context.Context) error {
	var group sync.WaitGroup
	defer group.Wait()
	for {
		s.mu.Lock()
		for _, l := range s.links {
			if !l.runs {
				l.runs = true
				group.Go(func() { l.run(ctx) })
			}
		}
		s.mu.Unlock()
		select {
		case <-ctx.Done():
			return nil
		case <-s.started:
		}
	}
}

// Follow subscribes to an instance, on a connection that has room for it.
func (s *Socket) Follow(of source.Instance, tell func(source.Tick)) (leave func()) {
	return s.follow(of, func(e Event) {
		if e.Trade == nil && !e.Begins {
			tell(e.Tick)
		}
	})
}

func (s *Socket) follow(of source.Instance, tell func(Event)) (leave func()) {
	f := &follower{tell}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.tells[of] == nil {
		s.tells[of] = map[*follower]empty{}
		s.placeLocked(of)
	}
	s.tells[of][f] = empty{}
	return func() { s.leave(of, f) }
}

func (s *Socket) placeLocked(of source.Instance) {
	var in *link
	for _, l := range s.links {
		if len(l.wanted) < s.protocol.MaxInstances {
			in = l
			break
		}
	}
	if in == nil {
		in = &link{socket: s, wanted: map[source.Instance]empty{}, changed: make(chan struct{}, 1)}
		s.links = append(s.links, in)
		poke(s.started)
	}
	in.wanted[of] = empty{}
	s.placed[of] = in
	poke(in.changed)
}

func (s *Socket) leave(of source.Instance, f *follower) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, there := s.tells[of][f]; !there {
		return
	}
	delete(s.tells[of], f)
	if len(s.tells[of]) > 0 {
		return
	}
	delete(s.tells, of)
	in := s.placed[of]
	delete(s.placed, of)
	delete(in.wanted, of)
	poke(in.changed)
}

func (s *Socket) tell(e Event) {
	s.mu.Lock()
	followers := make([]*follower, 0, len(s.tells[e.Of]))
	for f := range s.tells[e.Of] {
		followers = append(followers, f)
	}
	s.mu.Unlock()
	if !e.Begins {
		s.ticks.Add(1)
	}
	for _, f := range followers {
		f.tell(e)
	}
}

func poke(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default: // it is awake already
	}
}

// link is one connection and those that follow it when it breaks.
type link struct {
	socket  *Socket
	changed chan struct{} // has an element when wanted may be another
	number  int64         // of the last message, of run's goroutines one after the other

	runs   bool                      // guarded by Socket.mu
	wanted map[source.Instance]empty // guarded by Socket.mu
}

var (
	errSilence = errors.New("nothing came")
	errUnused  = errors.New("nobody follows")
)

// run connects while somebody follows.
func (l *link) run(ctx context.Context) {
	pause := firstPause
	for ctx.Err() == nil {
		if !l.needed() {
			select {
			case <-ctx.Done():
			case <-l.changed:
			}
			continue
		}
		before := l.socket.ticks.Load()
		err := l.connect(ctx)
		if ctx.Err() != nil {
			return
		}
		if errors.Is(err, errUnused) {
			continue
		}
		if l.socket.ticks.Load() > before {
			pause = firstPause
		}
		l.socket.log.LogAttrs(ctx, slog.LevelWarn, "live feed lost its connection", slog.String("source", l.socket.protocol.Source), slog.Any("error", err))
		if !sleep(ctx, time.Duration(float64(pause)*(0.5+rand.Float64()/2))) {
			return
		}
		pause = min(2*pause, longestPause)
	}
}

func (l *link) needed() bool {
	l.socket.mu.Lock()
	defer l.socket.mu.Unlock()
	return len(l.wanted) > 0
}

func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}

// connect holds one connection until it breaks, ctx ends, or nobody follows any more: then it returns errUnused.
func (l *link) connect(ctx context.Context) error {
	dialing, cancelDial := context.WithTimeout(ctx, dialTimeout)
	defer cancelDial()
	conn, answer, err := websocket.Dial(dialing, l.socket.protocol.URL, nil)
	if answer != nil && answer.Body != nil {
		_ = answer.Body.Close() // nothing is in it: the connection was handed over
	}
	if err != nil {
		return fmt.Errorf("connect: %w", err)
	}
	conn.SetReadLimit(maxMessageBytes)
	l.socket.connects.Add(1)
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var group sync.WaitGroup
	defer group.Wait()
	defer func() { _ = conn.CloseNow() }() // it is broken, or of no use any more
	group.Go(func() {
		cancel(l.speak(ctx, conn))
	})
	err = l.read(ctx, conn)
	l.begins()
	if cause := context.Cause(ctx); cause != nil {
		err = cause
	}
	cancel(err)
	return err
}

// read tells what comes.
func (l *link) read(ctx context.Context, conn *websocket.Conn) error {
	p := &l.socket.protocol
	for {
		bounded, cancel := context.WithTimeoutCause(ctx, p.Silence, errSilence)
		kind, message, err := conn.Read(bounded)
		if cause := context.Cause(bounded); err != nil && cause != nil {
			err = cause
		}
		cancel()
		if err != nil {
			return fmt.Errorf("read: %w", err)
		}
		if kind != websocket.MessageText {
			continue
		}
		events, err := p.events(message)
		if errors.Is(err, ErrReconnect) {
			return fmt.Errorf("read: %w", err)
		}
		if err != nil {
			l.begins() // it may have been a trade of any of them
			l.socket.unread.Add(1)
			l.socket.log.LogAttrs(ctx, slog.LevelWarn, "message of a live feed cannot be used", slog.String("source", p.Source), slog.Any("error", err))
			continue
		}
		for i := range events {
			l.socket.tell(events[i])
		}
	}
}

// begins tells all who follow by this connection that something may be missing between what came and what comes.
func (l *link) begins() {
	l.socket.mu.Lock()
	of := slices.Collect(maps.Keys(l.wanted))
	l.socket.mu.Unlock()
	for _, i := range of {
		l.socket.tell(Event{Of: i, Begins: true})
	}
}

// speak subscribes to what is wanted and pings, until it cannot.
func (l *link) speak(ctx context.Context, conn *websocket.Conn) error {
	have := map[source.Instance]empty{}
	ping := time.NewTicker(pingEvery)
	defer ping.Stop()
	for {
		on, off, unused := l.differ(have)
		if unused {
			return errUnused
		}
		if err := l.subscribe(ctx, conn, off, false); err != nil {
			return err
		}
		if err := l.subscribe(ctx, conn, on, true); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-l.changed:
		case <-ping.C:
			if err := l.ping(ctx, conn); err != nil {
				return fmt.Errorf("ping: %w", err)
			}
		}
	}
}

func (l *link) ping(ctx context.Context, conn *websocket.Conn) error {
	ctx, cancel := context.WithTimeout(ctx, pongWithin)
	defer cancel()
	if text := l.socket.protocol.Keepalive; len(text) > 0 {
		if err := conn.Write(ctx, websocket.MessageText, text); err != nil {
			return err
		}
	}
	return conn.Ping(ctx)
}

// differ returns what is to be subscribed to and what to be left, and has have be what is wanted.
func (l *link) differ(have map[source.Instance]empty) (on, off []source.Instance, unused bool) {
	l.socket.mu.Lock()
	defer l.socket.mu.Unlock()
	for of := range l.wanted {
		if _, there := have[of]; !there {
			on = append(on, of)
			have[of] = empty{}
		}
	}
	for of := range have {
		if _, there := l.wanted[of]; !there {
			off = append(off, of)
			delete(have, of)
		}
	}
	return on, off, len(l.wanted) == 0
}

func (l *link) subscribe(ctx context.Context, conn *websocket.Conn, of []source.Instance, on bool) error {
	p := &l.socket.protocol
	for len(of) > 0 {
		n := min(p.Batch, len(of))
		l.number++
		if err := conn.Write(ctx, websocket.MessageText, p.Subscribe(of[:n], on, l.number)); err != nil {
			return fmt.Errorf("subscribe: %w", err)
		}
		of = of[n:]
		if !sleep(ctx, p.Spacing) {
			return context.Cause(ctx)
		}
	}
	return nil
}
