package proxy

import (
	"barkeep/planner"
)

// statement is what is known of a prepared statement.
type statement struct {
	text string
	oids []uint32
	scan // reader's alone

	// Under the session's mu: registered says that the upstream has it, since is the number of the settings it was parsed in,
	// unsettled that they may have been others, which nobody knows.
	registered, unsettled bool
	since                 int
	encoding              string
	nonStandard           bool
	// described are the types of its parameters as the upstream has inferred them; nil until it was asked.
	described []uint32
}

// types returns the types of the statement's parameters, as far as they are known. The caller holds mu.
func (st *statement) types() []uint32 {
	if st.described != nil {
		return st.described
	}
	return st.oids
}

// template returns the statement's template in env. Its text is in the encoding, and its strings in the form, of when it came.
func (s *session) template(st *statement, env planner.Env) *planner.Template {
	s.mu.Lock()
	if st.registered {
		env.ClientEncoding, env.NonStandardStrings = st.encoding, st.nonStandard
	}
	oids := st.types()
	s.mu.Unlock()
	return s.server.cache.Prepare(st.text, oids, env)
}

// The kinds of entries. Those of the first line are answered by ReadyForQuery.
const (
	kindQuery, kindSync, kindCall, kindOwn = 'Q', 'S', 'F', 'x'
	kindParse, kindClose, kindCopyEnd      = 'P', 'C', 'c'
	kindRename                             = 'r'
)

// entry is one thing sent upstream whose answer matters.
type entry struct {
	kind byte
	name string
	stmt *statement
	own  *exchange
	// clears says that its ReadyForQuery ends a failure by proxy.
	clears bool
	// bound says that a Bind came before it in its segment.
	bound bool
	// renames is what it does to prepared statements by SQL.
	renames []rename
	// loose says that this may be executed another time or not at all.
	loose bool
	// instead is what the client gets in place of its CloseComplete.
	instead *shown
	// before says that a Query comes next, in an open segment: where the segment has failed by here, that is skipped.
	before bool
}

// endsReady reports whether ReadyForQuery answers it.
func (e entry) endsReady() bool {
	return e.kind != kindParse && e.kind != kindClose && e.kind != kindCopyEnd && e.kind != kindRename
}

// exchange is messages of the proxy's own, up to a Sync, with the replies to them.
type exchange struct {
	rows [][]byte // the first column of each row, or nil
	err  []byte   // the ErrorResponse
	// hushed says that its notices are not for the client.
	hushed bool
	// oid is the type of the first column, parameters are those of a statement that was described.
	oid        uint32
	parameters []uint32
	// size is that of the rows; overflow says that it was too much, and they are not all here. ambiguous says that a second
	// column was not true.
	size                int
	overflow, ambiguous bool
	done                chan struct{}
	// behind says that the client's segment before it had failed: its Sync has ended that.
	behind bool
}

// ledger is what was sent upstream and not answered yet, in order, and what the answers said of the session.
type ledger struct {
	entries     []entry
	first       int
	waiting     int // entries that ReadyForQuery answers
	owned       int // entries of kindOwn
	replaced    int // entries with instead
	tx          byte
	copying     bool // a COPY FROM STDIN is under way, and the client has not ended it
	announced   bool // by a FATAL or Terminate: the connection's end
	params      map[string]string
	paramsSeen  uint64
	had         locales // localesSeen is the paramsSeen they are of
	localesSeen uint64
	statements  map[string]candidates
	queried     bool          // a Query came in an open segment: answers may belong to other entries than it seems
	calm        chan struct{} // closed when waiting gets 0
	// erred says that an error came, and no ReadyForQuery since: the upstream drops what comes before a Sync.
	erred bool
	// failures are those by the proxy, in order: an ErrorResponse that mentions failMark is replaced by the first, until
	// the Sync that ends its segment is answered.
	failures [][]byte
}

func (l *ledger) push(list ...entry) {
	for i, e := range list {
		if e.kind == kindCopyEnd && l.copyEnded(e) {
			l.push(list[i+1:]...)
			return
		}
		if e.kind == kindOwn {
			l.drop(kindCopyEnd, len(l.entries), len(l.entries)) // of a COPY that came to nothing
		}
		l.entries = append(l.entries, e)
		if e.endsReady() {
			l.waiting++
		}
		if e.kind == kindOwn {
			l.owned++
		}
		if e.instead != nil {
			l.replaced++
		}
		if l.erred && e.endsReady() {
			l.skip()
		}
	}
}

