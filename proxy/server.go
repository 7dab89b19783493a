package proxy

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"barkeep/internal/actor"
	"barkeep/internal/market"
	"barkeep/planner"
)

// Version is a state of the coverage that the Coordinator can be asked about later.
type Version any

// Request is what one statement needs before it may go on.
type Request struct {
	// At, where not nil, is the coverage that the session's snapshot may date from. What is missing then can be
	// fetched, but not be seen: 40001.
	At           Version
	Requirements []market.Requirement
	// Life is what LifeQuery named the life of the database that the session is connected to, empty if it could not.
	Life string
	// Mode is barkeep.mode; Freshness is barkeep.freshness, zero for the default; MaxBars is barkeep.max_bars.
	Mode      string
	Freshness time.Duration
	MaxBars   int64
	// AskedBy is the role that pays for it.
	AskedBy string
}

// Coordinator fills gaps.
type Coordinator interface {
	// Snapshot returns the coverage as it is known now.
	Snapshot() Version
	// Missing returns about how many bars a request lacks; 0 says that it is covered and nothing need be waited for.
	Missing(ctx context.Context, request Request) (bars int64, err error)
	// Ensure returns when the request is covered, or with warnings for the client of what the answer will lack: it is
	// given without a further look then.
	Ensure(ctx context.Context, request Request, progress func(market.Progress)) (warnings []string, err error)
}

// Catalog knows the database. *catalog.Catalog implements it.
type Catalog interface {
	Current() *planner.Catalog
	Answer(ctx context.Context, questions []planner.Question) (planner.Answers, error)
	MayRead(ctx context.Context, role string, columns []string, relation string) (bool, error)
}

// asked are what each message asks of the Catalog; nil where it has no answer.
type asked struct {
	reloads   reloader
	suspected suspecter
}

// reloader is a Catalog that counts the reloads of the server's configuration.
type reloader interface{ Reloads() uint64 }

// suspecter is a Catalog whose Current may have to ask the database: Suspected says whether it would now.
type suspecter interface{ Suspected() bool }

// Config is what a Server needs. Zero limits are replaced by DESIGN §14's defaults.
type Config struct {
	Upstream Upstream
	// Database is the one whose sessions are planned; empty plans none.
	Database string
	// TLS, where not nil, is offered to clients over TCP, by SSLRequest and, where it names PostgreSQL's protocol, by the first
	// byte. Over unix sockets there is none, as at PostgreSQL.
	TLS *tls.Config
	// RequireTLS refuses sessions over TCP without TLS. A cancel request proves itself by its key, and drivers send it in the clear.
	RequireTLS bool
	// RequireCertificate refuses sessions over TCP whose client has not shown a certificate of its user that TLS's ClientCAs vouch
	// for.
	RequireCertificate bool
	// ClientNames are the users that a client's certificate is good for besides the one of its common name, by common name.
	ClientNames map[string][]string
	// AllowTrust admits clients though the upstream asked them for no proof, wherever they are and whatever it judged.
	AllowTrust bool
	// Verifiers, where not nil, lets SCRAM be terminated. Where it says that none can be read, SCRAM is relayed.
	Verifiers Verifiers
	// Coordinator and Catalog may both be nil: then nothing is planned.
	Coordinator Coordinator
	Catalog     Catalog

	// Limits can be set anew while the server runs.
	Limits
	// MaxMessage bounds a message that must be held as a whole.
	MaxMessage int
	// MaxRounds bounds how often a statement is planned again after a hold.
	MaxRounds int
	// ForceHold is for tests: each statement, also one that cannot read ohlcv, is held once for a random time up to it, as if
	// bars were missing. Zero forces nothing.
	ForceHold time.Duration

	// Others may be nil: then there is no other barkeep.
	Others Others
	// Explainer answers EXPLAIN (BARKEEP); nil leaves that to the upstream, which has no such option.
	Explainer Explainer
	// Live gives live bars to sessions that listen to them; nil leaves LISTEN to the upstream alone.
	Live Live
	// Skew returns between what the upstream's clock less ours is known to lie; nil means that the clocks agree. It must not
	// wait.
	Skew func() (least, most time.Duration)
	// Actors shows statements that wait; nil shows none.
	Actors  *actor.Registry
	Logger  *slog.Logger
	Metrics *Metrics
}

func (c Config) withDefaults() Config {
	if c.MaxMessage <= 0 {
		c.MaxMessage = 64 << 20
	}
	if c.MaxRounds <= 0 {
		c.MaxRounds = 20
	}
	if c.Skew == nil {
		c.Skew = func() (least, most time.Duration) { return 0, 0 }
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Metrics == nil {
		c.Metrics = NewMetrics(nil)
	}
	return c
}

// Server accepts clients. It is safe for concurrent use.
type Server struct {
	cfg     Config
	cache   *planner.Cache
	scans   scans
	asked   asked
	limited atomic.Pointer[Limits] // those of cfg are moved here
	// abandoned is closed by abandon, which may be called more than once.
	abandoned   chan struct{}
	abandon     func()
	loops       []*eventLoop  // set before the first session; empty: each session has two goroutines
	turn        atomic.Uint64 // whose of the loops it is
	whereabouts whereabouts
	// cancels has an element for each cancel request on its way upstream.
	cancels  chan struct{}
	patience time.Duration // cancelPatience
	// overlays counts the catalogs that sessions made for themselves.
	overlays atomic.Uint64

	mu       sync.Mutex // guards what follows
	numbers  uint64     // of sessions, counted up
	sessions map[*session]struct{}
	keys     map[uint32][]*session // by process id of the BackendKeyData
	proven   counts                // of sessions
	holds    counts
	arrivals arrivals
}

// New returns a server; it starts nothing.
func New(cfg Config) *Server {
	s := &Server{
		cfg: cfg.withDefaults(), cache: planner.NewCache(4096),
		sessions: map[*session]struct{}{}, keys: map[uint32][]*session{}, proven: newCounts(), holds: newCounts(), arrivals: newArrivals(),
		cancels: make(chan struct{}, maxCancels), patience: cancelPatience,
	}
	s.asked.reloads, _ = cfg.Catalog.(reloader)
	s.asked.suspected, _ = cfg.Catalog.(suspecter)
	s.whereabouts.place.Store(&s.cfg.Upstream.Place)
	s.abandoned = make(chan struct{})
	s.abandon = sync.OnceFunc(func() { close(s.abandoned) })
	s.SetLimits(cfg.Limits)
	s.cfg.Limits = Limits{}
	return s
}

// Sessions returns how many sessions there are.
func (s *Server) Sessions() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.sessions)
}

