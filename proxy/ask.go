package proxy

import (
	"context"
	"encoding/binary"
	"errors"
	"log/slog"
	"slices"
	"strconv"
	"time"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5/pgproto3"

	"barkeep/planner"
)

// What a statement takes from the user's own data is asked in the user's session, where alone it means what it means in the
// statement: its own rows that are not committed, temporary tables, row security, rights (PLANNER 19). A question is a statement
// of the proxy's own, in a transaction that cannot write and is rolled back, or under a savepoint of the block, which is rolled back
// to. Outside of the session's own words nothing of it is seen.
//
// It is asked in each round of planning, so that what goes upstream was planned with what was there after the last hold. What is
// left is another session that commits between the last question and the statement, which are one round trip apart: the
// statement may see its row without the bars.

const (
	// maxValues bounds the rows of an answer, maxValueBytes their length together.
	maxValues     = 10_000
	maxValueBytes = 4 << 20
	// maxStages bounds how deep questions are read from ohlcv that have questions of their own.
	maxStages = 4
	// askPatience is how long the answer to a question is waited for before the client is listened to meanwhile.
	askPatience = 10 * time.Millisecond
	// interruptEvery is the pause between cancel requests for one question.
	interruptEvery = 100 * time.Millisecond
	// endTries bounds how often the end of a question is tried.
	endTries = 20
	// ownSavepoint begins a question within a block.
	ownSavepoint = `savepoint "barkeep/own"`
)

var (
	// errPass says that the upstream's block has failed: the units may go.
	errPass = errors.New("block has failed upstream")
	// errAgain says that something was waited for while the units were planned: what was asked before may be another thing now.
	errAgain = errors.New("plan again")
)

// stageError is what an EXPLAIN (BARKEEP) can show where a question reads bars that are not there.
type stageError struct{ what need }

// Error says what is shown.
func (*stageError) Error() string { return "a question reads bars that are missing" }

// unaskable says why nothing can be asked for a unit; empty where it can.
func (s *session) unaskable(u *unit) string {
	switch {
	case u.parseOnly:
		return "a subquery of a statement that is not executed yet"
	case u.behind:
		return "a subquery behind other statements of its pipeline"
	case s.reader.repeatable() && s.inTransaction():
		return "a subquery in a block of REPEATABLE READ or SERIALIZABLE"
	}
	return ""
}

// askData answers questions about the user's data into args; those that cannot be asked have an answer that says so.
func (s *session) askData(ctx context.Context, held *hold, u unit, args *planner.Args, list []planner.Data) error {
	if s.reader.trying {
		return errWouldWait
	}
	quiet, err := s.quiesce(ctx)
	switch {
	case err != nil:
		return err
	case !quiet:
		args.Unaskable = "a subquery behind other statements of its pipeline"
		return nil
	case s.blockFailed():
		return errPass
	}
	q := &asking{session: s, unit: u, args: args}
	if err := q.describe(ctx, list); err != nil {
		return err
	}
	for _, d := range list {
		if d.Reads {
			if err := s.stage(ctx, held, q, d); err != nil {
				return err
			}
		}
	}
	s.mu.Lock()
	q.block = s.tx == 'T'
	s.mu.Unlock()
	if args.Data == nil {
		args.Data = map[string]planner.Column{}
	}
	for _, d := range list {
		column, err := q.ask(ctx, d)
		if err != nil {
			return err
		}
		args.Data[d.Key] = column
	}
	return nil
}

// stage waits until what a question reads of ohlcv is there.
func (s *session) stage(ctx context.Context, held *hold, q *asking, d planner.Data) error {
	if held.stages >= maxStages {
		q.args.Unaskable = "subqueries that are nested too deeply"
		return nil
	}
	held.stages++
	defer func() { held.stages-- }()
	parameters := q.parameters(d)
	nested := unit{stmt: &statement{text: d.SQL, oids: parameters.OIDs}, args: parameters}
	what, err := s.planUnits(ctx, held, []unit{nested})
	if err != nil {
		return err
	}
	request, missing, err := s.missing(ctx, held, what)
	switch {
	case err != nil:
		return err
	case missing == 0:
		return nil
	case held.explains:
		return &stageError{what}
	}
	switch pass, err := held.wait(ctx, request, what); {
	case err != nil:
		return err
	case !pass:
		return errAgain
	case s.blockFailed():
		return errPass
	}
	return nil // with the user's leave there is nothing more to come
}

