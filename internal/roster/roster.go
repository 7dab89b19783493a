package roster

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

const (
	// channel is where errands are told by their number, and that they are done by "done" and the number.
	channel = "barkeep_errand"
	done    = "done "
	// lockClass is the first key of all advisory locks here; the second is a barkeep's id, or 0 for who looks. It is written in the
	// migration too.
	lockClass = "1650553451"

	look    = 250 * time.Millisecond
	between = time.Second
	// sparing is how many times as long as the last listing took there is none: it bounds what who looks all the time can cost.
	sparing = 4
)

// Session is one client's session, as the view shows it.
type Session struct {
	Number                                     uint64
	PID                                        uint32
	User, Database, Client, Application, State string
	Started, Since                             time.Time
	// WaitsFor says for a held session what it waits for, Bars about how many bars that are; empty for others.
	WaitsFor string
	Bars     int64
	// Live are the channels of live bars that it gets.
	Live []string
}

// Proxy is the barkeep's own part that has the sessions.
type Proxy interface {
	// Sessions lists those that are there now.
	Sessions() []Session
	// EndHold ends the hold of a session, if it has one.
	EndHold(number uint64)
	// Find returns what deals with a cancel request for the session of that process id whose secret matches, or nil. It returns when
	// the request can hit nothing any more.
	Find(pid uint32, matches func(secret []byte) bool) (cancel func(context.Context) error)
}

// Roster is one barkeep among the others. Make it with New, then Run it. Its methods are safe for concurrent use.
type Roster struct {
	pool   *pgxpool.Pool
	proxy  Proxy
	name   string
	logger *slog.Logger
	// entered is closed when it has been on the roster for the first time.
	entered chan struct{}
	enters  func()

	asks chan struct{} // an element for each cancel request that is being told

	mu      sync.Mutex              // guards what follows
	id      int32                   // 0 while there is no connection
	waiting map[int64]chan struct{} // closed when the errand is done
}

// New returns a roster on which the proxy stands as name. The pool stays the caller's.
func New(pool *pgxpool.Pool, proxy Proxy, name string, logger *slog.Logger) *Roster {
	r := &Roster{pool: pool, proxy: proxy, name: name, logger: logger, entered: make(chan struct{}), asks: make(chan struct{}, maxAsks), waiting: map[int64]chan struct{}{}}
	r.enters = sync.OnceFunc(func() { close(r.entered) })
	return r
}

// Entered returns a channel that is closed when Run has come to stand on the roster: until then the others do not know of it.
func (r *Roster) Entered() <-chan struct{} { return r.entered }

// Run stands on the roster until ctx ends, and then returns nil. A connection that breaks is made anew.
func (r *Roster) Run(ctx context.Context) error {
	var errands sync.WaitGroup
	defer errands.Wait()
	for {
		err := r.follow(ctx, &errands)
		r.setID(0)
		if ctx.Err() != nil {
			return nil
		}
		r.logger.LogAttrs(ctx, slog.LevelWarn, "not on the roster of barkeeps", slog.Any("error", err), slog.Duration("retry_in", between))
		timer := time.NewTimer(between)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return nil
		}
	}
}

func (r *Roster) setID(id int32) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.id = id
}

// follow stands on the roster by one connection until something fails.
func (r *Roster) follow(ctx context.Context, errands *sync.WaitGroup) error {
	conn, err := r.pool.Acquire(ctx)
	if err != nil {
		return fmt.Errorf("connect: %w", err)
	}
	// A connection that listens, and has a lock, must not go back to others: it is closed, which Release then notices.
	defer func() {
		_ = conn.Conn().Close(context.WithoutCancel(ctx)) // it is of no more use whatever this returns
		conn.Release()
	}()
	id, err := r.enter(ctx, conn)
	if err != nil {
		return err
	}
	next := time.Time{}
	for {
		if now := time.Now(); !now.Before(next) {
			took, err := r.list(ctx, conn, id)
			if err != nil {
				return err
			}
			next = time.Now().Add(max(look, sparing*took))
		}
		payload, err := heard(ctx, conn, next)
		if err != nil {
			return err
		}
		if err := r.deal(ctx, conn, id, payload, errands); err != nil {
			return err
		}
	}
}

