package proxy

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5/pgproto3"

	"barkeep/planner"
)

// exchange sends the proxy's own messages and a Sync, and returns the replies, of which the client sees nothing. Where the messages fail,
// nothing that they have named is left.
func (s *session) exchange(ctx context.Context, messages []byte) (*exchange, error) {
	own := &exchange{done: make(chan struct{}), bare: len(messages) == 0}
	if err := s.ask(own, messages); err != nil {
		return nil, err
	}
	select {
	case <-own.done:
		return own, s.tidy(own)
	case <-s.gone:
		return nil, errUpstreamGone
	case <-ctx.Done():
		if !own.bare { // it may fail yet; what comes behind it need not be waited for either
			_ = s.ask(&exchange{done: make(chan struct{})}, ownClose())
		}
		return nil, context.Cause(ctx)
	}
}

// ask sends messages of the proxy's own and a Sync.
func (s *session) ask(own *exchange, messages []byte) error {
	if err := s.awaitCancel(); err != nil {
		return err
	}
	s.push(entry{kind: kindOwn, own: own})
	s.mu.Unlock()
	if _, err := s.upstream.Write(append(messages, encode(&pgproto3.Sync{})...)); err != nil {
		return fmt.Errorf("write to upstream: %w", errors.Join(errUpstreamGone, err))
	}
	return nil
}

// tidy closes what messages of the proxy's own have named and left, where they have failed: an error takes back no prepared statement, and
// the client would see it. A Close has no error, not even in a failed block, and takes no time.
func (s *session) tidy(failed *exchange) error {
	if failed.err == nil {
		return nil
	}
	own := &exchange{done: make(chan struct{})}
	if err := s.ask(own, ownClose()); err != nil {
		return err
	}
	select {
	case <-own.done:
		return nil
	case <-s.gone:
		return errUpstreamGone
	}
}

// ownClose closes what the proxy's own messages name.
func ownClose() []byte {
	return append(encode(&pgproto3.Close{ObjectType: 'P', Name: ownName}), encode(&pgproto3.Close{ObjectType: 'S', Name: ownName})...)
}

// quiesce returns when nothing is outstanding upstream. A segment that is open there without a Bind is closed by a Sync
// of the proxy's own; it reports false for one with a Bind, which a Sync might commit. It returns errSegmentFailed for one
// that has failed there.
func (s *session) quiesce(ctx context.Context) (bool, error) {
	r := &s.reader
	if r.open {
		switch {
		case s.segmentFailed():
			return false, errSegmentFailed
		case r.usedUp:
			return false, nil
		}
		// First what came before: the end of a COPY that has not begun yet must be remembered.
		if quiet, err := s.calmDown(ctx); err != nil || !quiet {
			return false, err
		}
		own, err := s.exchange(ctx, nil)
		if err != nil {
			return false, err
		}
		r.open, r.timing = false, time.Time{}
		if own.behind {
			return false, errSegmentFailed
		}
	}
	return s.calmDown(ctx)
}

// calmDown is quiesce but for the open segment.
func (s *session) calmDown(ctx context.Context) (bool, error) {
	r := &s.reader
	for asked, broken := false, false; ; {
		s.mu.Lock()
		if s.copying && !broken {
			s.mu.Unlock()
			if err := s.breakCopy(ctx); err != nil {
				return false, err
			}
			broken = true
			continue
		}
		if unsure := s.waiting == 0 && s.ignored > 0 && !s.copying; unsure && !asked {
			s.mu.Unlock()
			if err := s.askOutcome(); err != nil {
				return false, err
			}
			asked = true
			continue
		} else if s.waiting == 0 && !unsure {
			erred := s.erred // and no Sync is on its way: a Query or FunctionCall behind the error was dropped
			unended := s.unended
			s.mu.Unlock()
			switch {
			case erred:
				return false, errSegmentFailed
			case unended:
				r.open, r.usedUp = true, true
				return false, nil
			}
			return true, nil
		}
		if s.calm == nil {
			s.calm = make(chan struct{})
		}
		calm := s.calm
		s.mu.Unlock()
		select {
		case <-calm:
		case <-s.gone:
			return false, errUpstreamGone
		case <-ctx.Done():
			return false, context.Cause(ctx)
		}
	}
}

