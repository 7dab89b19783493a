// Package pgtest plays transcripts of the PostgreSQL protocol: what a client sends, byte by byte its own, and a summary of
// what comes back. The same transcript run straight at PostgreSQL and through barkeep must read the same, but for what it
// marks as different.
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
//	raw 51 00 00                 bytes, in hexadecimal
//
// or waits: "wait Z 2" until the second ReadyForQuery from here, any message type will do, and "wait end" until the
// connection is closed. Messages that are sent without a wait between them go out in one write; "send" has them go out without
// waiting. Other lines are:
//
//	start [option …]   begin a session anew, and tell of all until it is ready or refused. Options are ssl and gss, which ask for
//	                   encryption first, protocol=3.2, password=secret, and parameters of the StartupMessage (user=name)
//	cancel [wrong]     send a CancelRequest for the session, perhaps with another key, and return when its connection is closed
//	do name [word …]   call a hook of the test's
//
// A line that begins with @2 is of a second session, which is started quietly where it is not there yet. One that begins with
// "only postgres" or "only barkeep" is not played at the other. Where the answers differ, the lines after the wait (or start) say
// what the messages begin with at either:
//
//	postgres| E FATAL 25P04
//	barkeep| E ERROR 57014
//
// {database} stands for the name of the database. Lines that begin with # say what the transcript is about; "# hazard: name" names one of those that must be shown.
package pgtest

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

// playTime bounds one transcript.
const playTime = 15 * time.Second

// Peer is what a transcript is played at.
type Peer struct {
	// Name is postgres or barkeep.
	Name string
	// URL is its address, with the user and the database of a session that says nothing else.
	URL string
	// Hooks are what the transcript can do besides.
	Hooks map[string]func(ctx context.Context, words []string) error
	// Dial changes how connections are made.
	Dial Dial
}

// Step is one line of a transcript that was played, with what came back.
type Step struct {
	// Number is that of the line, from 1.
	Number int
	// Text is the line.
	Text string
	// Seen has a line for each message; what was waited for is the last.
	Seen []string
}

// Record is a transcript as it was played.
type Record struct {
	Steps []Step
	// Types are the types of messages that passed: "Q>" was sent, "<Z" came.
	Types map[string]bool
	// Streams are the bytes of each session behind its startup.
	Streams []Stream
}

// Seen plays a transcript at an address, and returns a line for each message that came back: of errors and notices severity,
// SQLSTATE and text.
func Seen(ctx context.Context, address, transcript string) ([]string, error) {
	record, err := Play(ctx, Peer{URL: address}, transcript)
	if record == nil {
		return nil, err
	}
	var all []string
	for _, step := range record.Steps {
		for _, text := range step.Seen {
			if text != "end" {
				short, _, _ := strings.Cut(text, "\t")
				all = append(all, short)
			}
		}
	}
	return all, err
}

// Play plays the transcript without TLS but where the peer's Dial has it.
func Play(ctx context.Context, peer Peer, transcript string) (*Record, error) {
	target, err := url.Parse(peer.URL)
	if err != nil {
		return nil, fmt.Errorf("parse address: %w", err)
	}
	ctx, stop := context.WithTimeout(ctx, playTime)
	defer stop()
	p := &player{
		peer: peer, target: target, sessions: map[string]*session{}, record: &Record{Types: map[string]bool{}},
	}
	defer p.close()
	for i, line := range strings.Split(transcript, "\n") {
		line = strings.ReplaceAll(strings.TrimSpace(line), "{database}", p.database())
		if err := p.line(ctx, i+1, line); err != nil {
			return p.record, fmt.Errorf("line %d: %w", i+1, err)
		}
	}
	return p.record, nil
}

type player struct {
	peer     Peer
	target   *url.URL
	sessions map[string]*session // by what a line begins with: "" or "@2"
	record   *Record
}

func (p *player) close() {
	for _, s := range p.sessions {
		p.end(s)
	}
}

func (p *player) database() string { return strings.TrimPrefix(p.target.Path, "/") }

func (p *player) end(s *session) {
	_ = s.conn.Close()
	p.record.Streams = append(p.record.Streams, s.stream)
}

