package proxy

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgerrcode"

	"barkeep/planner"
)

// PostgreSQL looks a function up each time it is called, not when the portal is bound, or the cursor declared, that calls it. One that its block
// has made over since, so that it reads ohlcv now, is run by the next Execute, FETCH or MOVE, and by the COMMIT that keeps a cursor WITH HOLD. The
// portal was planned without it.
//
// What holds: once a block may have defined something that reads ohlcv, a portal from before is executed only where its text uses nothing that
// reads ohlcv by the block's own definitions alone. The text of one that was bound in an earlier segment is asked of the upstream, which has it; a
// block that defines nothing of the kind is asked nothing, and nothing is noted of its portals but in the segment that binds them.
//
// Which of a block's portals a Bind has made is not kept longer, since it may fail or not be reached, and behind ROLLBACK TO SAVEPOINT a portal is
// what it was.
//
// What is not covered: a definition that another session commits between the Bind and the Execute, a FETCH out of sight, by a function, and a
// cursor WITH HOLD that is declared out of sight in the pipeline or Query in which its transaction ends.

// errOvertaken refuses a portal that runs what was defined behind its Bind.
var errOvertaken = &Error{
	Code:     pgerrcode.FeatureNotSupported,
	Message:  "what the portal or cursor calls may read ohlcv by a definition that its own transaction has made since it was bound or declared",
	HintText: "Bind or declare it behind the definition, or make the definition in a transaction of its own, or set barkeep.mode to stored.",
}

// boundHere is a named portal that was bound in the open segment, or a cursor that was declared there: its name is empty.
type boundHere struct {
	name  string
	found candidates
}

// overtaking is an execution of what may have been bound before a definition.
type overtaking struct {
	// executes says that it is an Execute, of portal; texts are what is executed, nil where the upstream has to say that.
	executes bool
	portal   string
	texts    []string
	// here are the portals that were bound in the same segment before the definition.
	here []openPortal
	// unsure says that something may have been defined out of sight, so that only what is settled passes.
	unsure bool
	// ends says that it is the end of a segment, which keeps cursors outside of blocks only; perhaps that nothing is known of a cursor but
	// what the upstream says.
	ends, perhaps bool
}

// openPortal is a portal or cursor with its text. Where the name is empty it may have any.
type openPortal struct {
	Name, Text string
	Hold       bool
}

// openSQL lists the portals and cursors of the transaction. One WITH HOLD of a transaction before has its rows already.
const openSQL = `select convert_to(json_build_object('Name', name, 'Text', statement, 'Hold', is_holdable)::text, 'UTF8') from pg_cursors
 where creation_time >= now() and name <> '` + ownName + `'`

// overtake notes that something may be defined that portals call which are bound by now.
func (r *reader) overtake() {
	r.inside.defined = r.segments + 1
	r.bound = len(r.boundHere)
	r.unnamed.overtaken = true
}

// keepBound notes a Bind.
func (r *reader) keepBound(portal string, found candidates) {
	if portal != "" {
		r.boundHere = append(r.boundHere, boundHere{portal, found})
	}
	for _, st := range found {
		if st.opening {
			r.boundHere = append(r.boundHere, boundHere{"", found})
			return
		}
	}
}

// overtakenHere returns the portals of the open segment that were bound before a definition in it.
func (s *session) overtakenHere() (list []openPortal) {
	r := &s.reader
	for _, each := range r.boundHere[:r.bound] {
		for _, st := range each.found {
			list = append(list, openPortal{Name: each.name, Text: s.decoded(st), Hold: each.name == "" && st.holding})
		}
	}
	return list
}

// executesOvertaken gates an Execute of a portal that was bound before a definition of its block.
func (s *session) executesOvertaken(portal string) {
	r := &s.reader
	if r.inside.defined == 0 {
		return
	}
	o := &overtaking{executes: true, portal: portal, here: s.overtakenHere(), unsure: r.inside.unsure}
	is := func(each boundHere) bool { return each.name == portal }
	switch {
	case portal == "" && r.used && r.unnamed.segment == r.segments:
		if !r.unnamed.overtaken {
			return
		}
		o.texts = s.texts(r.unnamed.found)
	case portal == "":
	case slices.ContainsFunc(r.boundHere[r.bound:], is):
		return
	default:
		if i := slices.IndexFunc(r.boundHere[:r.bound], is); i >= 0 {
			o.texts = s.texts(r.boundHere[i].found)
		}
	}
	s.goesOn([]unit{{stmt: closedStatement, revived: r.revives, plainly: r.plainly, overtaken: o}})
}

func (s *session) texts(found candidates) []string {
	list := []string{}
	for _, st := range found {
		list = append(list, s.decoded(st))
	}
	return list
}

// decoded returns a statement's text in UTF-8. One that cannot be read was planned as what may read anything.
func (s *session) decoded(st *statement) string {
	text, readable := planner.Decode(st.text, s.reported().ClientEncoding)
	if !readable {
		return st.text
	}
	return text
}