// breakCopy has the upstream find a message in the middle of a COPY from the client that does not belong there, where the client has sent one: it
// ends the session. Where the COPY has failed meanwhile, it is no more than a Parse.
func (s *session) breakCopy(ctx context.Context) error {
	_, err := s.exchange(ctx, slices.Concat(
		encode(&pgproto3.Parse{Name: ownName}),
		encode(&pgproto3.Close{ObjectType: 'S', Name: ownName})))
	return err
}

// reached returns when the upstream has come to the end of what it has of the open segment, with errSegmentFailed if that has failed: a
// Query behind it is dropped then, and has no answer.
func (s *session) reached(ctx context.Context) error {
	if err := s.awaitCancel(); err != nil {
		return err
	}
	there := make(chan struct{})
	s.push(entry{kind: kindClose, instead: &shown{}, there: there})
	s.mu.Unlock()
	if _, err := s.upstream.Write(append(encode(&pgproto3.Close{ObjectType: 'P', Name: ownName}), encode(&pgproto3.Flush{})...)); err != nil {
		return fmt.Errorf("write to upstream: %w", errors.Join(errUpstreamGone, err))
	}
	for {
		s.mu.Lock()
		failed := s.erred && s.waiting == 0
		if s.stirred == nil {
			s.stirred = make(chan struct{})
		}
		stirred := s.stirred
		s.mu.Unlock()
		if failed {
			return errSegmentFailed
		}
		select {
		case <-there:
			return nil
		case <-stirred: // an error, or a ReadyForQuery of what came before
		case <-s.gone:
			return errUpstreamGone
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// askOutcome has the upstream say what a COPY came to whose end it has got: without a Sync or Flush it does not.
func (s *session) askOutcome() error {
	if err := s.awaitCancel(); err != nil {
		return err
	}
	s.mu.Unlock()
	if _, err := s.upstream.Write(encode(&pgproto3.Flush{})); err != nil {
		return fmt.Errorf("write to upstream: %w", err)
	}
	return nil
}

// failMark is a name that no statement has; the upstream's error about it mentions it.
const failMark = "barkeep/failed"

// fail answers the segment, or the Query, with an error in its place. The end is the message at scan that ended it: Q, S
// or H, or 0 for none; it is consumed.
func (s *session) fail(ctx context.Context, failure error, end byte, size int) error {
	r := &s.reader
	if ctx.Err() != nil || errors.Is(failure, errClientGone) {
		return failure
	}
	if end == 'Q' && r.open && !errors.Is(failure, errSegmentFailed) {
		switch err := s.reached(ctx); {
		case errors.Is(err, errSegmentFailed):
			failure = err
		case err != nil:
			return err
		}
	}
	if errors.Is(failure, errSegmentFailed) {
		return s.dropRest(end, size)
	}
	var raw []byte
	var at point
	if refused, ok := failure.(*refusal); ok { //nolint:errorlint // made by gate itself, never wrapped
		raw, at = refused.message, refused.at
	} else {
		public := publicError(ctx, s.log, failure)
		if public.Fatal {
			return failure
		}
		raw = public.encode()
	}
	if r.together && !r.open && at == (point{}) {
		raw = detailed(raw, together)
	}
	s.server.cfg.Metrics.outcome("failed")
	if end != 'Q' && !r.used {
		r.begins = ""
	}
	if err := s.sendBefore(at); err != nil {
		return err
	}
	err := s.beginFailed(ctx)
	if err == nil && end == 'Q' {
		err = s.dropUnnamed(ctx)
	}
	switch {
	case errors.Is(err, errSegmentFailed):
		return s.dropRest(end, size)
	case err != nil:
		return err
	}
	r.dropHeld(size)
	r.skipping = end == 'H' || end == 0
	ends := !r.skipping
	if ends {
		r.leaveSegment()
	}
	s.mu.Lock()
	tx := s.tx
	local := s.waiting == 0 && !r.open && !s.unended && tx != 'T'
	s.mu.Unlock()
	if local {
		if tx == 'E' { // since gate looked: by what was outstanding then
			raw = errBlockFailed.encode()
		}
		if ends {
			raw = append(raw, encode(&pgproto3.ReadyForQuery{TxStatus: tx})...)
		}
		_ = s.inject(raw)
		return nil
	}
	return s.failUpstream(raw, ends)
}

// beforeFailure returns what comes before the first statement of a Query that may read ohlcv, where that can be executed although the
// Query is failed: PostgreSQL executes statement by statement, and gives the results of those before the one that fails. It is nil where
// nothing comes before, where that would not go upstream unplanned by itself, and where the client, or a time limit, has ended the whole.
func (s *session) beforeFailure(st *statement, refused []unit, failure error) *statement {
	r := &s.reader
	var own *Error
	_, word := failure.(*refusal) //nolint:errorlint // made by gate itself, never wrapped
	switch {
	case word, len(refused) > 0, r.open, r.inSegment, s.blockFailed(), errors.Is(failure, errClientGone), errors.Is(failure, errBehindEnd):
		return nil
	case errors.As(failure, &own) && (own.Fatal || own.Code == pgerrcode.QueryCanceled || own.Code == pgerrcode.LockNotAvailable):
		return nil
	}
	env := s.env()
	first := s.template(st, &env).Before()
	if first == "" || planner.MayRead(first, s.catalog()) {
		return nil
	}
	return s.classify([]byte(first), nil)
}

// failBehind has the upstream execute the first statements of a Query, and then fail as if it were by the next of it: they are in the
// transaction that they would be in, and what that leaves is what PostgreSQL would leave.
func (s *session) failBehind(ctx context.Context, first *statement, failure error, size int) error {
	if ctx.Err() != nil {
		return failure
	}
	public := publicError(ctx, s.log, failure)
	if public.Fatal {
		return failure
	}
	s.server.cfg.Metrics.outcome("failed")
	s.reader.begins = ""
	s.mu.Lock()
	s.failures = append(s.failures, public.encode())
	s.mu.Unlock()
	size = s.reader.replace(size, encode(&pgproto3.Query{String: first.text + `EXECUTE "` + failMark + `"`}))
	if err := s.sendQuery(first, entry{kind: kindQuery, clears: true}, size); err != nil {
		return err
	}
	return s.forward()
}

// dropUnnamed destroys the unnamed statement, as a Query does that fails in PostgreSQL (exec_simple_query), where one is answered in its place.
func (s *session) dropUnnamed(ctx context.Context) error {
	if found, _ := s.lookup(""); len(found) == 0 {
		return nil
	}
	if quiet, err := s.quiesce(ctx); err != nil || !quiet {
		return err
	}
	_, err := s.exchange(ctx, encode(&pgproto3.Close{ObjectType: 'S'}))
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.statements, "")
	return err
}

// dropHeld forgets the segment or the Query that is held, and the message of that size that ended it.
func (r *reader) dropHeld(size int) {
	r.scan += size
	r.start, r.segment = r.scan, r.scan
	r.pending, r.units, r.gated, r.sole = emptied(r.pending), nil, false, 0
}

// dropRest drops what PostgreSQL would drop: the rest of a segment whose error the client has got already.
func (s *session) dropRest(end byte, size int) error {
	r := &s.reader
	r.dropHeld(size)
	r.skipping = end != 'S'
	if r.skipping {
		return nil
	}
	r.open, r.usedUp = false, false
	r.leaveSegment()
	if err := s.awaitCancel(); err != nil {
		return err
	}
	s.push(entry{kind: kindSync})
	s.mu.Unlock()
	if _, err := s.upstream.Write(encode(&pgproto3.Sync{})); err != nil {
		return fmt.Errorf("write to upstream: %w", err)
	}
	return nil
}

// failUpstream makes the upstream fail at this place too, and puts the error in the place of its own.
func (s *session) failUpstream(raw []byte, ends bool) error {
	r := &s.reader
	out := encode(&pgproto3.Bind{PreparedStatement: failMark})
	if err := s.awaitCancel(); err != nil {
		return err
	}
	s.failures = append(s.failures, raw)
	if ends {
		s.push(entry{kind: kindSync, clears: true})
	}
	s.mu.Unlock()
	if ends {
		out = append(out, encode(&pgproto3.Sync{})...)
		r.open, r.usedUp = false, false
	} else {
		r.open, r.marked = true, true
	}
	if _, err := s.upstream.Write(out); err != nil {
		return fmt.Errorf("write to upstream: %w", err)
	}
	return nil
}