func (p *player) line(ctx context.Context, number int, line string) error {
	if rest, only := strings.CutPrefix(line, "only "); only {
		peer, text, _ := strings.Cut(rest, " ")
		if peer != p.peer.Name {
			return nil
		}
		line = text
	}
	who := ""
	if strings.HasPrefix(line, "@") {
		who, line, _ = strings.Cut(line, " ")
	}
	kind, rest, _ := strings.Cut(line, " ")
	switch {
	case kind == "" || kind[0] == '#' || strings.HasSuffix(kind, "|"):
		return nil
	case kind == "do":
		words := strings.Fields(rest)
		if len(words) == 0 || p.peer.Hooks[words[0]] == nil {
			return fmt.Errorf("no hook for %q", line)
		}
		return p.peer.Hooks[words[0]](ctx, words[1:])
	case kind == "start":
		if old := p.sessions[who]; old != nil {
			p.end(old)
			delete(p.sessions, who)
		}
		s, seen, err := p.start(ctx, strings.Fields(rest))
		if s != nil {
			p.sessions[who] = s
		}
		p.keep(number, line, seen)
		return err
	}
	s := p.sessions[who]
	if s == nil {
		var seen []string
		var err error
		if s, seen, err = p.start(ctx, nil); err != nil {
			return fmt.Errorf("start session: %w", err)
		}
		if s == nil {
			return fmt.Errorf("start session: %q", seen)
		}
		p.sessions[who] = s
	}
	switch kind {
	case "cancel":
		p.record.Types["CancelRequest>"] = true
		key := slices.Clone(s.key)
		if rest == "wrong" {
			key[len(key)-1] ^= 1
		}
		return p.cancel(ctx, key)
	case "send":
		return s.flush()
	case "wait":
		what, count, _ := strings.Cut(rest, " ")
		n, err := strconv.Atoi(count)
		if err != nil {
			n = 1
		}
		seen, err := p.wait(s, what, n)
		p.keep(number, line, seen)
		return err
	}
	message, err := parse(kind, rest)
	if err != nil {
		return err
	}
	if kind != "raw" {
		p.record.Types[kind+">"] = true
	}
	s.out = append(s.out, message...)
	return nil
}

func (p *player) keep(number int, line string, seen []string) {
	for i, text := range seen {
		seen[i] = strings.ReplaceAll(text, p.database(), "{database}")
	}
	p.record.Steps = append(p.record.Steps, Step{Number: number, Text: line, Seen: seen})
}

// wait reads until the count-th message of the kind has come, or the end of the connection where kind is "end".
func (p *player) wait(s *session, kind string, count int) (seen []string, err error) {
	if err := s.flush(); err != nil && kind != "end" {
		return nil, fmt.Errorf("send: %w", err)
	}
	for count > 0 {
		message, err := s.receive()
		switch {
		case err != nil && kind == "end" && !isTimeout(err):
			return append(seen, "end"), nil
		case err != nil:
			return seen, fmt.Errorf("receive: %w", err)
		}
		p.record.Types["<"+typeOf(message)] = true
		text := summary(message)
		seen = append(seen, text)
		if strings.HasPrefix(text, kind) {
			count--
		}
	}
	return seen, nil
}

// Compare returns how what was seen at PostgreSQL and at barkeep differs, other than the transcript says.
func Compare(transcript string, postgres, barkeep *Record) error {
	lines := strings.Split(transcript, "\n")
	var wrong []error
	at := func(r *Record) map[int][]string {
		seen := map[int][]string{}
		for _, step := range r.Steps {
			seen[step.Number] = step.Seen
		}
		return seen
	}
	direct, through := at(postgres), at(barkeep)
	for number := range len(lines) + 1 {
		notes := map[string][]string{}
		for _, line := range lines[min(number, len(lines)):] {
			who, text, ok := strings.Cut(strings.TrimSpace(line), "| ")
			if !ok || who != postgresName && who != barkeepName {
				break
			}
			notes[who] = append(notes[who], text)
		}
		d, inDirect := direct[number]
		t, inThrough := through[number]
		switch {
		case !inDirect && !inThrough:
			continue
		case len(notes) > 0 && inDirect && !begin(d, notes[postgresName]), len(notes) > 0 && inThrough && !begin(t, notes[barkeepName]),
			len(notes) == 0 && inDirect && inThrough && !slices.EqualFunc(d, t, same):
			wrong = append(wrong, fmt.Errorf("line %d, %s\n  postgres:\n    %s\n  barkeep:\n    %s",
				number, lines[number-1], strings.Join(d, "\n    "), strings.Join(t, "\n    ")))
		}
	}
	return errors.Join(wrong...)
}

const postgresName, barkeepName = "postgres", "barkeep"

// same reports whether two messages are the same. An error that barkeep makes names no place in PostgreSQL's source.
func same(direct, through string) bool {
	if strings.HasPrefix(direct, "E ") && !strings.Contains(through, "\tF=") {
		kept := slices.DeleteFunc(strings.Split(direct, "\t"), func(field string) bool {
			return strings.HasPrefix(field, "F=") || strings.HasPrefix(field, "L=") || strings.HasPrefix(field, "R=")
		})
		direct = strings.Join(kept, "\t")
	}
	return direct == through
}

// begin reports whether each text begins as is said of it.
func begin(seen, notes []string) bool {
	return slices.EqualFunc(seen, notes, strings.HasPrefix)
}
