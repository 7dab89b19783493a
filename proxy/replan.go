package proxy

import (
	"context"
	"fmt"

	"barkeep/planner"
)

// The upstream keeps the plan of a prepared statement, with the chunks that ohlcv had when it was made. It learns of new ones as a
// transaction begins, and when it locks what the transaction has not locked yet (LockRelationOid): a block that has looked at ohlcv before
// would execute a plan without the chunks that were filled meanwhile, by its own hold or for others, and miss their bars.
//
// What holds: each statement that may be executed by a plan of before is executed by one that was made, or looked at anew, after all that
// it needs was there. The parse of the statement is no matter, it names no chunk; nor is a snapshot, which is new for each in READ COMMITTED.
// Where one snapshot serves the whole block, what came after it is not seen by any plan.

// noticeSQL has the upstream notice what was made of tables by others: it opens a system catalog, which it locks for as long as that takes.
const noticeSQL = `select pg_catalog.pg_get_triggerdef(0)`

// mayBePlanned reports whether the unit may be executed by a plan that was made before: by a Bind, be it the proxy's own.
func (u *unit) mayBePlanned() bool {
	return !u.forced && !u.parseOnly && (u.planned || u.stmt.executes)
}

// replan sees to it that no plan is used that was made before something that was filled. It is asked when nothing is missing any more.
func (s *session) replan(ctx context.Context, units []unit) error {
	r := &s.reader
	if r.passed || r.repeatable() || !s.inTransaction() || !hasUnit(units, (*unit).mayBePlanned) {
		return nil
	}
	now := s.server.cfg.Coordinator.Snapshot() // before it is noticed
	if now == r.noticed {
		return nil
	}
	if r.trying {
		return errWouldWait
	}
	quiet, err := s.quiesce(ctx)
	switch {
	case err != nil || s.blockFailed():
		return err
	case !quiet:
		return errPlanKept
	case !s.inTransaction():
		return nil // the next notices by itself
	}
	reply, err := s.exchange(ctx, ownMessages(noticeSQL, nil, planner.Args{}, 0))
	switch {
	case err != nil:
		return err
	case reply.err != nil:
		return fmt.Errorf("have the upstream notice new chunks: %w", upstreamError(reply.err))
	}
	r.noticed = now
	return nil
}
