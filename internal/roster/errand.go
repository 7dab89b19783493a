package roster

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

const (
	// patience is how long the others have to claim a cancel request before it goes to the database.
	patience = 250 * time.Millisecond
	// saltSize is that of the key of the hash, which is another one for each request.
	saltSize = 32
	// maxAsks bounds the requests that are told to the others at one time: whoever can connect can send some.
	maxAsks = 4
)

// hash is what stands for a cancel key: it says nothing of the secret, and cannot be used again. A secret of four bytes could be
// found by trying all; those who can read the table could as well read the database's memory.
func hash(salt []byte, pid uint32, secret []byte) []byte {
	mac := hmac.New(sha256.New, salt)
	_, _ = mac.Write(binary.BigEndian.AppendUint32(nil, pid)) // a hash never fails
	_, _ = mac.Write(secret)
	return mac.Sum(nil)
}

// ask makes the errand where there is another barkeep, and forgets those of whom nobody waits for any more.
const ask = `with old as (delete from barkeep.errand where asked_at < clock_timestamp() - interval '1 min'),
  new as (insert into barkeep.errand (pid, salt, mac) select $2, $3, $4 where exists (select from barkeep.instances where id <> $1) returning id)
  select id, pg_notify('` + channel + `', id::text)::text from new`

// Cancel has the barkeep deal with a cancel request that has the session, and returns when it has. It reports false where none
// has: then the request is the caller's again, and nobody else's.
func (r *Roster) Cancel(ctx context.Context, pid uint32, secret []byte) (dealt bool, err error) {
	select {
	case r.asks <- struct{}{}:
	case <-ctx.Done():
		return false, context.Cause(ctx)
	}
	salt := make([]byte, saltSize)
	_, _ = rand.Read(salt) // never fails
	errand, ended, err := r.ask(ctx, pid, salt, hash(salt, pid, secret))
	<-r.asks
	switch {
	case errors.Is(err, errAlone):
		return false, nil
	case err != nil:
		return false, err
	}
	defer r.wake(errand)
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case <-ended: // anybody can have said so
	case <-timer.C:
	case <-ctx.Done():
	}
	tag, err := r.pool.Exec(ctx, `delete from barkeep.errand where id = $1 and not claimed`, errand)
	switch {
	case err != nil:
		return false, fmt.Errorf("take a cancel request back: %w", err)
	case tag.RowsAffected() == 1:
		return false, nil
	}
	select {
	case <-ended:
	case <-ctx.Done():
	}
	return true, nil
}

// ask makes the errand. The lock is held until it is known whom to wake: the answer may be faster than this.
func (r *Roster) ask(ctx context.Context, pid uint32, salt, mac []byte) (errand int64, ended <-chan struct{}, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.id == 0 {
		return 0, nil, errAlone
	}
	var notified string
	err = r.pool.QueryRow(ctx, ask, r.id, int32(pid), salt, mac).Scan(&errand, &notified) //nolint:gosec // PostgreSQL's process ids are int32
	if errors.Is(err, pgx.ErrNoRows) {
		return 0, nil, errAlone
	}
	if err != nil {
		return 0, nil, fmt.Errorf("ask other barkeeps to cancel: %w", err)
	}
	waits := make(chan struct{})
	r.waiting[errand] = waits
	return errand, waits, nil
}

// take looks at an errand, and does it where it is this barkeep's to do.
func (r *Roster) take(ctx context.Context, conn *pgxpool.Conn, id int32, errand int64, errands *sync.WaitGroup) error {
	var instance, pid *int32
	var number *int64
	var salt, mac []byte
	err := conn.QueryRow(ctx, `select instance, number, pid, salt, mac from barkeep.errand
	  where id = $1 and not claimed and asked_at > clock_timestamp() - interval '10 s'`, errand).Scan(&instance, &number, &pid, &salt, &mac)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read an errand: %w", err)
	}
	var act func(context.Context) error
	switch {
	case instance == nil:
		act = r.proxy.Find(uint32(*pid), func(secret []byte) bool { //nolint:gosec // as above
			return hmac.Equal(mac, hash(salt, uint32(*pid), secret)) //nolint:gosec // as above
		})
	case *instance == id:
		act = r.endHold(uint64(*number)) //nolint:gosec // it was made of one
	}
	if act == nil {
		return nil
	}
	tag, err := conn.Exec(ctx, `update barkeep.errand set claimed = true where id = $1 and not claimed`, errand)
	if err != nil {
		return fmt.Errorf("claim an errand: %w", err)
	}
	if tag.RowsAffected() == 1 {
		errands.Go(func() { r.do(ctx, errand, act) })
	}
	return nil
}

func (r *Roster) endHold(number uint64) func(context.Context) error {
	return func(context.Context) error {
		r.proxy.EndHold(number)
		return nil
	}
}

// do does what was claimed, and says so.
func (r *Roster) do(ctx context.Context, errand int64, act func(context.Context) error) {
	if err := act(ctx); err != nil {
		r.logger.LogAttrs(ctx, slog.LevelWarn, "cancel request from another barkeep", slog.Any("error", err))
	}
	_, err := r.pool.Exec(ctx, `with gone as (delete from barkeep.errand where id = $1) select pg_notify('`+channel+`', '`+done+`' || $1::bigint)`, errand)
	if err != nil && ctx.Err() == nil {
		r.logger.LogAttrs(ctx, slog.LevelWarn, "another barkeep is not told that its cancel request is dealt with", slog.Any("error", err))
	}
}

// columns are the sessions as arrays, in the order of the table's columns after the first.
func columns(list []Session) []any {
	numbers, pids := make([]int64, len(list)), make([]int32, len(list))
	users, databases, clients, applications := make([]string, len(list)), make([]string, len(list)), make([]string, len(list)), make([]string, len(list))
	started, since := make([]time.Time, len(list)), make([]time.Time, len(list))
	states, waits, bars := make([]string, len(list)), make([]*string, len(list)), make([]*int64, len(list))
	live := make([]*string, len(list)) // no channel has a line's end in its name
	for i := range list {
		s := &list[i]
		numbers[i], pids[i] = int64(s.Number), int32(s.PID) //nolint:gosec // counted up from 1; PostgreSQL's process ids are int32
		users[i], databases[i], clients[i], applications[i] = s.User, s.Database, s.Client, s.Application
		started[i], since[i], states[i] = s.Started, s.Since, s.State
		if s.WaitsFor != "" {
			waits[i], bars[i] = &s.WaitsFor, &s.Bars
		}
		if len(s.Live) > 0 {
			live[i] = new(strings.Join(s.Live, "\n"))
		}
	}
	return []any{numbers, pids, users, databases, clients, applications, started, states, since, waits, bars, live}
}
