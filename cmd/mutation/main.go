// Command mutation shows that the planner's differential test notices a weakened rule: it puts the mutations into a copy
// of the planner's source, runs the test on it with one of them at a time, and prints after how many statements an answer differed. It fails where
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
	explain             bool
	woven               []int // the mutations that one binary has
	out                 io.Writer
}

// notice returns after how many statements the test notices the mutation, zero where it does not, and what it said.
func (r runner) notice(ctx context.Context, index int, m mutation) (n int, said string, err error) {
	binary, env := filepath.Join(r.scratch, "woven.test"), []string{"PLANNER_SEED=" + r.seed, "PLANNER_STATEMENTS=" + strconv.Itoa(r.statements)}
	if !r.explain {
		env = append(env, "PLANNER_SHRINK=0")
	}
	if slices.Contains(r.woven, index) {
		env = append(env, "PLANNER_MUTANT="+strconv.Itoa(index))
	} else if binary, err = r.buildOne(ctx, m); err != nil {
		return 0, "", err
	}
	said, err = r.run(ctx, env, binary, "-test.run", "^TestDifferential$", "-test.timeout", "30m")
	if found := statement.FindStringSubmatch(said); err != nil && found != nil {
		n, err = strconv.Atoi(found[1])
		return n, said, err
	}
	if err != nil {
		return 0, "", fmt.Errorf("run the test with %q: %w\n%s", m.what, err, said)
	}
	return 0, said, nil
}

// buildOne builds the test of a planner that has the mutation in the place of what it weakens.
func (r runner) buildOne(ctx context.Context, m mutation) (binary string, err error) {
	source, err := os.ReadFile(r.path(m.file))
	if err != nil {
		return "", fmt.Errorf("read source: %w", err)
	}
	mutated, err := m.apply(string(source))
	if err != nil {
		return "", err
	}
	binary = filepath.Join(r.scratch, "one.test")
	return binary, r.build(ctx, binary, map[string]string{m.file: mutated})
}

// buildWoven builds the test of a planner that has all mutations beside what they weaken, and says which are in it.
func (r runner) buildWoven(ctx context.Context, mutations []mutation) (woven []int, err error) {
	files := map[string]map[int]mutation{}
	for i, m := range mutations {
		if files[m.file] == nil {
			files[m.file] = map[int]mutation{}
		}
		files[m.file][i] = m
	}
	texts := map[string]string{"mutant.go": switchFile}
	for file, list := range files {
		source, err := os.ReadFile(r.path(file))
		if err != nil {
			return nil, fmt.Errorf("read source: %w", err)
		}
		text, in := weave(string(source), list)
		texts[file] = text
		woven = append(woven, in...)
	}
	return woven, r.build(ctx, filepath.Join(r.scratch, "woven.test"), texts)
}

func (r runner) path(file string) string { return filepath.Join(r.root, "planner", file) }

// build builds the planner's tests with other texts of some of its files.
func (r runner) build(ctx context.Context, binary string, texts map[string]string) error {
	replace, overlay := map[string]string{}, filepath.Join(r.scratch, "overlay.json")
	for file, text := range texts {
		replace[r.path(file)] = filepath.Join(r.scratch, file)
		if err := os.WriteFile(replace[r.path(file)], []byte(text), 0o600); err != nil {
			return fmt.Errorf("write mutated source: %w", err)
		}
	}
	encoded, err := json.Marshal(map[string]map[string]string{"Replace": replace})
	if err != nil {
		return fmt.Errorf("encode overlay: %w", err)
	}
	if err := os.WriteFile(overlay, encoded, 0o600); err != nil {
		return fmt.Errorf("write overlay: %w", err)
	}
	if said, err := r.run(ctx, nil, "go", "test", "-c", "-vet=off", "-ldflags=-s -w", "-overlay", overlay, "-o", binary, "./planner"); err != nil {
		return fmt.Errorf("build the test: %w\n%s", err, said)
	}
	return nil
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
func (r runner) all(ctx context.Context, mutations []mutation, pattern *regexp.Regexp) error {
	var err error
	if r.woven, err = r.buildWoven(ctx, mutations); err != nil {
		return err
	}
	unnoticed := 0
	_, _ = fmt.Fprintln(r.out, "| rule | what is weakened | noticed after |\n|---|---|---|")
	for i, m := range mutations {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if !pattern.MatchString(m.rule + " " + m.what) {
			continue
		}
		n, said, err := r.notice(ctx, i, m)
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
		if r.explain {
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
	slices.SortStableFunc(mutations, func(a, b mutation) int {
		return cmp.Or(cmp.Compare(len(a.rule), len(b.rule)), cmp.Compare(a.rule, b.rule))
	})
	root, err := os.Getwd()
	if err != nil {
		return fmt.Errorf("find the repository: %w", err)
	}
	scratch, err := os.MkdirTemp("", "mutation")
	if err != nil {
		return fmt.Errorf("make a folder: %w", err)
	}
	defer func() { _ = os.RemoveAll(scratch) }()
	r := runner{root: root, scratch: scratch, seed: strconv.FormatUint(seed, 10), statements: statements, explain: explain, out: os.Stdout}
	return r.all(ctx, mutations, match)
}