// overtakes returns the unit of a text by which a portal may be executed that was bound before a definition of its block, or of the text itself.
func (s *session) overtakes(st *statement) []unit {
	r := &s.reader
	conceals := st.conceals && strings.Contains(strings.TrimRight(st.text, "; \t\r\n"), ";")
	if r.inside.defined == 0 && !conceals {
		return nil
	}
	unsure := r.inside.unsure || conceals
	goes := st.fetches || st.holding
	if !goes && (!r.inside.holds && (!r.inside.mayHold || unsure) || !s.keeps(st)) {
		return nil
	}
	o := &overtaking{texts: []string{s.decoded(st)}, here: s.overtakenHere(), unsure: unsure, perhaps: !goes && !r.inside.holds}
	if st.opening && (conceals || r.inside.defined == r.segments+1) {
		o.here = append(o.here, openPortal{Text: s.decoded(st), Hold: st.holding})
	}
	u := unit{stmt: closedStatement, revived: st.revived, plainly: st.plainly, overtaken: o} // not st: it ends the block for its own unit only
	if r.revives && r.inSegment {
		u.revived, u.plainly = true, false
	}
	return []unit{u}
}

// keeps reports whether a text may end its block and keep the block's cursors WITH HOLD. The body of a function that it makes has an END, too.
func (s *session) keeps(st *statement) bool {
	if !st.effects || !hasWord(st.text, "commit", "end") {
		return false
	}
	if !st.reads || !st.defines {
		return true
	}
	template := s.server.cache.Prepare(st.text, st.oids, s.env())
	return template.Statements != 1 || len(template.Creates()) == 0
}

// keptBehind returns the unit of the end of a segment that is a transaction of its own, in which a cursor WITH HOLD was declared before a definition.
func (s *session) keptBehind() []unit {
	r := &s.reader
	if r.bound == 0 {
		return nil
	}
	here := s.overtakenHere()
	if !slices.ContainsFunc(here, func(p openPortal) bool { return p.Hold }) {
		return nil
	}
	return []unit{{stmt: closedStatement, overtaken: &overtaking{ends: true, texts: []string{"commit"}, here: here, unsure: r.inside.unsure}}}
}

// notOvertaken fails where one of the units executes a portal that calls what was defined since it was bound.
func (s *session) notOvertaken(ctx context.Context, units []unit) error {
	if s.reader.settings.lenient() || !hasUnit(units, func(u *unit) bool { return u.overtaken != nil }) {
		return nil
	}
	gained := s.gained()
	if len(gained) == 0 && !hasUnit(units, func(u *unit) bool { return u.overtaken != nil && u.overtaken.unsure }) {
		return nil
	}
	open, known, err := s.openPortals(ctx)
	if err != nil || s.blockFailed() {
		return err
	}
	inBlock := known && s.inTransaction()
	for i := range units {
		o := units[i].overtaken
		if o == nil || o.ends && inBlock {
			continue
		}
		if !known && !o.perhaps || known && s.isOvertaken(o, open, gained) {
			return errOvertaken
		}
	}
	return nil
}

// gained are the names by which ohlcv is read through the block's own definitions alone.
func (s *session) gained() map[string]struct{} {
	known, base := s.catalog(), s.server.cfg.Catalog.Current()
	if known == base {
		return nil
	}
	return known.Beyond(base)
}

// openPortals asks the upstream which portals its transaction has, before what is held. It reports false where nobody can be asked.
func (s *session) openPortals(ctx context.Context) (open []openPortal, known bool, err error) {
	if quiet, err := s.quiesce(ctx); err != nil || !quiet {
		return nil, false, err
	}
	s.mu.Lock()
	tx, unended := s.tx, s.unended
	s.mu.Unlock()
	if tx != 'T' && unended { // a COPY has ignored the Sync: there may be some, of the same segment
		return nil, false, nil
	}
	if tx != 'T' { // none, or none that can be executed
		return nil, true, nil
	}
	rows, err := s.askOwn(ctx, openSQL)
	if err != nil {
		return nil, false, err
	}
	for _, row := range rows {
		var each openPortal
		if err := json.Unmarshal(row, &each); err != nil {
			return nil, false, fmt.Errorf("read the portals of the transaction: %w", err)
		}
		open = append(open, each)
	}
	return open, true, nil
}

// isOvertaken reports whether what is executed calls something of the gained names, itself or by a portal that it executes.
func (s *session) isOvertaken(o *overtaking, open []openPortal, gained map[string]struct{}) bool {
	texts := o.texts
	if texts == nil {
		for _, each := range open {
			if each.Name == o.portal {
				texts = append(texts, each.Text)
			}
		}
	}
	env := s.env()
	env.ClientEncoding = ""
	calls := func(text string) bool {
		return planner.NamesOne(text, gained) && s.server.cache.Prepare(text, nil, env).Reads() || o.unsure && !s.server.cache.Settled(text, env)
	}
	all := slices.Concat(open, o.here)
	indirect := slices.ContainsFunc(all, func(p openPortal) bool { return p.Name != o.portal && fetches(p.Text) })
	for _, text := range texts {
		if o.executes && calls(text) {
			return true
		}
		keeps, fetches := hasWord(text, "commit", "end", "hold"), fetches(text)
		for _, p := range all {
			if (keeps && p.Hold || fetches && (indirect || mayFetch(text, p.Name))) && calls(p.Text) {
				return true
			}
		}
	}
	return false
}

// mayFetch reports whether a text may FETCH from the portal of that name. That of a FETCH alone has the name in it.
func mayFetch(text, name string) bool {
	lower := strings.ToLower(uncommented(text))
	alone := (strings.HasPrefix(lower, "fetch") || strings.HasPrefix(lower, "move")) && planner.ASCII(text) && !strings.Contains(strings.TrimRight(lower, "; \t\r\n"), ";") &&
		!strings.Contains(lower, `""`) && !strings.Contains(lower, `u&"`)
	return !alone || strings.Contains(lower, strings.ToLower(name))
}
