package proxy

import (
	"barkeep/planner"
)

// statement is what is known of a prepared statement.
type statement struct {
	text  string
	oids  []uint32
	scan       // reader's alone
	stale bool // may be deallocated
	also  *statement
}

// template returns the statement's template in env.
func (st *statement) template(cache *planner.Cache, env planner.Env) *planner.Template {
	return cache.Prepare(st.text, st.oids, env)
}

// The kinds of entries. Those of the first line are answered by ReadyForQuery.
const (
	kindQuery, kindSync, kindCall, kindOwn = 'Q', 'S', 'F', 'x'
	kindParse, kindClose                   = 'P', 'C'
)

// entry is one thing sent upstream whose answer matters.
type entry struct {
	kind byte
	name string
	stmt *statement
	own  *exchange
	// clears says that its ReadyForQuery ends a failure by proxy.
	clears bool
	// instead is what the client gets in place of its CloseComplete.
	instead *shown
}

// endsReady reports whether ReadyForQuery answers it.
func (e entry) endsReady() bool { return e.kind != kindParse && e.kind != kindClose }

// exchange is messages of the proxy's own, up to a Sync, with the replies to them.
type exchange struct {
	rows [][]byte // the first column of each row, or nil
	err  []byte   // the ErrorResponse
	done chan struct{}
}

// ledger is what was sent upstream and not answered yet, in order, and what the answers said of the session.
type ledger struct {
	entries    []entry
	first      int
	waiting    int // entries that ReadyForQuery answers
	owned      int // entries of kindOwn
	replaced   int // entries with instead
	tx         byte
	copying    bool // an extended COPY FROM STDIN is under way
	announced  bool // by a FATAL or Terminate: the connection's end
	params     map[string]string
	paramsSeen uint64
	statements map[string]*statement
	calm       chan struct{} // closed when waiting gets 0
	// A failure by proxy: the ErrorResponse that mentions mark is replaced.
	mark, replacement []byte
}

func (l *ledger) push(list ...entry) {
	for _, e := range list {
		if e.endsReady() {
			l.waiting++
		}
		if e.kind == kindOwn {
			l.owned++
		}
		if e.instead != nil {
			l.replaced++
		}
	}
	l.entries = append(l.entries, list...)
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
	if e := l.head(); e != nil && e.kind == kindParse {
		done := l.pop()
		l.statements[done.name] = done.stmt
	}
}

// closed deals with a CloseComplete and returns what the client gets in place of it, or nil.
func (l *ledger) closed() *shown {
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
	l.tx = tx
	for l.head() != nil {
		if e := l.pop(); e.endsReady() {
			if e.clears {
				l.mark, l.replacement = nil, nil
			}
			return e
		}
	}
	return entry{}
}

// copyStarted notes a CopyInResponse.
func (l *ledger) copyStarted() {
	e := l.head()
	l.copying = e == nil || (e.kind != kindQuery && e.kind != kindOwn)
}

// copyEnded notes that the client ended its COPY: the upstream ignores each Sync that came before.
func (l *ledger) copyEnded() {
	if !l.copying {
		return
	}
	l.copying = false
	l.dropSyncs(false)
}

// dropSyncs removes the waiting Syncs, or the first of them.
func (l *ledger) dropSyncs(one bool) {
	kept := make([]entry, 0, len(l.entries)-l.first)
	dropped := 0
	for _, e := range l.entries[l.first:] {
		if e.kind == kindSync && (!one || dropped == 0) {
			dropped++
			continue
		}
		kept = append(kept, e)
	}
	l.entries, l.first = kept, 0
	l.waiting -= dropped
	if dropped > 0 && l.waiting == 0 && l.calm != nil {
		close(l.calm)
		l.calm = nil
	}
}

// failed notes an ErrorResponse.
func (l *ledger) failed() {
	if l.copying {
		l.copying = false
		l.dropSyncs(true)
	}
}

// add registers a statement by SQL PREPARE: whether that succeeds is not known, so an older one of the name stays a
// candidate unless it was deallocated.
func (l *ledger) add(name string, st *statement) {
	old := l.statements[name]
	if old != nil && !old.stale && old.text != st.text {
		st.also = old
	}
	l.statements[name] = st
}

// age marks every statement as one that may have been deallocated.
func (l *ledger) age() {
	for _, st := range l.statements {
		st.stale = true
	}
}
