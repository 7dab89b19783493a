package planner

import "strings"

type tokenKind uint8

const (
	tokenWord   tokenKind = iota + 1 // an identifier or keyword without quotes; text in lower case
	tokenQuoted                      // "identifier"; text without its quotes
	tokenString                      // a string constant of any form; text between its quotes, escapes as written
	tokenNumber
	tokenParam
	tokenOp    // an operator of one or more characters
	tokenPunct // one of ( ) [ ] , ; : .
)

type token struct {
	kind       tokenKind
	text       string
	start, end int
	// unicode says that the token was written as U&"…" or U&'…'.
	unicode bool
}

// lexer cuts SQL into tokens as scan.l of PostgreSQL does with standard_conforming_strings on. It never fails: what is
// not closed ends with the text.
type lexer struct {
	src string
	pos int
}

const opChars = "~!@#^&|`?+-*/%<>="

func isSpace(c byte) bool { return c == ' ' || (c >= '\t' && c <= '\r') }

func isIdentStart(c byte) bool { return c == '_' || c >= 0x80 || (c|0x20 >= 'a' && c|0x20 <= 'z') }

func isDigit(c byte) bool { return c >= '0' && c <= '9' }

func isIdentPart(c byte) bool { return isIdentStart(c) || isDigit(c) || c == '$' }

func (l *lexer) at(i int) byte {
	if i < len(l.src) {
		return l.src[i]
	}
	return 0
}

// skip passes white space and comments; block comments nest.
func (l *lexer) skip() {
	for l.pos < len(l.src) {
		c := l.src[l.pos]
		switch {
		case isSpace(c):
			l.pos++
		case c == '-' && l.at(l.pos+1) == '-':
			for l.pos < len(l.src) && l.src[l.pos] != '\n' && l.src[l.pos] != '\r' {
				l.pos++
			}
		case c == '/' && l.at(l.pos+1) == '*':
			l.comment()
		default:
			return
		}
	}
}

func (l *lexer) comment() {
	depth := 0
	for l.pos < len(l.src) {
		switch {
		case strings.HasPrefix(l.src[l.pos:], "/*"):
			depth++
			l.pos += 2
		case strings.HasPrefix(l.src[l.pos:], "*/"):
			depth--
			l.pos += 2
			if depth == 0 {
				return
			}
		default:
			l.pos++
		}
	}
}

// next returns the next token, false at the end.
func (l *lexer) next() (token, bool) {
	l.skip()
	if l.pos >= len(l.src) {
		return token{}, false
	}
	start, c := l.pos, l.src[l.pos]
	tok := token{start: start}
	switch {
	case c == '\'':
		tok.kind, tok.text = tokenString, l.quoted(start, '\'', false)
	case c == '"':
		tok.kind, tok.text = tokenQuoted, l.quoted(start, '"', false)
	case (c|0x20 == 'e' || c|0x20 == 'b' || c|0x20 == 'x' || c|0x20 == 'n') && l.at(start+1) == '\'':
		tok.kind, tok.text = tokenString, l.quoted(start+1, '\'', c|0x20 == 'e')
	case c|0x20 == 'u' && l.at(start+1) == '&' && (l.at(start+2) == '\'' || l.at(start+2) == '"'):
		tok.kind, tok.unicode = tokenString, true
		if l.at(start+2) == '"' {
			tok.kind = tokenQuoted
		}
		tok.text = l.quoted(start+2, l.src[start+2], false)
	case c == '$' && isDigit(l.at(start+1)):
		for l.pos++; isDigit(l.at(l.pos)); l.pos++ {
		}
		tok.kind, tok.text = tokenParam, l.src[start:l.pos]
	case c == '$':
		tok.kind, tok.text = l.dollar()
	case isIdentStart(c):
		for isIdentPart(l.at(l.pos)) && l.pos < len(l.src) {
			l.pos++
		}
		tok.kind, tok.text = tokenWord, strings.ToLower(l.src[start:l.pos])
	case isDigit(c) || (c == '.' && isDigit(l.at(start+1))):
		l.number()
		tok.kind, tok.text = tokenNumber, l.src[start:l.pos]
	case strings.IndexByte(opChars, c) >= 0:
		l.operator()
		tok.kind, tok.text = tokenOp, l.src[start:l.pos]
	default:
		l.pos++
		tok.kind, tok.text = tokenPunct, l.src[start:l.pos]
	}
	tok.end = l.pos
	return tok, true
}

// quoted reads from the opening quote at open to past the closing one, and returns what is between them, with doubled
// quotes halved.
func (l *lexer) quoted(open int, quote byte, backslash bool) string {
	doubled := false
	for l.pos = open + 1; l.pos < len(l.src); l.pos++ {
		switch c := l.src[l.pos]; {
		case backslash && c == '\\':
			l.pos++
		case c == quote && l.at(l.pos+1) == quote:
			doubled = true
			l.pos++
		case c == quote:
			text := l.src[open+1 : l.pos]
			l.pos++
			if doubled {
				q := string(quote)
				text = strings.ReplaceAll(text, q+q, q)
			}
			return text
		}
	}
	l.pos = len(l.src)
	return l.src[min(open+1, len(l.src)):]
}

// dollar reads a dollar-quoted string, or a lone $.
func (l *lexer) dollar() (tokenKind, string) {
	tag := l.pos + 1
	for tag < len(l.src) && isIdentPart(l.src[tag]) && l.src[tag] != '$' {
		tag++
	}
	if l.at(tag) != '$' {
		l.pos++
		return tokenPunct, "$"
	}
	mark := l.src[l.pos : tag+1]
	body := l.src[tag+1:]
	end := strings.Index(body, mark)
	if end < 0 {
		l.pos = len(l.src)
		return tokenString, body
	}
	l.pos = tag + 1 + end + len(mark)
	return tokenString, body[:end]
}

func (l *lexer) number() {
	for l.pos < len(l.src) {
		c := l.src[l.pos]
		switch {
		case isIdentPart(c) || c == '.':
			l.pos++
		case (c == '+' || c == '-') && l.src[l.pos-1]|0x20 == 'e':
			l.pos++
		default:
			return
		}
	}
}

func (l *lexer) operator() {
	for l.pos < len(l.src) && strings.IndexByte(opChars, l.src[l.pos]) >= 0 {
		rest := l.src[l.pos:]
		if strings.HasPrefix(rest, "--") || strings.HasPrefix(rest, "/*") {
			return
		}
		l.pos++
	}
}
