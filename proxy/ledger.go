package proxy

import (
	"slices"
	"sync/atomic"
	"time"

	"barkeep/planner"
)

// statement is what is known of a prepared statement.
type statement struct {
	text string
	oids []uint32
	name string // that it was given by Parse
	// templates are the text's, for all who have it; nil for one that is not kept.
	templates *lastTemplate
	scan      // reader's alone, as what follows
	// ran is how many executions came before it was parsed; meant is the relation that its ohlcv was proven to be, see another.
	ran   int
	meant string
	// planned says that the upstream may have planned it, so that it has a plan of it.
	planned bool

	// Under the session's mu: registered says that the upstream has it, since is the number of the settings it was parsed in,
	// unsettled that they may have been others, which nobody knows.
	registered, unsettled bool
	since                 int
	encoding              string
	nonStandard           bool
	// described are the types of its parameters as the upstream has inferred them; nil until it was asked.
	described []uint32
}

// called returns the name as a string, without a copy where it is the statement's own.
func (st *statement) called(name []byte) string {
	if st.name == string(name) {
		return st.name
	}
	return string(name)
}

// types returns the types of the statement's parameters, as far as they are known. The caller holds mu.
func (st *statement) types() []uint32 {
	if st.described != nil {
		return st.described
	}
	return st.oids
}

// template returns the statement's template in env. Its text is in the encoding, and its strings in the form, of when it came.
func (s *session) template(st *statement, env *planner.Env) *planner.Template {
	key := templateKey{version: versionOf(env.Catalog), path: env.SearchPath, encoding: env.ClientEncoding, nonStandard: env.NonStandardStrings}
	s.mu.Lock()
	if st.registered {
		key.encoding, key.nonStandard = st.encoding, st.nonStandard
	}
	oids := st.types()
	s.mu.Unlock()
	if kept := st.templates.of(&key, oids); kept != nil {
		return kept
	}
	own := *env
	own.ClientEncoding, own.NonStandardStrings = key.encoding, key.nonStandard
	template := s.server.cache.Prepare(st.text, oids, own)
	st.templates.keep(key, oids, template)
	return template
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
	// clears says that its ReadyForQuery ends a failure by proxy.
	clears bool
	// bound says that something came before it in its segment.
	bound bool
	// loose says that renames may be executed another time or not at all.
	loose bool
	// listens says that it may change what the session listens to.
	listens bool
	// defines says that it may define something, see definer.
	defines bool
	// before says that a Query comes next, in an open segment: where the segment has failed by here, that is skipped.
	before bool
	// ignored says of a Sync that the COPY which is under way ignores it, unless that fails before.
	ignored bool
	// run is how many executions came before a Sync, rows how many CopyData since the last of them.
	run, rows int
	name      string
	stmt      *statement
	own       *exchange
	// renames is what it does to prepared statements by SQL.
	renames []rename
	// ran are the portals that it executes.
	ran []*executor
	// instead is what the client gets in place of its CloseComplete.
	instead *shown
	// there is closed by its answer.
	there chan struct{}
}

// endsReady reports whether ReadyForQuery answers it.
func (e entry) endsReady() bool {
	return e.kind != kindParse && e.kind != kindClose && e.kind != kindCopyEnd && e.kind != kindRename
}