// asking is one round of questions.
type asking struct {
	session *session
	unit    unit
	args    *planner.Args
	oids    []uint32 // of the statement's parameters
	block   bool     // a block is open
}

// describe finds the types of the parameters that the questions use: the upstream says what it has inferred for the statement.
func (q *asking) describe(ctx context.Context, list []planner.Data) error {
	q.oids = slices.Clone(q.args.OIDs)
	unknown := false
	for _, d := range list {
		for _, n := range d.Params {
			unknown = unknown || n > len(q.oids) || q.oids[n-1] == 0
		}
	}
	if !unknown {
		return nil
	}
	var err error
	q.oids, err = q.session.askTypes(ctx, q.unit)
	return err
}

// parameters are those of the statement that a question uses.
func (q *asking) parameters(d planner.Data) planner.Args {
	var out planner.Args
	for _, n := range d.Params {
		oid, format := uint32(0), int16(0)
		if n <= len(q.oids) {
			oid = q.oids[n-1]
		}
		switch f := q.args.Formats; {
		case len(f) == 1:
			format = f[0]
		case n <= len(f):
			format = f[n-1]
		}
		out.OIDs, out.Formats = append(out.OIDs, oid), append(out.Formats, format)
		out.Values = append(out.Values, q.args.Values[n-1])
	}
	return out
}

// ask asks one question.
func (q *asking) ask(ctx context.Context, d planner.Data) (planner.Column, error) {
	s := q.session
	why, reply, err := q.lookBehind(ctx, d)
	switch {
	case err != nil || reply.err != nil:
		return q.failed(ctx, d, reply, err)
	case why != "":
		switch ended, err := s.conclude(ctx, q.end()); {
		case err != nil:
			return planner.Column{}, err
		case ended.err != nil:
			return planner.Column{}, errPass
		}
		return planner.Column{Unknown: why}, nil
	}
	parameters := q.parameters(d)
	reply, err = s.patient(ctx, append(ownMessages(d.SQL, parameters.Values, parameters, maxValues+1), q.end()...))
	switch {
	case err != nil || reply.err != nil:
		return q.failed(ctx, d, reply, err)
	case reply.overflow || len(reply.rows) > maxValues:
		return planner.Column{Unknown: "a subquery of more than " + grouped(maxValues) + " values"}, nil
	case reply.ambiguous:
		return planner.Column{Unknown: "a subquery with a collation under which texts are equal that are not the same"}, nil
	}
	return planner.Column{OID: reply.oid, Values: reply.rows}, nil
}

// lookBehind begins what a question is asked in, and says what keeps it from being asked; empty where nothing does.
func (q *asking) lookBehind(ctx context.Context, d planner.Data) (why string, reply *exchange, err error) {
	s := q.session
	names := [][]byte{textArray(d.Relations), textArray(d.Functions), textArray(d.Columns), textArray(d.Operators), textArray(d.Targets)}
	reply, err = s.patient(ctx, append(q.begin(), ownMessages(plainSQL, names, planner.Args{}, 0)...))
	if err != nil || reply.err != nil || isPlainLook(reply) {
		return "", reply, err
	}
	reply, err = s.patient(ctx, ownMessages(lookSQL, append(names, []byte(strconv.FormatBool(d.View))), planner.Args{}, 0))
	if err != nil || reply.err != nil {
		return "", reply, err
	}
	return seenThrough(reply, d.Set), reply, nil
}

// begin begins what a question is asked in.
func (q *asking) begin() []byte {
	if q.block {
		return slices.Concat(ownCommand(ownSavepoint), ownCommand("set local transaction_read_only = on"))
	}
	return ownCommand("begin transaction isolation level repeatable read, read only")
}