// Serve accepts clients until ctx ends, then tells idle sessions to go, gives the others their grace, and returns when
// all are gone. It closes the listeners. When one of them cannot go on it ends as well.
func (s *Server) Serve(ctx context.Context, listeners ...net.Listener) error {
	work, abandon := context.WithCancel(context.WithoutCancel(ctx))
	defer abandon()
	intake, refuse := context.WithCancel(ctx)
	defer refuse()
	endLoops := s.startLoops(work)
	defer endLoops()
	var all, accepting sync.WaitGroup
	all.Go(func() { s.endIdle(intake) })
	errs := make([]error, len(listeners))
	for i, listener := range listeners {
		accepting.Go(func() {
			defer refuse()
			stop := context.AfterFunc(intake, func() { _ = listener.Close() })
			defer stop()
			errs[i] = s.accept(intake, work, listener, &all)
			_ = listener.Close()
		})
	}
	accepting.Wait()
	gone := make(chan struct{})
	drained := sync.WaitGroup{}
	drained.Go(func() { s.drain(gone, abandon) })
	all.Wait()
	close(gone)
	drained.Wait()
	return errors.Join(errs...)
}

func (s *Server) accept(ctx, work context.Context, listener net.Listener, all *sync.WaitGroup) error {
	for {
		conn, err := listener.Accept()
		switch {
		case ctx.Err() != nil:
			if conn != nil {
				_ = conn.Close()
			}
			return nil
		case err != nil:
			var temporary net.Error
			if errors.As(err, &temporary) && temporary.Timeout() {
				continue
			}
			if wait(ctx, acceptPause) != nil || errors.Is(err, net.ErrClosed) {
				return fmt.Errorf("accept client: %w", err)
			}
			s.cfg.Logger.WarnContext(ctx, "client not accepted", slog.Any("error", err))
			continue
		}
		all.Go(func() { s.serve(work, conn) })
	}
}

const (
	acceptPause = 50 * time.Millisecond
	drainEvery  = 50 * time.Millisecond
	// loginGrace is what a drain gives those that have not logged in, and cancel requests on their way. They have no statement in hand, and
	// a connection that says nothing, a balancer's look whether the port is open say, would take all of the grace.
	loginGrace = time.Second
)

// wait returns nil after d, or the context's error.
func wait(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Abandon ends the grace that Serve gives sessions when it is told to stop: all of them end then, with 57P01.
func (s *Server) Abandon() { s.abandon() }

// drain ends sessions as they become idle, and all of them when the grace is over.
func (s *Server) drain(gone <-chan struct{}, abandon context.CancelFunc) {
	ticker := time.NewTicker(drainEvery)
	defer ticker.Stop()
	grace := time.NewTimer(s.limits().Grace)
	defer grace.Stop()
	logins := time.AfterFunc(loginGrace, s.endLogins)
	defer logins.Stop()
	for {
		over := false
		select {
		case <-gone:
			return
		case <-grace.C:
			over = true
		case <-s.abandoned:
			over = true
		case <-ticker.C:
		}
		var ends sync.WaitGroup // a client that does not read must not keep the others
		for _, each := range s.list() {
			if over || each.idle() {
				ends.Go(func() { each.terminate(errShutdown) })
			}
		}
		ends.Wait()
		if over { // not before: whoever is stopped by it says nothing
			abandon()
		}
	}
}

func (s *Server) list() []*session {
	s.mu.Lock()
	defer s.mu.Unlock()
	list := make([]*session, 0, len(s.sessions))
	for each := range s.sessions {
		list = append(list, each)
	}
	return list
}

// add reports whether there is room for one more session.
func (s *Server) add(each *session) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.sessions) >= s.limits().MaxSessions && !s.makeRoom() {
		return false
	}
	s.numbers++
	each.number = s.numbers
	s.sessions[each] = struct{}{}
	s.cfg.Metrics.sessions.Set(float64(len(s.sessions)))
	return true
}

func (s *Server) remove(each *session) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.sessions, each)
	if each.admitted {
		s.proven.take(each.user)
	}
	list := s.keys[each.pid][:0:0]
	for _, other := range s.keys[each.pid] {
		if other != each {
			list = append(list, other)
		}
	}
	if len(list) == 0 {
		delete(s.keys, each.pid)
	} else {
		s.keys[each.pid] = list
	}
	s.cfg.Metrics.sessions.Set(float64(len(s.sessions)))
}

func (s *Server) register(each *session) {
	each.mu.Lock()
	each.info.PID = each.pid
	each.mu.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.keys[each.pid] = append(s.keys[each.pid], each)
}

// serve is one client from accept to close.
func (s *Server) serve(ctx context.Context, conn net.Conn) {
	each := newSession(s, conn)
	defer each.close()
	if err := each.serve(ctx); err != nil {
		s.cfg.Logger.DebugContext(ctx, "session ended", slog.Any("error", err))
	}
}