// exchange is messages of the proxy's own, up to a Sync, with the replies to them.
type exchange struct {
	rows [][]byte // the first column of each row, or nil
	err  []byte   // the ErrorResponse
	// bare says that it is a Sync and nothing else: what is answered before its ReadyForQuery is the client's, who may be in the middle
	// of a segment. hushed says that its notices are not for the client.
	bare, hushed bool
	// oid is the type of the first column, parameters are those of a statement that was described.
	oid        uint32
	parameters []uint32
	// parsed counts the ParseCompletes.
	parsed int
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
	entries  []entry
	first    int
	waiting  int       // entries that ReadyForQuery answers
	readies  uint64    // those that it has answered
	idleAt   uint64    // how many those were when it last said that no transaction is open
	owned    int       // entries of kindOwn
	replaced int       // entries with instead
	changed  time.Time // when waiting left zero or came to it
	at       time.Time // when what is looked at came; zero where that is now
	tx       byte
	copying  bool // a COPY FROM STDIN is under way, and the client has not ended it
	unended  bool // a Sync that such a COPY ignored was to end the segment, and none has since
	dropping bool // that segment has failed by its COPY: a Query is dropped as well, which seemed to come behind it
	simple   bool // the last COPY FROM STDIN was begun by a Query
	// erred says that an error came, and no ReadyForQuery since: the upstream drops what comes before a Sync.
	erred       bool
	announced   bool // by a FATAL or Terminate: the connection's end
	fatal       bool // the upstream has sent one: it is the last that the client gets
	unheard     bool // what the session listens to may have changed since the upstream was asked
	queried     bool // a Query came in an open segment: answers may belong to other entries than it seems
	definitions bool // some are on their way, and answered once readies is definedAt
	definedAt   uint64
	ignored     int           // entries that are
	paramsSeen  atomic.Uint64 // changed under the session's mu, with params
	had         locales       // localesSeen is the paramsSeen they are of
	localesSeen uint64
	calm        chan struct{} // closed when waiting gets 0
	stirred     chan struct{} // closed by an error, and by a ReadyForQuery
	statements  map[string]candidates
	// failures are those by the proxy, in order: an ErrorResponse that mentions failMark is replaced by the first, until
	// the Sync that ends its segment is answered.
	failures [][]byte
	params   map[string]string
}

// now returns when what is looked at came.
func (l *ledger) now() time.Time {
	if l.at.IsZero() {
		return time.Now()
	}
	return l.at
}

