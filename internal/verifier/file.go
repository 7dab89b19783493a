package verifier

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"barkeep/internal/scram"
)

// File is a users file: a line for each user, `"name" "SCRAM-SHA-256$…"`, as in the userlist.txt of PgBouncer; a quote in a
// name is doubled. Empty lines and those that begin with a semicolon count for nothing. Other kinds of secrets are errors: no
// login could be made from them. Whether a role's password has expired is the database's to say, which sees each login too.
type File string

// maxFile bounds the file's size, in bytes: each login reads it.
const maxFile = 4 << 20

// Secret returns the user's, as the file has it now. A file that cannot be used is never ErrUnreadable: it could be when barkeep was started, and is
// being written perhaps.
func (f File) Secret(_ context.Context, user string) (Secret, error) {
	users, err := f.read()
	if err != nil {
		return Secret{}, fmt.Errorf("read verifiers: %w", err)
	}
	if v, ok := users[user]; ok {
		return Secret{Verifier: v}, nil
	}
	return Secret{Refusal: refusedUnlisted}, nil
}

func (f File) read() (map[string]scram.Verifier, error) {
	file, err := os.Open(filepath.Clean(string(f)))
	if err != nil {
		return nil, fmt.Errorf("auth.users_file: %w", err)
	}
	defer file.Close() //nolint:errcheck // it was only read
	text, err := io.ReadAll(io.LimitReader(file, maxFile+1))
	if err != nil {
		return nil, fmt.Errorf("auth.users_file: %w", err)
	}
	if len(text) > maxFile {
		return nil, fmt.Errorf("auth.users_file: %s has more than %d bytes", f, maxFile)
	}
	users, err := parseUsers(string(text))
	if err != nil {
		return nil, fmt.Errorf("auth.users_file: %w", err)
	}
	return users, nil
}

// parseUsers reads the lines of a file. Its errors name a line and never what stands there.
func parseUsers(text string) (map[string]scram.Verifier, error) {
	users := map[string]scram.Verifier{}
	number := 0
	for line := range strings.Lines(text) {
		number++
		line = strings.TrimSpace(line)
		if line == "" || line[0] == ';' {
			continue
		}
		name, rest, ok := quoted(line)
		secret, rest, ok2 := quoted(strings.TrimLeft(rest, " \t"))
		if !ok || !ok2 || rest != "" || name == "" {
			return nil, fmt.Errorf(`line %d: it is not "user" "SCRAM-SHA-256$…"`, number)
		}
		v, err := scram.ParseVerifier(secret)
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", number, err)
		}
		if _, there := users[name]; there {
			return nil, fmt.Errorf("line %d: the user was there before", number)
		}
		users[name] = v
	}
	return users, nil
}

// quoted cuts a quoted word from the front of a line.
func quoted(line string) (word, rest string, ok bool) {
	if !strings.HasPrefix(line, `"`) {
		return "", "", false
	}
	var b strings.Builder
	for i := 1; i < len(line); i++ {
		if line[i] != '"' {
			b.WriteByte(line[i])
			continue
		}
		if i+1 < len(line) && line[i+1] == '"' {
			b.WriteByte('"')
			i++
			continue
		}
		return b.String(), line[i+1:], true
	}
	return "", "", false
}
