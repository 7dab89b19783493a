package pgtest

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5/pgproto3"
)

func name(text string) string {
	if text == "-" {
		return ""
	}
	return text
}

// parse returns the bytes of the message that a line sends.
func parse(kind, rest string) ([]byte, error) {
	if kind == "raw" {
		data, err := hex.DecodeString(strings.ReplaceAll(rest, " ", ""))
		if err != nil {
			return nil, fmt.Errorf("parse bytes: %w", err)
		}
		return data, nil
	}
	message, err := parseMessage(kind, rest)
	if err != nil {
		return nil, err
	}
	data, err := message.Encode(nil)
	if err != nil {
		return nil, fmt.Errorf("encode message: %w", err)
	}
	return data, nil
}

func parseMessage(kind, rest string) (pgproto3.FrontendMessage, error) {
	words := append(strings.Fields(rest), "-", "-")
	switch kind {
	case "Q":
		return &pgproto3.Query{String: rest}, nil
	case "P":
		_, text, _ := strings.Cut(rest, " ")
		return &pgproto3.Parse{Name: name(words[0]), Query: text}, nil
	case "B":
		bind := &pgproto3.Bind{DestinationPortal: name(words[0]), PreparedStatement: name(words[1])}
		for _, value := range words[2:max(2, len(words)-2)] {
			bind.Parameters = append(bind.Parameters, []byte(value))
		}
		return bind, nil
	case "D":
		return &pgproto3.Describe{ObjectType: words[0][0], Name: name(words[1])}, nil
	case "E":
		rows, err := strconv.ParseUint(words[1], 10, 32)
		if err != nil {
			rows = 0
		}
		return &pgproto3.Execute{Portal: name(words[0]), MaxRows: uint32(rows)}, nil
	case "C":
		return &pgproto3.Close{ObjectType: words[0][0], Name: name(words[1])}, nil
	case "H":
		return &pgproto3.Flush{}, nil
	case "S":
		return &pgproto3.Sync{}, nil
	case "X":
		return &pgproto3.Terminate{}, nil
	case "d":
		return &pgproto3.CopyData{Data: []byte(rest + "\n")}, nil
	case "c":
		return &pgproto3.CopyDone{}, nil
	case "f":
		return &pgproto3.CopyFail{Message: rest}, nil
	case "F":
		return call(words[:len(words)-2])
	}
	return nil, fmt.Errorf("unknown line %q", kind)
}

func call(words []string) (pgproto3.FrontendMessage, error) {
	if len(words) == 0 {
		return nil, errors.New("FunctionCall without a function")
	}
	function, err := strconv.ParseUint(words[0], 10, 32)
	if err != nil {
		return nil, fmt.Errorf("parse function: %w", err)
	}
	out := &pgproto3.FunctionCall{Function: uint32(function)}
	for _, value := range words[1:] {
		out.Arguments = append(out.Arguments, []byte(value))
	}
	return out, nil
}

// authentications are the kinds of Authentication messages (manual, "Message Formats").
var authentications = map[uint32]string{
	0: "Ok", 2: "KerberosV5", 3: "CleartextPassword", 5: "MD5Password", 7: "GSS", 8: "GSSContinue", 9: "SSPI", 10: "SASL", 11: "SASLContinue",
	12: "SASLFinal",
}

// typeOf is the message's type byte, and the kind of an Authentication.
func typeOf(message []byte) string {
	if message[0] == 'R' && len(message) >= 9 {
		return "R " + authentications[binary.BigEndian.Uint32(message[5:])]
	}
	return string(message[:1])
}

// summary is the message's type byte and what of it must be the same everywhere: all but keys, process ids and salts.
func summary(message []byte) string {
	kind, body := message[0], message[5:]
	switch kind {
	case 'R':
		return typeOf(message)
	case 'K':
		return fmt.Sprintf("K %d", len(body))
	case 'E', 'N':
		return string(kind) + fields(body)
	case 'Z', 'C':
		return string(kind) + " " + strings.TrimRight(string(body), "\x00")
	case 'S':
		return "S " + strings.Replace(strings.TrimRight(string(body), "\x00"), "\x00", "=", 1)
	case 'D':
		var row pgproto3.DataRow
		if row.Decode(body) != nil {
			break
		}
		values := make([]string, len(row.Values))
		for i, value := range row.Values {
			values[i] = string(value)
			if value == nil {
				values[i] = "NULL"
			}
		}
		return "D " + strings.Join(values, "|")
	case 'A':
		var told pgproto3.NotificationResponse
		if told.Decode(body) == nil {
			return fmt.Sprintf("A %s %s", told.Channel, told.Payload)
		}
	}
	return fmt.Sprintf("%c %x", kind, body)
}

// fields are those of an ErrorResponse or NoticeResponse: severity, SQLSTATE and text, then the others by their letter,
// each behind a tab.
func fields(body []byte) string {
	values := map[byte]string{}
	var others []string
	for field := range strings.SplitSeq(string(body), "\x00") {
		if field == "" {
			continue
		}
		if field[0] == 'W' && values['C'] == pgerrcode.QueryCanceled {
			field, _, _ = strings.Cut(field, ", line ") // how far a COPY has come by then is a matter of time
		}
		values[field[0]] = field[1:]
		if !slices.Contains([]byte("SVCM"), field[0]) {
			others = append(others, field[:1]+"="+field[1:])
		}
	}
	slices.Sort(others)
	if values['V'] != values['S'] {
		others = append(others, "V="+values['V'])
	}
	text := " " + values['S'] + " " + values['C'] + " " + values['M']
	return strings.Join(append([]string{text}, others...), "\t")
}