// copyEnded deals with the end of a COPY FROM STDIN, and reports whether it need not be remembered.
func (l *ledger) copyEnded(e entry) bool {
	if !l.copying {
		return !e.bound && l.first == len(l.entries) // ignored where no COPY can be on its way
	}
	l.copying = false
	l.drop(kindSync, len(l.entries), len(l.entries))
	return true
}

// passBy deals with what has no answer of its own and was sent before what is answered now: ends of a COPY that came to
// nothing, and executions that changed prepared statements.
func (l *ledger) passBy() {
	for e := l.head(); e != nil && (e.kind == kindCopyEnd || e.kind == kindRename); e = l.head() {
		l.rename(l.pop().renames, !e.loose)
	}
}

func (l *ledger) head() *entry {
	if l.first == len(l.entries) {
		return nil
	}
	return &l.entries[l.first]
}

func (l *ledger) pop() entry {
	e := l.entries[l.first]
	l.entries[l.first] = entry{}
	l.first++
	if l.first == len(l.entries) {
		l.entries, l.first = l.entries[:0], 0
	}
	if e.kind == kindOwn {
		l.owned--
	}
	if e.instead != nil {
		l.replaced--
	}
	if e.endsReady() {
		l.waiting--
		if l.waiting == 0 && l.calm != nil {
			close(l.calm)
			l.calm = nil
		}
	}
	return e
}

// parsed registers the oldest statement that waits for its ParseComplete.
func (l *ledger) parsed() {
	l.passBy()
	if e := l.head(); e != nil && e.kind == kindParse {
		done := l.pop()
		l.statements[done.name] = candidates{l.register(done.stmt)}
	}
}

// closed deals with a CloseComplete and returns what the client gets in place of it, or nil.
func (l *ledger) closed() *shown {
	l.passBy()
	e := l.head()
	if e == nil || e.kind != kindClose {
		return nil
	}
	done := l.pop()
	if done.stmt != nil {
		delete(l.statements, done.name)
	}
	return done.instead
}

// ready settles everything up to the oldest entry that ReadyForQuery answers, and returns that.
func (l *ledger) ready(tx byte) entry {
	erred := l.erred
	l.tx, l.copying, l.erred = tx, false, false
	for l.head() != nil {
		e := l.pop()
		l.rename(e.renames, !erred && !l.queried && !e.loose)
		if e.endsReady() {
			if e.kind == kindOwn {
				e.own.behind = erred
			}
			if e.clears {
				l.failures = l.failures[1:]
			}
			l.noteLocale()
			return e
		}
	}
	return entry{}
}

// copyStarted notes a CopyInResponse. From here to CopyDone or CopyFail, which may have been sent already, the upstream
// ignores each Sync.
func (l *ledger) copyStarted() {
	if e := l.head(); e != nil && e.kind == kindOwn {
		return
	}
	for i, e := range l.entries[l.first:] {
		if e.kind == kindCopyEnd {
			l.drop(kindSync, l.first+i, len(l.entries))
			l.drop(kindCopyEnd, len(l.entries), 1)
			return
		}
	}
	l.copying = true
}

// drop removes at most so many entries of the kind, of those before end.
func (l *ledger) drop(kind byte, end, most int) {
	l.dropEach(func(e entry) bool { return e.kind == kind }, end, most)
}

func (l *ledger) dropEach(is func(entry) bool, end, most int) {
	kept := make([]entry, 0, len(l.entries)-l.first)
	for i, e := range l.entries[l.first:] {
		if !is(e) || l.first+i >= end || most == 0 {
			kept = append(kept, e)
			continue
		}
		most--
		if e.endsReady() {
			l.waiting--
		}
	}
	l.entries, l.first = kept, 0
	if l.waiting == 0 && l.calm != nil {
		close(l.calm)
		l.calm = nil
	}
}

// failed notes an ErrorResponse. The Sync that was sent before the data of a COPY has been ignored by then.
func (l *ledger) failed() {
	l.erred = true
	if l.copying {
		l.copying = false
		l.drop(kindSync, len(l.entries), 1)
	}
	l.skip()
}

// skip forgets what the upstream drops of a segment that has failed, up to its Sync: a Query in it has no answer.
func (l *ledger) skip() {
	open, end := false, len(l.entries)
	for i, e := range l.entries[l.first:] {
		open = open || e.before
		if e.endsReady() && !e.skipped() {
			end = l.first + i
			break
		}
		if e.skipped() && !open {
			return
		}
	}
	if open {
		l.dropEach(entry.skipped, end, len(l.entries))
	}
}

// skipped reports whether it is something with a ReadyForQuery of its own that is dropped with a segment that has failed.
func (e entry) skipped() bool { return e.kind == kindQuery || e.kind == kindCall }
