package proxy

import (
	"slices"
	"strings"
	"unicode"

	"barkeep/planner"
)

// scan is what a scan of a text says it may do.
type scan struct {
	version uint64 // of the catalog that it was made under, see versionOf
	idle    bool   // concerns the upstream alone: nothing of what follows is so
	reads   bool   // may read ohlcv, as far as known says
	effects bool   // may change the session
	control bool   // takes no snapshot
	defines bool   // may define or change a relation or function
	definer bool   // may run what does so out of sight
	asks    bool   // may be an EXPLAIN (BARKEEP)
	fetches bool   // may go on with a cursor
	opening bool   // may declare one
	holding bool   // and WITH HOLD
	imports bool   // may give the transaction a snapshot of another
	ends    bool   // begins by ending the transaction for certain
	shades  bool   // may make a temporary relation named ohlcv
	hides   bool   // may make something by which settings are changed unseen
	listens bool   // may change what the session listens to

	conceals bool // may define something that only the transaction itself can tell
	executes bool // may EXECUTE a prepared statement
	late     bool // looks up what it names, or rewrites its query, as it is executed: no plan is made of it before that
	begins   bool // is one statement that begins a block
	opens    bool // may begin with one that does
	mayEnd   bool // begins with a statement that may end a block or its failure
	plainEnd bool // is one statement that ends a block and nothing else
	revived  bool // has something behind what may end the failure of a block
	plainly  bool // and its first statement ends a block and nothing else
	// parameters is the highest number behind a $ in the text, whatever that is part of.
	parameters int
	// level is the isolation level that the text gives its transaction; empty where it gives none, or does more than that.
	level string
}

// versionOf is a catalog's; zero where there is none.
func versionOf(known *planner.Catalog) uint64 {
	if known == nil {
		return 0
	}
	return known.Version
}

func scanText(text string, known *planner.Catalog) scan {
	level, modes := transactionModes(text)
	effects := !modes && planner.Effects(text, known).Settings
	first, _, _ := strings.Cut(text, ";")
	revived, plainly := revival(text)
	return scan{
		version: versionOf(known), reads: planner.MayRead(text, known), level: level,
		effects: effects, opening: effects && hasWord(text, "declare"),
		holding: effects && hasWord(text, "declare") && hasWord(text, "hold"),
		control: isControl(text), defines: defines(text), definer: known.MayDefine(text), conceals: known.Conceals(text), asks: asks(text),
		fetches: fetches(text), imports: importsSnapshot(text), ends: endsFirst(text),
		hides: hides(text), shades: shades(text), listens: planner.MayListen(text),
		executes: strings.Contains(strings.ToLower(text), "execute"),
		begins:   isBegin(text) && !strings.Contains(text, ";"), opens: isBegin(first), mayEnd: mayEnd(text), plainEnd: isPlain(text, plainEnds),
		revived: revived, plainly: plainly,
	}
}

// parametersIn returns the highest number behind a $; it is at most maxParameters, as more is an error.
func parametersIn(text string) int {
	most := 0
	for {
		_, rest, found := strings.Cut(text, "$")
		if !found {
			return most
		}
		n, i := 0, 0
		for ; i < len(rest) && '0' <= rest[i] && rest[i] <= '9'; i++ {
			n = min(10*n+int(rest[i]-'0'), maxParameters)
		}
		most, text = max(most, n), rest[i:]
	}
}

// maxParameters is how many a Bind can have (PQ_QUERY_PARAM_MAX_LIMIT).
const maxParameters = 65535

var plainEnds = []string{"commit", "end", "rollback", "abort", "commit work", "rollback work", "commit transaction", "end transaction", "rollback transaction"}

// maxModes is the longest text in which modes of a transaction are looked for.
const maxModes = 200

// isLate reports whether the text may be a utility statement with a query in it: PostgreSQL rewrites that as it executes it (DoCopy, ExplainQuery,
// PerformCursorOpen, ExecCreateTableAs), with the views that there are by then.
func isLate(text string) bool {
	word := uncommented(text)
	if end := strings.IndexFunc(word, func(c rune) bool { return (c < 'A' || c > 'Z') && (c < 'a' || c > 'z') }); end >= 0 {
		word = word[:end]
	}
	return slices.Contains([]string{"copy", "create", "declare", "explain", "refresh"}, strings.ToLower(word)) && !hasWord(text, "stdin")
}

