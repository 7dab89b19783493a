package proxy

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5/pgproto3"

	"barkeep/planner"
)

// upstreamsWord returns the upstream's own error for a text that was refused because we could not parse it, if it does
// not parse there either (PLANNER 4), or for an EXECUTE of what is not there either, else the refusal. The unit is lost in either case, so that it does not matter that a
// Parse takes a snapshot.
func (s *session) upstreamsWord(ctx context.Context, u unit, template *planner.Template, refused error) error {
	name := s.unknownName(template)
	if (template.ParseErr == nil || !u.parsed || u.parseOnly) && name == "" {
		return refused
	}
	if quiet, err := s.quiesce(ctx); err != nil || !quiet || s.blockFailed() {
		return errors.Join(err, refused)
	}
	if name != "" {
		reply, err := s.tentative(ctx, encode(&pgproto3.Describe{ObjectType: 'S', Name: name}))
		switch {
		case err != nil:
			return err
		case reply.err != nil:
			return &refusal{message: reply.err, executing: true}
		}
		return refused // somebody has prepared it out of sight
	}
	err := s.checkParse(ctx, u)
	if word, ok := err.(*refusal); ok { //nolint:errorlint // made by checkParse itself, never wrapped
		// "cannot insert multiple commands into a prepared statement" has the code of a syntax error, and no position.
		var response pgproto3.ErrorResponse
		if response.Decode(word.message[5:]) == nil && (response.Code != pgerrcode.SyntaxError || response.Position != 0) {
			return word
		}
		return refused
	}
	if err != nil {
		return err
	}
	return refused
}

// checkParse has the upstream parse a text under a private name, so that a typo fails before the hold.
func (s *session) checkParse(ctx context.Context, u unit) error {
	return s.check(ctx, slices.Concat(ownParse(u), encode(&pgproto3.Close{ObjectType: 'S', Name: ownName})), true)
}

func ownParse(u unit) []byte {
	return slices.Concat(
		encode(&pgproto3.Close{ObjectType: 'S', Name: ownName}),
		encode(&pgproto3.Parse{Name: ownName, Query: u.stmt.text, ParameterOIDs: u.stmt.oids}))
}

// checkUnit is checkParse with the parameters of a Bind, of which one may be none of its type: a bound that nobody understands is
// open, and the hold would fetch an entire history for what fails.
func (s *session) checkUnit(ctx context.Context, u unit) error {
	if !u.portal || !u.counted {
		if u.parsed {
			return s.checkParse(ctx, u)
		}
		return nil
	}
	bind := pgproto3.Bind{PreparedStatement: u.name, ParameterFormatCodes: u.args.Formats, Parameters: u.args.Values}
	var parse []byte
	if u.parsed {
		parse, bind.PreparedStatement = ownParse(u), ownName
	}
	if u.into != "" { // else it is named in what the error says of parameters, and bound anew by the client
		bind.DestinationPortal = ownName
	}
	return renamed(s.check(ctx, slices.Concat(parse, encode(&bind),
		encode(&pgproto3.Close{ObjectType: 'P', Name: bind.DestinationPortal}),
		encode(&pgproto3.Close{ObjectType: 'S', Name: ownName})), u.parsed), u)
}

// fails has the upstream look at a unit before its hold. It reports whether that fails there for certain, as it is and before anything is
// executed, so that all may go; or it returns the upstream's word on it. A unit that comes behind others, and fails for certain itself, is marked. Nothing is outstanding.
func (s *session) fails(ctx context.Context, u *unit) (bool, error) {
	gone, err := s.vanished(ctx, *u)
	if err != nil {
		return false, err
	}
	if !gone {
		taken, err := s.taken(ctx, *u)
		if err != nil {
			return false, err
		}
		gone = taken
	}
	if !gone {
		miscounted, err := s.miscounted(ctx, *u)
		if err != nil {
			return false, err
		}
		gone = miscounted
	}
	if gone {
		u.doomed = u.behind
		return !u.behind, nil
	}
	u.planned = u.planned || u.portal && !u.parsed
	return false, s.checkUnit(ctx, *u)
}

