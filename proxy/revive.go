package proxy

import (
	"context"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5/pgproto3"
)

// In a block that has failed nothing is executed, and nothing is held, but for what comes behind the statement that ends the block or
// takes it back to a savepoint, in the same segment or Query ("ROLLBACK; SELECT …"): that is executed as if it came by itself, so
// that its bars have to be there. Where the first statement ends the block and nothing else, the proxy ends it before the hold, plans in the
// settings that are in force then, and has a block of its own fail in the old one's place: the client's messages find what they
// would have found. All else is refused.

// mayEnd reports whether a piece of a text between semicolons, quoted or not, may be a statement that ends a block or its failure.
func mayEnd(piece string) bool {
	apart := func(c rune) bool { return c != '_' && (c < 'A' || c > 'Z') && (c < 'a' || c > 'z') }
	word := strings.TrimLeftFunc(uncommented(piece), apart)
	if end := strings.IndexFunc(word, apart); end >= 0 {
		word = word[:end]
	}
	return slices.Contains([]string{"commit", "end", "rollback", "abort", "prepare"}, strings.ToLower(word))
}

// uncommented returns the text without white space and comments before it.
func uncommented(text string) string {
	for {
		text = strings.TrimLeft(text, " \t\r\n\f\v")
		switch {
		case strings.HasPrefix(text, "--"):
			_, text, _ = strings.Cut(text, "\n")
		case strings.HasPrefix(text, "/*"):
			depth, at := 1, 2
			for ; at < len(text) && depth > 0; at++ {
				switch rest := text[at:]; {
				case strings.HasPrefix(rest, "/*"):
					depth, at = depth+1, at+1
				case strings.HasPrefix(rest, "*/"):
					depth, at = depth-1, at+1
				}
			}
			text = text[min(at, len(text)):]
		default:
			return text
		}
	}
}

// revival says of a Query whether something in it comes behind what may end the failure of a block, and whether its first statement
// ends a block and nothing else.
func revival(text string) (revived, plainly bool) {
	first, _, _ := strings.Cut(text, ";")
	ended := false
	for piece := range strings.SplitSeq(text, ";") {
		if ended && uncommented(piece) != "" {
			return true, isPlain(first, plainEnds)
		}
		ended = ended || mayEnd(piece)
	}
	return false, ended && isPlain(first, plainEnds)
}

// noteEnd notes a Bind of one of the statements, in revives and plainly.
func (r *reader) noteEnd(found candidates) {
	r.plainly = r.plainly || !r.revives && !r.used && len(found) == 1 && found[0].plainEnd
	r.revives = r.revives || slices.ContainsFunc(found, func(st *statement) bool { return st.mayEnd })
}

// leaveFailed ends a failed block behind which units are executed, and reports whether there is one.
func (s *session) leaveFailed(ctx context.Context, units []unit) (left bool, err error) {
	at := 0
	for ; at < len(units) && !units[at].revived; at++ {
	}
	if at == len(units) {
		return false, nil
	}
	if s.reader.trying {
		return false, errWouldWait
	}
	quiet, err := s.quiesce(ctx)
	s.mu.Lock()
	failed := s.tx == 'E'
	s.mu.Unlock()
	switch {
	case err != nil || !failed:
		return false, err
	case !quiet || !units[at].plainly:
		return false, errBehindEnd
	}
	s.reader.dirty = true
	reply, err := s.exchange(ctx, ownCommand("rollback"))
	if err == nil && reply.err != nil {
		err = upstreamError(reply.err)
	}
	return true, err
}

// withoutRevival returns the units as they are where no block has failed.
func withoutRevival(units []unit) []unit {
	units = slices.Clone(units)
	for i := range units {
		units[i].revived = false
	}
	return units
}

// failAgain has a block fail in place of the one that was left.
func (s *session) failAgain(ctx context.Context) error {
	_, err := s.exchange(ctx, append(ownCommand("begin"), encode(&pgproto3.Bind{PreparedStatement: failMark})...))
	return err
}
