// Command mutation shows that the planner's differential test notices a weakened rule: it puts one mutation at a time into a copy
// of the planner's source, runs the test on it, and prints after how many statements an answer differed. It fails where
// a mutation does not fit the source any more, and where one is not noticed. It reads TEST_DATABASE_URL as the test does.
package main

import (
	"bytes"
	"cmp"
	"context"
	_ "embed" // the mutations
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

//go:embed mutations.txt
var list string

// mutation replaces a text of a source file by another.
type mutation struct{ rule, what, file, old, with string }

// parse reads mutations.txt.
func parse(text string) ([]mutation, error) {
	var all []mutation
	for _, block := range strings.Split(text, "\n# ")[1:] {
		title, rest, _ := strings.Cut(block, "\n")
		file, rest, _ := strings.Cut(rest, "\n")
		old, with, ok := strings.Cut(rest, "\n=>\n")
		m := mutation{file: file, old: old, with: strings.TrimRight(with, "\n")}
		m.rule, m.what, _ = strings.Cut(title, " ")
		if _, err := strconv.Atoi(m.rule); err != nil || !ok || m.what == "" || m.old == "" || m.old == m.with {
			return nil, fmt.Errorf("read mutation %q: rule, title, file and two texts are needed", title)
		}
		all = append(all, m)
	}
	return all, nil
}

// apply returns the source with the mutation in it; its text must be there once.
func (m mutation) apply(source string) (string, error) {
	if n := strings.Count(source, m.old); n != 1 {
		return "", fmt.Errorf("apply %q to %s: its text is there %d times", m.what, m.file, n)
	}
	return strings.Replace(source, m.old, m.with, 1), nil
}

var (
	statement   = regexp.MustCompile(`PLANNER_SEED=\d+ statement (\d+)`)
	errUnbroken = errors.New("mutations are left unnoticed")
)

// runner runs the test on mutated copies of the planner.
type runner struct {
	root, scratch, seed string
	statements          int
	out                 io.Writer
}

// notice returns after how many statements the test notices the mutation, zero where it does not, and what it said.
func (r runner) notice(ctx context.Context, m mutation) (n int, said string, err error) {
	path := filepath.Join(r.root, "planner", m.file)
	source, err := os.ReadFile(path) //nolint:gosec // a file of the repository
	if err != nil {
		return 0, "", fmt.Errorf("read source: %w", err)
	}
	mutated, err := m.apply(string(source))
	if err != nil {
		return 0, "", err
	}
	replacement, overlay, binary := filepath.Join(r.scratch, "mutated.go"), filepath.Join(r.scratch, "overlay.json"), filepath.Join(r.scratch, "planner.test")
	replaced, err := json.Marshal(map[string]map[string]string{"Replace": {path: replacement}})
	if err != nil {
		return 0, "", fmt.Errorf("encode overlay: %w", err)
	}
	if err := errors.Join(os.WriteFile(replacement, []byte(mutated), 0o600), os.WriteFile(overlay, replaced, 0o600)); err != nil { //nolint:gosec // a folder of its own
		return 0, "", fmt.Errorf("write mutated source: %w", err)
	}
	if said, err := r.run(ctx, nil, "go", "test", "-c", "-vet=off", "-overlay", overlay, "-o", binary, "./planner"); err != nil {
		return 0, "", fmt.Errorf("build %q: %w\n%s", m.what, err, said)
	}
	said, err = r.run(ctx, []string{"PLANNER_SEED=" + r.seed, "PLANNER_STATEMENTS=" + strconv.Itoa(r.statements)},
		binary, "-test.run", "^TestDifferential$", "-test.timeout", "30m")
	if found := statement.FindStringSubmatch(said); err != nil && found != nil {
		n, err = strconv.Atoi(found[1])
		return n, said, err
	}
	if err != nil {
		return 0, "", fmt.Errorf("run the test with %q: %w\n%s", m.what, err, said)
	}
	return 0, said, nil
}

func (r runner) run(ctx context.Context, env []string, name string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, name, args...) //nolint:gosec // what this program itself has made
	cmd.Dir, cmd.Env = r.root, append(os.Environ(), env...)
	if name != "go" {
		cmd.Dir = filepath.Join(r.root, "planner")
	}
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	err := cmd.Run()
	return said.String(), err
}

// all prints a table of the mutations that fit the pattern.
func (r runner) all(ctx context.Context, mutations []mutation, pattern *regexp.Regexp, explain bool) error {
	unnoticed := 0
	_, _ = fmt.Fprintln(r.out, "| rule | what is weakened | noticed after |\n|---|---|---|")
	for _, m := range mutations {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if !pattern.MatchString(m.rule + " " + m.what) {
			continue
		}
		n, said, err := r.notice(ctx, m)
		switch {
		case err != nil:
			unnoticed++
			_, _ = fmt.Fprintf(r.out, "| %s | %s | **%v** |\n", m.rule, m.what, err)
		case n == 0:
			unnoticed++
			_, _ = fmt.Fprintf(r.out, "| %s | %s | **not in %d statements** |\n", m.rule, m.what, r.statements)
		default:
			_, _ = fmt.Fprintf(r.out, "| %s | %s | %d |\n", m.rule, m.what, n)
		}
		if explain {
			_, _ = fmt.Fprintln(r.out, said)
		}
	}
	if unnoticed > 0 {
		return fmt.Errorf("%w: %d", errUnbroken, unnoticed)
	}
	return nil
}

func main() {
	statements := flag.Int("statements", 40_000, "how many statements a mutation may survive")
	seed := flag.Uint64("seed", 1, "the seed of the statements")
	pattern := flag.String("run", ".", "only the mutations whose rule and title match")
	explain := flag.Bool("v", false, "print what the test says")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	err := run(ctx, *statements, *seed, *pattern, *explain)
	stop()
	if err != nil {
		_, _ = fmt.Fprintln(os.Stderr, "mutation:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, statements int, seed uint64, pattern string, explain bool) error {
	match, err := regexp.Compile(pattern)
	if err != nil {
		return fmt.Errorf("read -run: %w", err)
	}
	mutations, err := parse(list)
	if err != nil {
		return err
	}
	slices.SortStableFunc(mutations, func(a, b mutation) int { return cmp.Compare(len(a.rule), len(b.rule)) })
	root, err := os.Getwd()
	if err != nil {
		return fmt.Errorf("find the repository: %w", err)
	}
	scratch, err := os.MkdirTemp("", "mutation")
	if err != nil {
		return fmt.Errorf("make a folder: %w", err)
	}
	defer func() { _ = os.RemoveAll(scratch) }()
	r := runner{root: root, scratch: scratch, seed: strconv.FormatUint(seed, 10), statements: statements, out: os.Stdout}
	return r.all(ctx, mutations, match, explain)
}