// transactionModes reports whether the text is one BEGIN, START TRANSACTION or SET TRANSACTION with nothing but modes of the transaction,
// of which none but the isolation level matters to what it reads. Of several levels the strictest counts.
func transactionModes(text string) (level string, ok bool) {
	text = strings.TrimRight(uncommented(text), "; \t\r\n")
	if len(text) > maxModes {
		return "", false
	}
	words := strings.Fields(strings.ToLower(strings.ReplaceAll(text, ",", " ")))
	next := func(list ...string) bool {
		if len(words) < len(list) || !slices.Equal(words[:len(list)], list) {
			return false
		}
		words = words[len(list):]
		return true
	}
	if !next("start", "transaction") && !next("set", "transaction") && !next("begin", "transaction") && !next("begin", "work") && !next("begin") {
		return "", false
	}
	for len(words) > 0 {
		switch {
		case next("isolation", "level", "serializable"):
			level = serializable
		case next("isolation", "level", "repeatable", "read"):
			if level != serializable {
				level = repeatableRead
			}
		case next("isolation", "level", "read", "committed"), next("isolation", "level", "read", "uncommitted"):
			if level == "" {
				level = readCommitted
			}
		case next("read", "only"), next("read", "write"), next("deferrable"), next("not", "deferrable"):
		default:
			return "", false
		}
	}
	return level, true
}

// isPlain reports whether the text is one of the list, whatever its case.
func isPlain(text string, list []string) bool {
	text = strings.TrimRight(strings.TrimSpace(text), "; \t\r\n")
	if len(text) > 28 {
		return false
	}
	for _, each := range list {
		if strings.EqualFold(text, each) {
			return true
		}
	}
	return false
}

// isControl reports whether no statement of the text takes a snapshot. Cut at each semicolon, quoted or not, it has pieces
// that begin where no statement does, but none begins inside a piece.
func isControl(text string) bool {
	for piece := range strings.SplitSeq(strings.TrimRight(text, "; \t\r\n"), ";") {
		word, _, _ := strings.Cut(strings.TrimSpace(piece), " ")
		switch strings.ToLower(word) {
		case "begin", "start", "set", "show", "commit", "rollback", "abort", "end", "savepoint", "release":
		default:
			return false
		}
	}
	return true
}

// defines reports whether the text has a word that begins, or may hide, a definition, or a name that says so, like
// create_hypertable.
func defines(text string) bool {
	lower := strings.ToLower(text)
	for _, word := range []string{"create", "alter", "drop", "call", "execute", "grant", "prepared"} {
		if strings.Contains(lower, word) {
			return true
		}
	}
	return hasWord(lower, "do") // it is in many others
}

// hides reports whether the text may make a function.
func hides(text string) bool { return hasWord(text, "function", "procedure", "do", "call", "execute") }

// hasWord reports whether one of the words, which are in lower case, is in the text.
func hasWord(text string, words ...string) bool {
	apart := func(c rune) bool { return c != '_' && c < 0x80 && !unicode.IsLetter(c) && !unicode.IsDigit(c) }
	for word := range strings.FieldsFuncSeq(text, apart) {
		if slices.Contains(words, strings.ToLower(word)) {
			return true
		}
	}
	return false
}

// asks reports whether the text may be an EXPLAIN (BARKEEP).
func asks(text string) bool {
	lower := strings.ToLower(text)
	return strings.Contains(lower, "barkeep") && strings.Contains(lower, "explain")
}

// fetches reports whether the text may be a FETCH or MOVE.
func fetches(text string) bool {
	lower := strings.ToLower(text)
	return strings.Contains(lower, "fetch") || strings.Contains(lower, "move")
}

// importsSnapshot reports whether the text may be a SET TRANSACTION SNAPSHOT.
func importsSnapshot(text string) bool {
	lower := strings.ToLower(text)
	return strings.Contains(lower, "snapshot") && strings.Contains(lower, "transaction") && strings.Contains(lower, "set")
}

// endsFirst reports whether the first statement of the text is one that ends the transaction, whatever comes of it.
func endsFirst(text string) bool {
	first, _, _ := strings.Cut(text, ";")
	words := strings.Fields(strings.ToLower(first))
	if n := len(words); n >= 2 && words[n-1] == "chain" && words[n-2] == "and" {
		words = words[:n-2]
	}
	return isPlain(strings.Join(words, " "), plainEnds)
}
