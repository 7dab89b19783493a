package proxy

import (
	"slices"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgproto3"
	"github.com/stretchr/testify/require"

	"barkeep/internal/catalog"
	"barkeep/planner"
)

// idleSession is a session in memory to which "i" is prepared, which concerns the upstream alone, and the client has sent something.
func idleSession(t *testing.T, messages ...pgproto3.Message) *session {
	t.Helper()
	s, _, _ := memorySession(t)
	for name, text := range map[string]string{"i": "select $1", "read": read, "begin": "begin", "old": "select 1", "late": "explain select 1"} {
		st := s.classify([]byte(text), nil)
		st.name = name
		s.statements[name] = candidates{s.register(st)}
	}
	s.statements["old"][0].version = 7
	s.statements["two"] = slices.Concat(s.statements["i"], s.statements["read"])
	r := &s.reader
	r.room(nil)
	for _, each := range messages {
		r.end += copy(r.buf[r.end:], encode(each))
	}
	return s
}

// lookedAt is all of a session that a look at messages changes.
type lookedAt struct {
	reader     reader
	entries    []entry
	statements map[string]candidates
}

func (s *session) lookedAt() lookedAt {
	out := lookedAt{s.reader, slices.Clone(s.entries), s.statements}
	out.reader.lone = false // that nothing else goes with it is known to passIdle alone
	out.reader.buf = slices.Clone(s.reader.buf[:s.reader.end])
	if len(out.reader.batch) == 0 {
		out.reader.batch = nil
	}
	if len(out.reader.pending) == 0 {
		out.reader.pending = nil
	}
	return out
}

var (
	bindIdle1 = &pgproto3.Bind{PreparedStatement: "i", Parameters: [][]byte{[]byte("1")}}
	portal    = &pgproto3.Describe{ObjectType: 'P'}
	execution = &pgproto3.Execute{MaxRows: 3}
	end       = &pgproto3.Sync{}
)

// TestPassIdle: what passIdle passes leaves the session as a look at each message does, whatever came before.
func TestPassIdle(t *testing.T) {
	t.Parallel()
	for name, before := range map[string]func(s *session){
		"nothing":              func(*session) {},
		"a block begins":       func(s *session) { s.reader.begins = "begin" },
		"settings are changed": func(s *session) { s.reader.dirty, s.reader.blockEffects = true, true },
		"failure ended":        func(s *session) { s.reader.revives, s.reader.plainly = true, true },
		"another portal":       func(s *session) { s.reader.unnamed, s.reader.segments = bound{effects: true, loose: true}, 7 },
		"named portals":        func(s *session) { s.reader.portals["p"] = bound{effects: true} },
		"cursors":              func(s *session) { s.reader.cursors = []planner.Locale{{TimeZone: "UTC"}} },
		"statement_timeout":    func(s *session) { s.reader.starts, s.reader.timed = true, true },
		"listening":            func(s *session) { s.live.portal = true },
		"in a block":           func(s *session) { s.tx = 'T' },
		"in a failed block":    func(s *session) { s.tx = 'E' },
	} {
		for _, sent := range [][]pgproto3.Message{
			{&pgproto3.Query{String: "select 1"}},
			{bindIdle1, execution, end},
			{bindIdle1, portal, execution, end},
			{bindIdle1, execution, bindIdle1, portal, execution, execution, end},
			{bindIdle1, end},
		} {
			fast, slow := idleSession(t, sent...), idleSession(t, sent...)
			before(fast)
			before(slow)
			require.True(t, fast.passIdle(), name)
			for range sent {
				kind, body, _ := slow.short(slow.reader.scan)
				require.NoError(t, slow.take(t.Context(), kind, 5+len(body)))
			}
			slow.settle()
			require.Equal(t, slow.lookedAt(), fast.lookedAt(), "%s: %v", name, sent)
		}
	}
}