func (l *ledger) push(list ...entry) {
	for i := range list {
		e := &list[i]
		if e.kind == kindCopyEnd && l.copyEnded(*e) {
			l.push(list[i+1:]...)
			return
		}
		if e.kind == kindOwn {
			l.dropCopyEnds(len(l.entries)) // of a COPY that came to nothing
		}
		l.entries = append(l.entries, *e)
		l.unheard = l.unheard || e.listens
		if e.endsReady() {
			l.waiting++
			if l.waiting == 1 {
				l.changed = l.now()
			}
		}
		if e.kind == kindOwn {
			l.owned++
		}
		if e.instead != nil {
			l.replaced++
		}
		if e.defines {
			l.define(*e)
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
	l.ignore(len(l.entries))
	return true
}

// passBy deals with what has no answer of its own and was sent before what is answered now: ends of a COPY that came to
// nothing, and executions that changed prepared statements.
func (l *ledger) passBy() {
	for e := l.head(); e != nil && (e.kind == kindCopyEnd || e.kind == kindRename); e = l.head() {
		l.passed(l.pop(), true)
	}
}

// passed deals with one of these; certain says that it was reached and has not failed.
func (l *ledger) passed(e entry, certain bool) {
	l.rename(e.renames, certain && !e.loose)
	if certain && !l.queried {
		for _, each := range e.ran {
			each.ran.Store(true)
		}
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
	l.emptied()
	if e.kind == kindOwn {
		l.owned--
	}
	if e.instead != nil {
		l.replaced--
	}
	if e.endsReady() {
		l.waiting--
		l.readies++
		l.calmed()
	}
	return e
}

// emptied begins anew where nothing is left.
func (l *ledger) emptied() {
	if l.first == len(l.entries) {
		l.entries, l.first = l.entries[:0], 0
	}
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
	if done.there != nil {
		close(done.there)
	}
	return done.instead
}

// ready settles everything up to the oldest entry that ReadyForQuery answers, and returns that.
func (l *ledger) ready(tx byte) entry {
	erred := l.erred
	l.tx, l.copying, l.erred, l.unended, l.dropping = tx, false, false, false, false
	l.copyOver()
	l.stir()
	for l.head() != nil {
		e := l.pop()
		l.passed(e, !erred && !l.queried)
		if e.endsReady() {
			if tx == 'I' {
				l.idleAt = l.readies
			}
			if e.kind == kindQuery && len(l.statements) > 0 {
				delete(l.statements, "") // it destroys the unnamed statement, whatever comes of it
			}
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
	l.copyOver()
	for e := l.head(); e != nil && (e.kind == kindRename || e.kind == kindCopyEnd && !e.bound); e = l.head() {
		l.passed(l.pop(), false) // sent before what began the COPY
	}
	e := l.head()
	l.simple = e != nil && e.kind == kindQuery
	l.recheck() // who waits for the answer to a Sync may wait in vain
	for i, e := range l.entries[l.first:] {
		if e.kind == kindCopyEnd {
			l.ignore(l.first + i)
			l.dropCopyEnds(1)
			return
		}
	}
	l.copying = true
}

// ignore takes the Syncs before end for those that the COPY that is under way ignores.
func (l *ledger) ignore(end int) {
	for i := range l.entries[l.first:end] {
		if e := &l.entries[l.first+i]; e.kind == kindSync {
			l.setIgnored(e, true)
		}
	}
	l.unended = l.unended || l.ignored > 0 && !l.simple
	l.calmed()
}

// setIgnored takes a Sync for ignored, or takes that back.
func (l *ledger) setIgnored(e *entry, ignored bool) {
	switch {
	case e.ignored == ignored:
	case ignored:
		l.ignored++
		l.waiting--
		l.readies++
	default:
		l.ignored--
		l.waiting++
		l.readies--
	}
	e.ignored = ignored
}

// copyOver notes that a COPY has come to its end: what it was to ignore is gone.
func (l *ledger) copyOver() {
	if l.ignored == 0 {
		return
	}
	l.entries = slices.DeleteFunc(l.entries, func(e entry) bool { return e.ignored })
	l.ignored = 0
	l.emptied()
	l.calmed()
}

// copyFailed notes that the COPY that is under way has failed. The Syncs before what it has read last are ignored, and no other.
func (l *ledger) copyFailed(at copyFailure) {
	behind := l.entries[l.first:]
	if l.simple && len(behind) > 0 {
		behind = behind[1:] // its Query
	}
	lost := 0
	for lost < len(behind) {
		e := &behind[lost]
		if e.kind != kindSync || !l.copying && !e.ignored || e.run != behind[0].run || !at.behind(e.rows) {
			break
		}
		l.setIgnored(e, true)
		lost++
	}
	for i := range behind[lost:] {
		l.setIgnored(&behind[lost+i], false)
	}
	l.dropping = lost > 0 && !l.simple
	l.unended = l.unended || l.dropping
}

// dropCopyEnds removes at most so many ends of a COPY.
func (l *ledger) dropCopyEnds(most int) {
	l.drop(func(e entry) bool { return e.kind == kindCopyEnd }, len(l.entries), most)
}

// drop removes at most so many entries of those before end that are so.
func (l *ledger) drop(is func(entry) bool, end, most int) {
	kept := make([]entry, 0, len(l.entries)-l.first)
	for i, e := range l.entries[l.first:] {
		if !is(e) || l.first+i >= end || most == 0 {
			kept = append(kept, e)
			continue
		}
		most--
		if e.endsReady() {
			l.waiting--
			l.readies++
		}
	}
	l.entries, l.first = kept, 0
	l.calmed()
}

// calmed tells who waits for it that nothing is outstanding, if so.
func (l *ledger) calmed() {
	if l.waiting > 0 {
		return
	}
	l.changed = l.now()
	l.recheck()
}

// recheck has who waits for that look again.
func (l *ledger) recheck() {
	if l.calm != nil {
		close(l.calm)
		l.calm = nil
	}
}

// failed notes an ErrorResponse, and how far the COPY had come that is under way.
func (l *ledger) failed(at copyFailure) {
	l.erred = true
	l.stir()
	if l.copying || l.ignored > 0 {
		l.copyFailed(at)
	}
	l.copying = false
	l.copyOver()
	l.skip()
}

func (l *ledger) stir() {
	if l.stirred != nil {
		close(l.stirred)
		l.stirred = nil
	}
}

// skip forgets what the upstream drops of a segment that has failed, up to its Sync: a Query in it has no answer.
func (l *ledger) skip() {
	open, end := l.dropping, len(l.entries)
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
		l.drop(entry.skipped, end, len(l.entries))
	}
}

// skipped reports whether it is something with a ReadyForQuery of its own that is dropped with a segment that has failed.
func (e entry) skipped() bool { return e.kind == kindQuery || e.kind == kindCall }
