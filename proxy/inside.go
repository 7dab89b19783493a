package proxy

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"strconv"
	"strings"

	"barkeep/internal/catalog"
	"barkeep/planner"
)

// insider is a Catalog that can tell what a session's own transaction has defined, which nobody else sees.
//
// What holds: a statement of a block is planned with all that the block has defined before it, whether its text says so (made) or a function
// has done it by SQL of its own. For that the transaction is asked, once a statement that may conceal a definition was executed, before the
// next one is looked at. Behind such a statement in one pipeline, where nothing can be asked without ending the transaction, only what is
// settled passes (planner.Cache.Settled). Views that the block has defined are not seen through: what reads ohlcv through them is refused.
//
// A block without such a statement is asked nothing.
type insider interface {
	Inside(ctx context.Context, ask catalog.Asker, known *catalog.Own) (*catalog.Own, error)
	Including(own *catalog.Own, version uint64) *planner.Catalog
	Moves(own *catalog.Own) bool
}

// inside is what is known of the open block's own definitions. It belongs to the reader.
type inside struct {
	own *catalog.Own // nil where there are none
	// moves says that ohlcv has another name or schema in the block.
	moves bool
	// unsure says that there may be others by now, text is what may have made them; later that a portal or cursor of the block may make
	// more as it goes on.
	unsure, later bool
	text          string
	// defined is the number of the segment, from 1, that came last with what may define something that portals call which are bound by then.
	defined uint64
	// holds says that a cursor WITH HOLD may have been declared, perhaps in a block before; mayHold that it may have been out of sight.
	holds, mayHold bool
	// failed is why the transaction could not be asked.
	failed *Error
}

// any reports whether there is anything.
func (i *inside) any() bool {
	return i.unsure || i.own != nil || i.later || i.moves || i.failed != nil || i.defined > 0
}

// note notes a statement that goes upstream, and reports whether something else may be defined behind it.
func (i *inside) note(st *statement) bool {
	lower := ""
	if i.own != nil || st.conceals {
		lower = strings.ToLower(st.text)
	}
	switch {
	case st.conceals:
		i.later = i.later || strings.Contains(lower, "declare") || strings.Contains(lower, "prepare")
	case i.later && st.fetches, i.own != nil && (mayEnd(lower) || strings.Contains(lower, "rollback")): // what is taken back is seen no more
	default:
		return false
	}
	if i.unsure && i.text != st.text {
		i.text = ""
	} else {
		i.text = st.text
	}
	i.unsure = true
	return true
}

// execute notes an Execute; bound says that its portal was bound in this segment, and noted then. It reports as note does.
func (i *inside) execute(bound bool) bool {
	if i.later && !bound {
		i.unsure, i.text = true, ""
		return true
	}
	return false
}

func (s *session) insider() insider {
	in, _ := s.server.cfg.Catalog.(insider)
	return in
}

// lookInside asks the open block what it has defined, where the message at scan begins something and there may be what is not known.
func (s *session) lookInside(ctx context.Context, kind byte) error {
	r := &s.reader
	if !r.inside.unsure || r.inSegment || strings.IndexByte("QFPBDEC", kind) < 0 || s.insider() == nil {
		return nil
	}
	if s.quietOutside() {
		r.inside, r.overlay = inside{}, nil
		return nil
	}
	if r.trying {
		return errWouldWait
	}
	s.settle()
	if err := s.forwardPart(ctx); err != nil {
		return err
	}
	quiet, err := s.quiesce(ctx)
	switch {
	case errors.Is(err, errSegmentFailed):
		return nil
	case err != nil:
		return err
	case !quiet || s.blockFailed():
		return nil
	case s.quietOutside():
		r.inside, r.overlay = inside{}, nil
		return nil
	case r.settings.lenient() && !s.stale():
		return nil
	}
	return s.askInside(ctx)
}

// quietOutside reports whether nothing is outstanding, and no block open.
func (s *session) quietOutside() bool {
	r := &s.reader
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.waiting == 0 && s.tx == 'I' && !r.open && len(r.batch)+len(r.pending) == 0
}

// askInside is lookInside in a block in which nothing is outstanding.
func (s *session) askInside(ctx context.Context) error {
	r := &s.reader
	r.inside.failed = nil
	own, err := s.insider().Inside(ctx, s.askOwn, r.inside.own)
	var told *Error
	switch {
	case err == nil:
	case errors.As(err, &told) && !told.Fatal && ctx.Err() == nil:
		s.log.WarnContext(ctx, "what a block has defined could not be asked", slog.Any("error", err))
		r.inside.failed = told
		return nil
	default:
		return err
	}
	if own != r.inside.own {
		r.inside.own, r.inside.moves, r.overlay = own, s.insider().Moves(own), nil
	}
	r.inside.unsure, r.inside.text = false, ""
	return nil
}

// ownTimeout is the statement_timeout, in milliseconds, under which the transaction is asked.
const ownTimeout = 10_000

// askOwn is a catalog.Asker: under a savepoint, which is rolled back to, so that neither a setting nor a lock is left.
func (s *session) askOwn(ctx context.Context, sql string) ([][]byte, error) {
	end := slices.Concat(ownCommand(`rollback to savepoint "barkeep/own"`), ownCommand(`release savepoint "barkeep/own"`))
	reply, err := s.patient(ctx, slices.Concat(
		ownCommand(ownSavepoint),
		ownCommand("set local search_path = pg_catalog, pg_temp"),
		ownCommand("set local statement_timeout = "+strconv.Itoa(ownTimeout)),
		ownCommand(sql), end,
	))
	switch {
	case err != nil:
		return nil, err
	case reply.err != nil:
		if _, err := s.conclude(ctx, end); err != nil {
			return nil, err
		}
		return nil, upstreamError(reply.err)
	case reply.overflow:
		return nil, errTooManyDefinitions
	}
	return reply.rows, nil
}

// unsettled returns why a statement must not go: it may use what was defined before it, and nobody could be asked.
func (s *session) unsettled(st *statement) *Error {
	i := &s.reader.inside
	switch {
	case !i.unsure || s.insider() == nil || st.text == i.text || s.server.cache.Settled(st.text, s.env()):
		return nil
	case i.failed != nil:
		return i.failed
	}
	return errConcealed
}