// enter puts the barkeep on the roster, and those off that are gone.
func (r *Roster) enter(ctx context.Context, conn *pgxpool.Conn) (id int32, err error) {
	if _, err := conn.Exec(ctx, "LISTEN "+channel); err != nil {
		return 0, fmt.Errorf("listen: %w", err)
	}
	id = draw()
	_, err = conn.Exec(ctx, `insert into barkeep.instance (id, name, pid) overriding system value values ($1, $2, pg_backend_pid())`, id, r.name)
	if err != nil {
		return 0, fmt.Errorf("enter the roster: %w", err)
	}
	var locked bool
	switch err := conn.QueryRow(ctx, "select pg_try_advisory_lock("+lockClass+", $1)", id).Scan(&locked); {
	case err != nil:
		return 0, fmt.Errorf("lock the place on the roster: %w", err)
	case !locked:
		return 0, errors.New("lock the place on the roster: somebody has it")
	}
	// One whose connection is there may be about to take its lock.
	_, err = conn.Exec(ctx, `with gone as (delete from barkeep.instance i where i.id <> $1
	    and not exists (select from barkeep.instances l where l.id = i.id)
	    and not exists (select from pg_stat_activity a where a.pid = i.pid and a.pid <> pg_backend_pid()) returning id)
	  delete from barkeep.session_row s using gone where s.instance = gone.id`, id)
	if err != nil {
		return 0, fmt.Errorf("clear the roster: %w", err)
	}
	r.setID(id)
	r.enters()
	return id, nil
}

// draw returns a place on the roster. It is drawn and not counted: anybody can take an advisory lock, and nobody shall be able to
// take this one before.
func draw() int32 {
	var drawn [4]byte
	_, _ = rand.Read(drawn[:]) // never fails
	return int32(binary.BigEndian.Uint32(drawn[:])>>2) + 1
}

// heard waits for a notification until the time comes, which is no error. It returns the payload, or nothing.
func heard(ctx context.Context, conn *pgxpool.Conn, until time.Time) (string, error) {
	waiting, cancel := context.WithDeadline(ctx, until)
	defer cancel()
	notice, err := conn.Conn().WaitForNotification(waiting)
	switch {
	case ctx.Err() != nil:
		return "", fmt.Errorf("wait for notification: %w", context.Cause(ctx))
	case err != nil && waiting.Err() != nil && pgconn.Timeout(err):
		return "", nil
	case err != nil:
		return "", fmt.Errorf("wait for notification: %w", err)
	}
	return notice.Payload, nil
}

// rung asks whether somebody looks: then the lock cannot be had.
const rung = `select case when pg_try_advisory_lock(` + lockClass + `, 0) then not pg_advisory_unlock(` + lockClass + `, 0) else true end, clock_timestamp()`

const write = `with old as (delete from barkeep.session_row where instance = $1),
  new as (insert into barkeep.session_row select $1, number, pid, username, database, client, application, started, state, since, waits, bars, string_to_array(live, E'\n')
    from unnest($2::bigint[], $3::int[], $4::text[], $5::text[], $6::text[], $7::text[], $8::timestamptz[], $9::text[], $10::timestamptz[], $11::text[], $12::bigint[], $13::text[])
      as s (number, pid, username, database, client, application, started, state, since, waits, bars, live))
  update barkeep.instance set listed_at = $14 where id = $1`

// list writes the sessions down if somebody looks, and returns how long that took. What the database shows as their time is
// no later than they were looked at.
func (r *Roster) list(ctx context.Context, conn *pgxpool.Conn, id int32) (took time.Duration, err error) {
	var looks bool
	var asOf time.Time
	if err := conn.QueryRow(ctx, rung).Scan(&looks, &asOf); err != nil {
		return 0, fmt.Errorf("ask who looks: %w", err)
	}
	if !looks {
		return 0, nil
	}
	began := time.Now()
	if _, err := conn.Exec(ctx, write, append(append([]any{id}, columns(r.proxy.Sessions())...), asOf)...); err != nil {
		return 0, fmt.Errorf("list sessions: %w", err)
	}
	return time.Since(began), nil
}

// deal does what a notification tells of.
func (r *Roster) deal(ctx context.Context, conn *pgxpool.Conn, id int32, payload string, errands *sync.WaitGroup) error {
	if payload == "" {
		return nil
	}
	number, ended := strings.CutPrefix(payload, done)
	errand, err := strconv.ParseInt(number, 10, 64)
	if err != nil {
		return nil //nolint:nilerr // anybody can notify
	}
	if ended {
		r.wake(errand)
		return nil
	}
	return r.take(ctx, conn, id, errand, errands)
}

// wake tells who waits for an errand, if that is somebody here.
func (r *Roster) wake(errand int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if waits, here := r.waiting[errand]; here {
		close(waits)
		delete(r.waiting, errand)
	}
}

var errAlone = errors.New("no other barkeep")
