package proxy

import (
	"context"
	"slices"

	"github.com/jackc/pgx/v5/pgproto3"

	"barkeep/planner"
)

// Drivers leave the types of parameters to the upstream, which fixes them when it parses: a value is a time or a text by what it
// has inferred, not by what it looks like. Where a plan hangs on a type that neither Parse nor the planner knows, the upstream is
// asked for it, once for a statement.
//
// The types are those of the very statement that is executed, or none are used: one that is upstream is described by its name,
// while nothing is outstanding and the name can stand for nothing else; one that is not is parsed beforehand under a name of the
// proxy's own, if nothing can come between that parse and its own.

// describable reports whether the types of the unit's parameters can be asked for, and have not been.
func (s *session) describable(u unit) bool {
	switch {
	case u.parseOnly, !u.alone && !u.parsed, u.parsed && u.behind:
		return false
	case s.reader.repeatable() && s.inTransaction():
		return false // it might take the block's snapshot
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return u.stmt.described == nil
}

// learnTypes asks for the types of the unit's parameters, or of those of the statement that it EXECUTEs, where the plan hangs on them.
// It reports whether there is more to plan with.
func (s *session) learnTypes(ctx context.Context, u unit, template *planner.Template, plan planner.Plan) (bool, error) {
	if plan.Untyped {
		if st, name := s.executed(u, template); st != nil {
			return s.learnFor(ctx, unit{stmt: st, name: name, alone: true})
		}
	}
	if !plan.Untyped || !s.describable(u) {
		return false, nil
	}
	return s.learnFor(ctx, u)
}

// executed returns the statement that the unit EXECUTEs and its name, nil where that is not certain, where it is not upstream yet, or
// where its types are known.
func (s *session) executed(u unit, template *planner.Template) (*statement, string) {
	names := template.Executes()
	if u.parseOnly || len(names) != 1 || template.Statements != 1 || s.reader.repeatable() && s.inTransaction() {
		return nil, ""
	}
	found, fresh := s.lookup(names[0])
	if fresh || len(found) != 1 {
		return nil, ""
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if found[0].described != nil {
		return nil, ""
	}
	return found[0], names[0]
}

// learnFor asks for the types of the parameters of a unit that can be described.
func (s *session) learnFor(ctx context.Context, u unit) (bool, error) {
	if s.reader.trying {
		return false, errWouldWait
	}
	quiet, err := s.quiesce(ctx)
	switch {
	case err != nil || !quiet:
		return false, err
	case s.blockFailed():
		return false, errPass
	}
	types, err := s.askTypes(ctx, u)
	return types != nil, err
}

// types returns those of the statement's parameters, as far as they are known.
func (s *session) types(st *statement) []uint32 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return st.types()
}

// askTypes asks the upstream for the types of the parameters. An error there is the statement's own. Nothing is outstanding.
func (s *session) askTypes(ctx context.Context, u unit) ([]uint32, error) {
	messages := encode(&pgproto3.Describe{ObjectType: 'S', Name: u.name})
	if !u.alone {
		messages = slices.Concat(
			encode(&pgproto3.Close{ObjectType: 'S', Name: ownName}),
			encode(&pgproto3.Parse{Name: ownName, Query: u.stmt.text, ParameterOIDs: u.stmt.oids}),
			encode(&pgproto3.Describe{ObjectType: 'S', Name: ownName}),
			encode(&pgproto3.Close{ObjectType: 'S', Name: ownName}))
	}
	reply, err := s.tentative(ctx, messages)
	switch {
	case err != nil:
		return nil, err
	case reply.err != nil:
		return nil, &refusal{message: reply.err, parsing: !u.alone && reply.parsed == 0}
	}
	if u.alone || u.parsed && !u.behind {
		s.mu.Lock()
		u.stmt.described = reply.parameters
		s.mu.Unlock()
	}
	return reply.parameters, nil
}