// miscounted reports whether a Bind has not as many parameters as its statement: their number is that of the statement's text.
func (s *session) miscounted(ctx context.Context, u unit) (bool, error) {
	if !u.portal || !u.counted {
		return false, nil
	}
	s.mu.Lock()
	types := u.stmt.described
	s.mu.Unlock()
	if types == nil {
		var err error
		if types, err = s.askTypes(ctx, u); err != nil {
			return false, err
		}
	}
	return len(types) != len(u.args.Values), nil
}

// known reports whether a statement of that name is known to be upstream.
func (s *session) known(name string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.statements[name]) > 0
}

// vanished reports whether the statement of a Bind, which was on its way when that came, is not upstream after all.
func (s *session) vanished(ctx context.Context, u unit) (bool, error) {
	if !u.alone || s.known(u.name) {
		return false, nil
	}
	if u.name == "" {
		return true, nil
	}
	there, err := s.prepares(ctx, u.name)
	return !there, err
}

// takenSQL finds a prepared statement by its name.
const takenSQL = `select true from pg_catalog.pg_prepared_statements where name operator(pg_catalog.=) $1`

// taken reports whether the unit's Parse fails for certain, since the session has a statement of that name and nothing in the segment
// frees it: then it may go as it is, and nothing behind it is executed. Nothing is outstanding.
func (s *session) taken(ctx context.Context, u unit) (bool, error) {
	frees := func(e entry) bool { return e.kind == kindClose && e.stmt != nil && e.name == u.name }
	if u.name == "" || !s.known(u.name) || !u.portal || !u.parsed || u.behind || slices.ContainsFunc(s.reader.pending, frees) {
		return false, nil
	}
	return s.prepares(ctx, u.name)
}

// prepares asks the upstream whether the session has a prepared statement of that name.
func (s *session) prepares(ctx context.Context, name string) (bool, error) {
	reply, err := s.exchange(ctx, ownMessages(takenSQL, [][]byte{[]byte(name)}, planner.Args{}, 0))
	if err != nil {
		return false, err
	}
	if reply.err != nil {
		return false, fmt.Errorf("ask for a prepared statement: %w", upstreamError(reply.err))
	}
	return len(reply.rows) > 0, nil
}

// renamed returns the upstream's word on a unit that was looked at under the proxy's own names, with the client's.
func renamed(err error, u unit) error {
	word, ok := err.(*refusal) //nolint:errorlint // made by check itself, never wrapped
	if !ok || !bytes.Contains(word.message, []byte(ownName)) {
		return err
	}
	var response pgproto3.ErrorResponse
	if response.Decode(word.message[5:]) != nil {
		return err
	}
	response.Message = strings.ReplaceAll(response.Message, ownName, u.name)
	response.Where = strings.ReplaceAll(response.Where, ownName, u.into)
	word.message = encode(&response)
	return word
}

// check has the upstream look at messages that execute nothing, of which one may be a Parse.
func (s *session) check(ctx context.Context, messages []byte, parses bool) error {
	reply, err := s.tentative(ctx, messages)
	if err != nil {
		return err
	}
	if reply.err != nil && upstreamError(reply.err).Code != pgerrcode.FeatureNotSupported {
		return &refusal{message: reply.err, parsing: parses && reply.parsed == 0}
	}
	return nil
}

// tentative is patient for messages that may fail, and a block must not fail with them: what comes before the statement in its segment is to
// be sent yet.
func (s *session) tentative(ctx context.Context, messages []byte) (*exchange, error) {
	s.mu.Lock()
	q := asking{session: s, block: s.tx == 'T'}
	s.mu.Unlock()
	if !q.block {
		reply, err := s.patient(ctx, messages)
		if reply == nil {
			return nil, err
		}
		if failure := s.tidy(reply); failure != nil {
			return nil, failure
		}
		return reply, err
	}
	// It may write all the same: a Bind begins to execute some statements, and is refused for those in what is read only.
	reply, err := s.patient(ctx, slices.Concat(ownCommand(ownSavepoint), messages, q.end()))
	if reply == nil || reply.err == nil {
		return reply, err
	}
	reply.parsed-- // that of the savepoint
	if _, failure := s.conclude(ctx, q.end()); failure != nil {
		return nil, failure
	}
	return reply, err
}
