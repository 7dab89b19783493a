// Command testreport reads the output of `go test -json` and prints what matters: a line for each package, and all that
// a failed test wrote. It fails on a failure, and on a skip unless its reason is that there are no recordings and nobody
// has named any by BARKEEP_TEST_DATA.
//
// With -again a few tests that failed among all the others are run once more by that command, alone: it is given -run and the package, and
// is to run each several times. Those that pass then are named as UNSTEADY, with what they had written, and do not fail the run: on two processors a
// time limit of a test may run out beside others. A data race, a panic, a build or a whole package that failed, a skip, and
// what fails in a test that draws its cases stay failures: there the chance is what was tested.
//
// A package of which -run left no test fails: a test that was renamed is not one that passed. A line "the tests ended with" and a code says that
// the command that wrote all that has failed, which is a failure of its own where no test tells of one.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
)

// allowedSkip is the one reason for which a test may be skipped.
const allowedSkip = "no recordings"

// ended begins the line that says that the tests' command has failed.
const ended = "the tests ended with "

// maxLineBytes bounds a line of output; longer ones end the report with an error.
const maxLineBytes = 64 << 20

// event is a line of test2json.
type event struct {
	Action, Package, ImportPath, Test, Output string
	Elapsed                                   float64
}

type report struct {
	out    io.Writer
	output map[string]*strings.Builder
	// strict is set where there are recordings: then no skip is allowed.
	strict bool
	passed int
	left   int
	bad    []string
	// failed are the tests that failed, by package; firm says that one of the failures is none that a second run could take back.
	failed map[string][]string
	firm   bool
	// ended is that the command has failed.
	ended bool
}

// maxUnsteady bounds how many tests are run once more: where more fail it is not by chance.
const maxUnsteady = 4

var (
	firmOutput = regexp.MustCompile(`DATA RACE|(?m)^(panic|fatal error): |test timed out`)
	firmTests  = regexp.MustCompile(`Random|Differential|Model|Fuzz|Chaos|Soak|Corpus|Adversar|Hostile`)
)

// print writes to the report; where nobody reads it any more, the exit code still tells.
func (r *report) print(format string, args ...any) {
	_, _ = fmt.Fprintf(r.out, format, args...)
}

func main() {
	again := flag.String("again", "", "the command that runs tests which failed once more; -run and a package are added")
	flag.Parse()
	r := &report{out: os.Stdout, output: map[string]*strings.Builder{}, strict: os.Getenv("BARKEEP_TEST_DATA") != ""}
	if err := r.read(os.Stdin); err != nil {
		fmt.Fprintln(os.Stderr, "testreport:", err)
		os.Exit(1)
	}
	if *again != "" {
		r.again(strings.Fields(*again))
	}
	os.Exit(r.finish())
}

// again runs the failed tests by the command, and takes their failures back where all pass.
func (r *report) again(command []string) {
	count := 0
	for _, tests := range r.failed {
		count += len(tests)
	}
	if count == 0 || count > maxUnsteady || r.firm {
		return
	}
	for pkg, tests := range r.failed {
		args := append(slices.Clone(command[1:]), "-run", "^("+strings.Join(tests, "|")+")$", pkg)
		r.print("once more, alone: %s %s\n", command[0], strings.Join(args, " "))
		cmd := exec.CommandContext(context.Background(), command[0], args...) //nolint:gosec // the Makefile gives it
		cmd.Stdout, cmd.Stderr = r.out, r.out
		if err := cmd.Run(); err != nil {
			r.print("%s: %v\n", pkg, err)
			return
		}
	}
	r.bad, r.passed = nil, r.passed+count
	for pkg, tests := range r.failed {
		for _, test := range tests {
			r.print("UNSTEADY %s %s: it failed among the others, and passed alone\n", pkg, test)
		}
	}
}

func (r *report) read(in io.Reader) error {
	lines := bufio.NewScanner(in)
	lines.Buffer(nil, maxLineBytes)
	for lines.Scan() {
		var e event
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			r.ended = r.ended || strings.HasPrefix(lines.Text(), ended)
			r.print("%s\n", lines.Text()) // what the tool around the tests says
			continue
		}
		r.add(e)
	}
	if r.ended && len(r.bad) == 0 {
		r.bad, r.firm = append(r.bad, "the tests' command failed, and no test did"), true
	}
	return lines.Err()
}

func (r *report) add(e event) {
	key := e.Package + " " + e.Test
	switch e.Action {
	case "output":
		if r.output[key] == nil {
			r.output[key] = &strings.Builder{}
		}
		r.output[key].WriteString(e.Output)
	case "build-output":
		r.print("%s", e.Output)
	case "build-fail":
		r.bad, r.firm = append(r.bad, "BUILD "+e.ImportPath), true
	case "pass":
		if e.Test != "" {
			r.passed++
		} else {
			r.print("ok    %-40s %6.1f s\n", e.Package, e.Elapsed)
			if text := r.output[key]; text != nil && strings.Contains(text.String(), "testing: warning: no tests to run") {
				r.bad, r.firm = append(r.bad, "NO TEST RAN in "+e.Package), true
			}
		}
		delete(r.output, key)
	case "fail":
		if e.Test == "" {
			r.print("FAIL  %-40s %6.1f s\n", e.Package, e.Elapsed)
		}
		r.note(e, key)
		r.show(key)
		r.bad = append(r.bad, "FAIL "+key)
	case "skip":
		r.skip(e, key)
	}
}

// note remembers a failure, and whether it is firm.
func (r *report) note(e event, key string) {
	if text := r.output[key]; text != nil && firmOutput.MatchString(text.String()) {
		r.firm = true
	}
	if e.Test == "" {
		r.firm = r.firm || len(r.failed[e.Package]) == 0
		return
	}
	test, _, _ := strings.Cut(e.Test, "/")
	r.firm = r.firm || firmTests.MatchString(e.Test)
	if r.failed == nil {
		r.failed = map[string][]string{}
	}
	if !slices.Contains(r.failed[e.Package], test) {
		r.failed[e.Package] = append(r.failed[e.Package], test)
	}
}

func (r *report) skip(e event, key string) {
	defer delete(r.output, key)
	if e.Test == "" { // a package without tests
		return
	}
	text := ""
	if r.output[key] != nil {
		text = r.output[key].String()
	}
	if strings.Contains(text, allowedSkip) && !r.strict {
		r.left++
		r.print("left out: %s (%s)\n", key, allowedSkip)
		return
	}
	r.show(key)
	r.bad, r.firm = append(r.bad, "SKIP "+key), true
}

func (r *report) show(key string) {
	if text := r.output[key]; text != nil {
		r.print("%s", text.String())
		delete(r.output, key)
	}
}

func (r *report) finish() (code int) {
	if r.passed == 0 && len(r.bad) == 0 {
		r.bad = append(r.bad, "no test ran")
	}
	r.print("%d passed, %d failed, %d skipped\n", r.passed, len(r.bad), r.left)
	for _, line := range r.bad {
		r.print("%s\n", line)
	}
	if len(r.bad) > 0 {
		return 1
	}
	return 0
}
