package proxy

import (
	"context"
	"slices"
	"strings"
	"unicode"

	"github.com/jackc/pgx/v5/pgproto3"

	"barkeep/planner"
)

// Where a statement fails behind the BEGIN of its own segment or Query, PostgreSQL has begun the block by then, and the client is told
// that it has failed: whatever comes before a ROLLBACK is refused. A client that was told otherwise would go on, and commit, without
// what has failed. pgjdbc sends each BEGIN so, and psqlodbc "BEGIN;SELECT …".

// isBegin reports whether a statement begins a block.
func isBegin(text string) bool {
	first, rest := cutWord(uncommented(text))
	if strings.EqualFold(first, "start") {
		second, _ := cutWord(rest)
		return strings.EqualFold(second, "transaction")
	}
	return strings.EqualFold(first, "begin")
}

// cutWord returns the first word of a text, which white space ends, and what is behind it.
func cutWord(text string) (word, rest string) {
	text = strings.TrimLeftFunc(text, unicode.IsSpace)
	if end := strings.IndexFunc(text, unicode.IsSpace); end >= 0 {
		return text[:end], text[end:]
	}
	return text, ""
}

// beginsWith returns the first statement of a Query, where it begins the block that the first of what may read ohlcv is in.
func (s *session) beginsWith(text string) string {
	first, rest, _ := strings.Cut(text, ";")
	if !isBegin(first) || strings.ContainsAny(first, "'\"$-/") {
		return ""
	}
	for piece := range strings.SplitSeq(rest, ";") {
		switch {
		case mayEnd(piece):
			return ""
		case planner.MayRead(piece, s.catalog()), s.forces() && strings.TrimSpace(piece) != "" && !isControl(piece):
			return first
		}
	}
	return ""
}

// noteBegin notes the statement of a Bind, in begins: the first of the segment, or one that may end the block.
func (r *reader) noteBegin(st *statement) {
	switch {
	case !r.used && st.begins:
		r.begins = st.text
	case !r.used, st.mayEnd:
		r.begins = ""
	}
}

// beginFailed begins the block upstream that what has failed would have begun, so that it fails there.
func (s *session) beginFailed(ctx context.Context) error {
	begins := s.reader.begins
	s.reader.begins = ""
	if begins == "" || s.reader.open {
		return nil
	}
	if quiet, err := s.quiesce(ctx); err != nil || !quiet {
		return err
	}
	s.mu.Lock()
	free := s.tx == 'I'
	s.mu.Unlock()
	if !free {
		return nil
	}
	s.reader.passed = false // what comes next is in the block
	_, err := s.exchange(ctx, slices.Concat(
		encode(&pgproto3.Close{ObjectType: 'S', Name: ownName}),
		encode(&pgproto3.Parse{Name: ownName, Query: begins}),
		encode(&pgproto3.Bind{DestinationPortal: ownName, PreparedStatement: ownName}),
		encode(&pgproto3.Execute{Portal: ownName}),
		ownClose()))
	return err
}
