// Package pgtest plays transcripts of the PostgreSQL protocol: what a client sends, byte by byte its own, and a summary of
// what comes back. The same transcript run straight at PostgreSQL and through barkeep must read the same.
//
// A transcript is lines. A line sends one message:
//
//	Q text                       Query
//	P name text                  Parse; - is the unnamed statement
//	B portal name [value …]      Bind, text parameters
//	D S|P name                   Describe
//	E portal [rows]              Execute
//	C S|P name                   Close
//	H   S   X                    Flush, Sync, Terminate
//	d text   c   f text          CopyData (a newline is added), CopyDone, CopyFail
//	F oid [value …]              FunctionCall, text arguments
//
// or waits: "wait Z 2" until the second ReadyForQuery from here, any message type will do. Lines that begin with # say
// what the transcript is about. Messages that are sent without a wait between them go out in one write.
package pgtest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgproto3"
)

// playTime bounds one transcript.
const playTime = 20 * time.Second

// Play connects to the address as its user, without TLS and without a password, plays the transcript and returns a line
// for each message that came back.
func Play(ctx context.Context, address, transcript string) ([]string, error) {
	target, err := url.Parse(address)
	if err != nil {
		return nil, fmt.Errorf("parse address: %w", err)
	}
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", target.Host)
	if err != nil {
		return nil, fmt.Errorf("connect: %w", err)
	}
	defer conn.Close() //nolint:errcheck // nothing is left to be lost
	if err := conn.SetDeadline(time.Now().Add(playTime)); err != nil {
		return nil, fmt.Errorf("set deadline: %w", err)
	}
	p := &player{frontend: pgproto3.NewFrontend(conn, conn)}
	p.frontend.Send(&pgproto3.StartupMessage{
		ProtocolVersion: pgproto3.ProtocolVersion30,
		Parameters:      map[string]string{"user": target.User.Username(), "database": strings.TrimPrefix(target.Path, "/")},
	})
	if err := p.wait("Z", 1, false); err != nil {
		return nil, fmt.Errorf("start session: %w", err)
	}
	for number, line := range strings.Split(transcript, "\n") {
		if err := p.line(strings.TrimSpace(line)); err != nil {
			return p.seen, fmt.Errorf("line %d: %w", number+1, err)
		}
	}
	return p.seen, nil
}

type player struct {
	frontend *pgproto3.Frontend
	seen     []string
}

func (p *player) line(line string) error {
	kind, rest, _ := strings.Cut(line, " ")
	if kind == "" || strings.HasPrefix(kind, "#") {
		return nil
	}
	if kind == "wait" {
		what, count, _ := strings.Cut(rest, " ")
		n, err := strconv.Atoi(count)
		if err != nil {
			n = 1
		}
		return p.wait(what, n, true)
	}
	message, err := parse(kind, rest)
	if err != nil {
		return err
	}
	p.frontend.Send(message)
	return nil
}

func name(text string) string {
	if text == "-" {
		return ""
	}
	return text
}

func parse(kind, rest string) (pgproto3.FrontendMessage, error) {
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

// wait reads until the count-th message of the kind has come, or the end of the connection where kind is "end".
func (p *player) wait(kind string, count int, keep bool) error {
	if err := p.frontend.Flush(); err != nil {
		return fmt.Errorf("send: %w", err)
	}
	for count > 0 {
		message, err := p.frontend.Receive()
		if kind == "end" && (errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("receive: %w", err)
		}
		text := summary(message)
		if keep {
			p.seen = append(p.seen, text)
		}
		if strings.HasPrefix(text, kind) {
			count--
		}
	}
	return nil
}

// summary is the message's type byte and what of it must be the same everywhere.
func summary(message pgproto3.BackendMessage) string {
	data, err := message.Encode(nil)
	if err != nil || len(data) == 0 {
		return fmt.Sprintf("? %T", message)
	}
	kind := string(data[:1])
	switch m := message.(type) {
	case *pgproto3.ErrorResponse:
		return fmt.Sprintf("E %s %s %s", m.Severity, m.Code, m.Message)
	case *pgproto3.NoticeResponse:
		return fmt.Sprintf("N %s %s %s", m.Severity, m.Code, m.Message)
	case *pgproto3.ReadyForQuery:
		return fmt.Sprintf("Z %c", m.TxStatus)
	case *pgproto3.CommandComplete:
		return "C " + string(m.CommandTag)
	case *pgproto3.ParameterStatus:
		return fmt.Sprintf("S %s=%s", m.Name, m.Value)
	case *pgproto3.DataRow:
		values := make([]string, len(m.Values))
		for i, value := range m.Values {
			values[i] = string(value)
		}
		return "D " + strings.Join(values, "|")
	case *pgproto3.NotificationResponse:
		return fmt.Sprintf("A %s %s", m.Channel, m.Payload)
	case *pgproto3.BackendKeyData:
		return kind
	}
	return fmt.Sprintf("%s %x", kind, data[5:])
}