// end ends it, as if it had never been.
func (q *asking) end() []byte {
	if q.block {
		return slices.Concat(ownCommand(`rollback to savepoint "barkeep/own"`), ownCommand(`release savepoint "barkeep/own"`))
	}
	return ownCommand("rollback")
}

// conclude ends a question by these messages, whatever has come of ctx. They are statements, which statement_timeout and a cancel request that is
// late may hit as well: then they are tried again, or the session would be left in a failed block that its client has not begun.
func (s *session) conclude(ctx context.Context, end []byte) (ended *exchange, err error) {
	ctx = context.WithoutCancel(ctx)
	for range endTries {
		if ended, err = s.patient(ctx, slices.Clone(end)); err != nil || ended.err == nil {
			return ended, err
		}
	}
	return ended, s.tidy(ended)
}

// failed ends a question that the upstream has answered with an error, and says what that means for the statement: it is the
// statement's own error, unless only the question is wrong.
func (q *asking) failed(ctx context.Context, d planner.Data, reply *exchange, err error) (planner.Column, error) {
	s := q.session
	if reply == nil || reply.err == nil { // no end, or all is over
		return planner.Column{}, err
	}
	ended, failure := s.conclude(ctx, q.end())
	switch {
	case failure != nil:
		return planner.Column{}, failure
	case err != nil:
		return planner.Column{}, err
	case ended.err != nil:
		return planner.Column{}, errPass
	}
	switch own := upstreamError(reply.err); {
	case own.Code == pgerrcode.ReadOnlySQLTransaction:
		return planner.Column{Unknown: "a subquery that writes"}, nil
	case d.View && own.Code == pgerrcode.InsufficientPrivilege: // the view's owner may have the right
		return planner.Column{Unknown: "a subquery of a view, which its owner may read: " + own.Message}, nil
	case pgerrcode.IsSyntaxErrororAccessRuleViolation(own.Code) && own.Code != pgerrcode.InsufficientPrivilege:
		if err := s.checkParse(ctx, q.unit); err != nil {
			return planner.Column{}, err
		}
		return planner.Column{Unknown: "a subquery that cannot be asked by itself: " + own.Message}, nil
	case q.unit.portal && pgerrcode.IsDataException(own.Code): // perhaps of a parameter, for which the Bind is refused
		if err := s.checkUnit(ctx, q.unit); err != nil {
			return planner.Column{}, err
		}
		return planner.Column{}, own
	default:
		return planner.Column{}, own
	}
}

// patient is exchange for what may take long: the client is listened to meanwhile, and the end of ctx, or of the client, is
// handed on as a cancel request. It returns both the replies and an error where that has come about.
func (s *session) patient(ctx context.Context, messages []byte) (*exchange, error) {
	own := &exchange{done: make(chan struct{}), hushed: true}
	if err := s.ask(own, messages); err != nil {
		return nil, err
	}
	timer := time.NewTimer(askPatience)
	defer timer.Stop()
	select {
	case <-own.done:
		return own, nil
	case <-s.gone:
		return nil, errUpstreamGone
	case <-ctx.Done():
	case <-timer.C:
	}
	return s.listenBeside(ctx, own)
}

// listenBeside reads what the client sends until the exchange is over.
func (s *session) listenBeside(ctx context.Context, own *exchange) (*exchange, error) {
	ctx, giveUp := context.WithCancelCause(ctx)
	defer giveUp(nil)
	over, finished := make(chan struct{}), make(chan struct{})
	client := s.client
	go func() {
		defer close(finished)
		select {
		case <-own.done:
		case <-s.gone:
		case <-ctx.Done():
			s.interrupt(ctx, own)
		}
		close(over) // before the deadline: listen sets one of its own, then looks
		_ = client.SetReadDeadline(time.Unix(1, 0))
	}()
	h := &hold{session: s}
	for listening := true; listening; {
		if err := h.listen(time.Now().Add(time.Second), over); err != nil {
			giveUp(errClientGone)
			break
		}
		select {
		case <-over:
			listening = false
		default:
		}
	}
	<-finished
	if err := client.SetReadDeadline(time.Time{}); err != nil {
		return own, errClientGone
	}
	select {
	case <-own.done:
		return own, context.Cause(ctx)
	default:
		return nil, errUpstreamGone
	}
}

