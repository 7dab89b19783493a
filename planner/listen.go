package planner

// MayListen reports whether executing the text may change what the session listens to: by LISTEN, UNLISTEN or DISCARD, or by a text
// of these that it makes.
func MayListen(text string) bool {
	return containsFold(text, "listen") || containsFold(text, "discard")
}

// Listens returns the channels of the LISTEN statements of the text, as PostgreSQL would name them but for the length, to which
// it cuts them. A name that is written with escapes (U&"…") is left out.
func Listens(text string) []string {
	lex := lexer{src: text}
	var channels []string
	begins, listens := true, false
	for {
		tok, ok := lex.next()
		if !ok {
			return channels
		}
		if listens && !tok.unicode && (tok.kind == tokenWord || tok.kind == tokenQuoted) {
			channels = append(channels, tok.text)
		}
		listens = begins && tok.kind == tokenWord && tok.text == "listen"
		begins = tok.kind == tokenPunct && tok.text == ";"
	}
}
