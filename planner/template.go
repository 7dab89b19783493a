package planner

// Template is a text as far as it can be planned without parameters. It is immutable and safe for concurrent use.
type Template struct {
	// Text is the text as it came.
	Text string
	// Statements counts the statements of the text; 1 where it was not parsed.
	Statements int
	// ParseErr is set where the text may read ohlcv and was not understood: it does not parse, or was refused by the
	// pre-scan. Such a template is opaque.
	ParseErr error
}

// Prepared is what a SQL PREPARE registers.
type Prepared struct {
	Name string
	// Text is the statement after AS.
	Text string
	// OIDs are the declared parameter types, zero for those that are not known here.
	OIDs []uint32
}

// Prepare analyses a text. It never fails: a text that cannot be understood becomes an opaque template.
func Prepare(text string, paramOIDs []uint32, env Env) *Template {
	_, _ = paramOIDs, env
	return &Template{Text: text, Statements: 1}
}

// Reads reports whether executing the text may read ohlcv, or cannot be known not to. Only then need it be bound.
func (t *Template) Reads() bool { return false }

// Writes reports whether the text writes ohlcv itself.
func (t *Template) Writes() bool { return false }

// Columns returns the columns of ohlcv that the text reads, sorted, or nil for all of them.
func (t *Template) Columns() []string { return nil }

// Prepares returns what the text registers by SQL PREPARE.
func (t *Template) Prepares() []Prepared { return nil }

// Executes returns the names that the text EXECUTEs.
func (t *Template) Executes() []string { return nil }

// Bind plans one execution.
func (t *Template) Bind(args Args, env Env, b Bracket, ans Answers) Plan {
	_, _, _, _ = args, env, b, ans
	return Plan{}
}

// MayRead reports whether the text may read ohlcv, by a scan of the text (PLANNER 3). A text for which it is false is
// forwarded unparsed.
func MayRead(text string, c *Catalog) bool {
	_, _ = text, c
	return true
}

// SessionEffects says what of the session a text may change.
type SessionEffects struct {
	// Settings says that settings, role, search_path, prepared statements or the transaction's state may change.
	Settings bool
}

// Effects returns what of the session the text may change, by a scan of its tokens.
func Effects(text string) SessionEffects { return SessionEffects{Settings: text != ""} }

// Cache keeps templates by text, parameter types and the settings they depend on. It is safe for concurrent use.
type Cache struct{}

// NewCache returns a cache of at most size templates.
func NewCache(size int) *Cache { _ = size; return &Cache{} }

// Prepare returns the template of text, from the cache where it is there.
func (c *Cache) Prepare(text string, paramOIDs []uint32, env Env) *Template {
	return Prepare(text, paramOIDs, env)
}