// interrupt sends the upstream cancel requests until the exchange is over: one that comes before the question is begun is lost.
func (s *session) interrupt(ctx context.Context, own *exchange) {
	ticker := time.NewTicker(interruptEvery)
	defer ticker.Stop()
	for {
		s.interruptOnce(ctx)
		select {
		case <-own.done:
			return
		case <-s.gone:
			return
		case <-ticker.C:
		}
	}
}

func (s *session) interruptOnce(ctx context.Context) {
	packet := binary.BigEndian.AppendUint32(nil, uint32(12+len(s.secret))) //nolint:gosec // at most 256
	packet = binary.BigEndian.AppendUint32(packet, codeCancel)
	packet = append(binary.BigEndian.AppendUint32(packet, s.pid), s.secret...)
	work := context.WithoutCancel(ctx)
	if err := s.server.passCancel(work, work, s.place, packet); err != nil {
		s.log.DebugContext(ctx, "question not canceled", slog.Any("error", err))
	}
}

// ownCommand is a statement of the proxy's own without parameters.
func ownCommand(sql string) []byte { return ownMessages(sql, nil, planner.Args{}, 0) }

// ownMessages execute a statement of the proxy's own, with at most so many rows of it, in binary. One that failed before has
// left its names taken.
func ownMessages(sql string, values [][]byte, args planner.Args, most uint32) []byte {
	return slices.Concat(
		encode(&pgproto3.Close{ObjectType: 'P', Name: ownName}),
		encode(&pgproto3.Close{ObjectType: 'S', Name: ownName}),
		encode(&pgproto3.Parse{Name: ownName, Query: sql, ParameterOIDs: args.OIDs}),
		encode(&pgproto3.Bind{
			DestinationPortal: ownName, PreparedStatement: ownName, ParameterFormatCodes: args.Formats, Parameters: values,
			ResultFormatCodes: []int16{1},
		}),
		encode(&pgproto3.Describe{ObjectType: 'P', Name: ownName}),
		encode(&pgproto3.Execute{Portal: ownName, MaxRows: most}),
		encode(&pgproto3.Close{ObjectType: 'P', Name: ownName}),
		encode(&pgproto3.Close{ObjectType: 'S', Name: ownName}),
	)
}

// missing returns what is to be asked of the coordinator, and about how many bars are missing.
func (s *session) missing(ctx context.Context, held *hold, what need) (Request, int64, error) {
	r := &s.reader
	request := Request{
		Requirements: what.requirements, Mode: what.set.mode, Freshness: what.set.freshness, MaxBars: what.set.maxBars,
		AskedBy: what.set.role, Life: s.life,
	}
	if r.repeatable() && r.snapshotTaken && s.inTransaction() && !s.endsBefore(held.units) {
		request.At = r.snapshotVersion
	}
	if len(what.requirements) == 0 || what.set.mode == "stored" {
		return request, 0, nil
	}
	if s.imported(held.units) {
		return request, 0, errImported
	}
	missing, err := s.server.cfg.Coordinator.Missing(ctx, request)
	if err != nil || missing == 0 || request.At == nil || r.trying {
		return request, missing, err
	}
	// Perhaps what has that snapshot is over by now, or is no more than a Parse that a Sync ends: then the statement gets its own.
	if _, err := s.quiesce(ctx); err != nil || s.inTransaction() {
		return request, missing, err
	}
	request.At = nil
	missing, err = s.server.cfg.Coordinator.Missing(ctx, request)
	return request, missing, err
}

// endsBefore reports whether what the units read is behind the end of the transaction, in the same Query.
func (s *session) endsBefore(units []unit) bool {
	return hasUnit(units, func(u *unit) bool { return u.stmt.ends && !u.portal && !u.parseOnly })
}

// explainStage is a plan of what a question reads, for EXPLAIN (BARKEEP).
func explainStage(what need) *planner.Plan {
	return &planner.Plan{
		Requirements: what.requirements, Reasons: what.reasons,
		Warnings: []string{"these bars decide what else is needed: that is known once they are there"},
	}
}