// TestPassIdleNot: what may be anything else is left to the look at each message, as it was.
func TestPassIdleNot(t *testing.T) {
	t.Parallel()
	bind := func(name string) *pgproto3.Bind { return &pgproto3.Bind{PreparedStatement: name} }
	nothing := func(*session) {}
	for name, each := range map[string]struct {
		before func(s *session)
		sent   []pgproto3.Message
	}{
		"nothing sent":        {nothing, nil},
		"reads":               {nothing, []pgproto3.Message{bind("read"), execution, end}},
		"reads, simple":       {nothing, []pgproto3.Message{&pgproto3.Query{String: read}}},
		"reads behind":        {nothing, []pgproto3.Message{bindIdle1, execution, bind("read"), execution, end}},
		"begins":              {nothing, []pgproto3.Message{bind("begin"), execution, end}},
		"unknown":             {nothing, []pgproto3.Message{bind("?"), execution, end}},
		"one of two":          {nothing, []pgproto3.Message{bind("two"), execution, end}},
		"another catalog":     {nothing, []pgproto3.Message{bind("old"), execution, end}},
		"looks later":         {nothing, []pgproto3.Message{bind("late"), execution, end}},
		"named portal":        {nothing, []pgproto3.Message{&pgproto3.Bind{DestinationPortal: "p", PreparedStatement: "i"}, execution, end}},
		"named portal runs":   {nothing, []pgproto3.Message{bindIdle1, &pgproto3.Execute{Portal: "p"}, end}},
		"named is described":  {nothing, []pgproto3.Message{bindIdle1, &pgproto3.Describe{ObjectType: 'P', Name: "p"}, execution, end}},
		"statement described": {nothing, []pgproto3.Message{bindIdle1, &pgproto3.Describe{ObjectType: 'S'}, execution, end}},
		"no Bind":             {nothing, []pgproto3.Message{execution, end}},
		"no end":              {nothing, []pgproto3.Message{bindIdle1, execution}},
		"Flush":               {nothing, []pgproto3.Message{bindIdle1, execution, &pgproto3.Flush{}, end}},
		"Parse":               {nothing, []pgproto3.Message{&pgproto3.Parse{Query: "select 1"}, bind(""), execution, end}},
		"Close":               {nothing, []pgproto3.Message{bindIdle1, execution, &pgproto3.Close{ObjectType: 'S', Name: "i"}, end}},
		"Query in a segment":  {nothing, []pgproto3.Message{bindIdle1, execution, &pgproto3.Query{String: "select 1"}, end}},
		"long":                {nothing, []pgproto3.Message{&pgproto3.Bind{PreparedStatement: "i", Parameters: [][]byte{make([]byte, maxLooped)}}, execution, end}},
	} {
		s := idleSession(t, each.sent...)
		each.before(s)
		was := s.lookedAt()
		require.False(t, s.passIdle(), name)
		require.Equal(t, was, s.lookedAt(), name)
	}
	for name, before := range map[string]func(s *session){
		"part of a message": func(s *session) { s.reader.end-- },
		"something waits to go": func(s *session) {
			s.reader.scan, s.reader.segment, s.reader.end = 5, 5, 5+copy(s.reader.buf[5:], s.reader.buf[:s.reader.end])
		},
		"in a segment":             func(s *session) { s.reader.inSegment = true },
		"a part is upstream":       func(s *session) { s.reader.open = true },
		"held":                     func(s *session) { s.reader.gated = true },
		"failed":                   func(s *session) { s.reader.skipping = true },
		"definitions":              func(s *session) { s.reader.defines = true },
		"a block is begun anew":    func(s *session) { s.reader.restarts = true },
		"LISTEN":                   func(s *session) { s.live.segment = true },
		"end of a COPY":            func(s *session) { s.reader.pending = []entry{{kind: kindCopyEnd}} },
		"made":                     func(s *session) { s.reader.made = []string{"v"} },
		"explained":                func(s *session) { s.reader.explained[""] = &explained{} },
		"portal of EXECUTE":        func(s *session) { s.reader.executors.bytes = 1 },
		"lost portals":             func(s *session) { s.reader.executors.lost = true },
		"level":                    func(s *session) { s.reader.level = serializable },
		"settings out of sight":    func(s *session) { s.reader.hidden = true },
		"definitions out of sight": func(s *session) { s.reader.inside.unsure = true },
		"own definitions":          func(s *session) { s.reader.inside.own = &catalog.Own{} },
		"a cursor that makes them": func(s *session) { s.reader.inside.later = true },
		"every statement held":     func(s *session) { s.server.cfg.ForceHold = 1 },
	} {
		for _, sent := range [][]pgproto3.Message{{&pgproto3.Query{String: "select 1"}}, {bindIdle1, execution, end}} {
			s := idleSession(t, sent...)
			before(s)
			was := s.lookedAt()
			require.False(t, s.passIdle(), name)
			require.Equal(t, was, s.lookedAt(), name)
		}
	}
	s := idleSession(t, bindIdle1, execution, end)
	s.push(entry{kind: kindSync}) // what is outstanding may say what a name means
	require.False(t, s.passIdle())
}

// TestWhatComesBehindIdle: behind what passIdle has passed outside of blocks a transaction begins with whatever goes next, answered or not;
// within a block it goes on.
func TestWhatComesBehindIdle(t *testing.T) {
	t.Parallel()
	idle, begin := []pgproto3.Message{bindIdle1, execution, end}, &pgproto3.Query{String: "begin"}
	for name, each := range map[string]struct {
		tx   byte
		sent [][]pgproto3.Message // written together each
		want []bool               // whether a transaction began with it
	}{
		"one by one":    {'I', [][]pgproto3.Message{idle, {begin}, idle}, []bool{true, true, false}},
		"simple":        {'I', [][]pgproto3.Message{{&pgproto3.Query{String: "select 1"}}, {begin}, {begin}}, []bool{true, true, false}},
		"in a block":    {'T', [][]pgproto3.Message{idle, {begin}}, []bool{false, false}},
		"with others":   {'I', [][]pgproto3.Message{append(slices.Clip(idle), begin), idle, {begin}}, []bool{true, false, false}},
		"begun, behind": {'I', [][]pgproto3.Message{append(slices.Clip(idle), bindIdle1), {end}, {begin}}, []bool{true, false, false}},
	} {
		s := idleSession(t)
		s.upstream = &memoryConn{in: deafReader{}, write: func([]byte) {}} // answers nothing
		s.tx, s.reader.dirty = each.tx, false
		for i, messages := range each.sent {
			r := &s.reader
			r.room(nil)
			for _, m := range messages {
				r.end += copy(r.buf[r.end:], encode(m))
			}
			r.began = time.Time{}
			require.NoError(t, s.advance(t.Context()))
			require.Equal(t, each.want[i], !r.began.IsZero(), "%s: %d", name, i)
			require.False(t, r.lone && r.start == r.segment, "%s: %d", name, i)
			if each.want[i] {
				require.Equal(t, r.passed, r.noticed == nil, "%s: %d", name, i)
			}
		}
	}
}

// TestABlockOfTheProxysOwn: the block that is begun in place of what has failed is one, whatever passIdle has passed before.
func TestABlockOfTheProxysOwn(t *testing.T) {
	t.Parallel()
	s, _, _ := memorySession(t)
	s.reader.passed, s.reader.begins = true, "begin"
	require.NoError(t, s.beginFailed(t.Context()))
	require.False(t, s.reader.passed)
}
