package scram

import (
	"fmt"
	"strings"
)

// reader reads a message attribute by attribute. Its errors are PostgreSQL's.
type reader struct {
	text string // without a zero byte
	at   int
}

func newReader(message []byte) (*reader, error) {
	text := string(message)
	switch {
	case text == "":
		return nil, malformed("The message is empty.")
	case strings.Contains(text, "\x00"):
		return nil, malformed("Message length does not match input length.")
	}
	return &reader{text: text}, nil
}

// peek is the next character; zero at the end.
func (r *reader) peek() byte {
	if r.at >= len(r.text) {
		return 0
	}
	return r.text[r.at]
}

// value reads the attribute of this name.
func (r *reader) value(attribute byte) (string, error) {
	if r.peek() != attribute {
		return "", malformed("Expected attribute \"%c\" but found \"%s\".", attribute, sanitized(r.peek()))
	}
	r.at++
	return r.rest(attribute)
}

// any reads an attribute of whatever name.
func (r *reader) any() (attribute byte, value string, err error) {
	attribute = r.peek()
	if attribute == 0 {
		return 0, "", malformed("Attribute expected, but found end of string.")
	}
	if lower := attribute | 0x20; lower < 'a' || lower > 'z' {
		return 0, "", malformed("Attribute expected, but found invalid character \"%s\".", sanitized(attribute))
	}
	r.at++
	value, err = r.rest(attribute)
	return attribute, value, err
}

// rest reads what follows an attribute's name, with the comma behind it.
func (r *reader) rest(attribute byte) (string, error) {
	if r.peek() != '=' {
		return "", malformed("Expected character \"=\" for attribute \"%c\".", attribute)
	}
	r.at++
	value, _, comma := strings.Cut(r.text[r.at:], ",")
	r.at += len(value)
	if comma {
		r.at++
	}
	return value, nil
}

// sanitized is a character as PostgreSQL shows one of a client that is not known yet.
func sanitized(c byte) string {
	if c >= 0x21 && c <= 0x7e {
		return fmt.Sprintf("'%c'", c)
	}
	return fmt.Sprintf("0x%02x", c)
}
