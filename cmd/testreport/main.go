// Command testreport reads the output of `go test -json` and prints what matters: a line for each package, and all that
// a failed test wrote. It fails on a failure, and on a skip unless its reason is that there are no recordings and nobody
// has named any by BARKEEP_TEST_DATA.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
)

// allowedSkip is the one reason for which a test may be skipped.
const allowedSkip = "no recordings"

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
}

// print writes to the report; where nobody reads it any more, the exit code still tells.
func (r *report) print(format string, args ...any) {
	_, _ = fmt.Fprintf(r.out, format, args...)
}

func main() {
	r := &report{out: os.Stdout, output: map[string]*strings.Builder{}, strict: os.Getenv("BARKEEP_TEST_DATA") != ""}
	if err := r.read(os.Stdin); err != nil {
		fmt.Fprintln(os.Stderr, "testreport:", err)
		os.Exit(1)
	}
	os.Exit(r.finish())
}

func (r *report) read(in io.Reader) error {
	lines := bufio.NewScanner(in)
	lines.Buffer(nil, maxLineBytes)
	for lines.Scan() {
		var e event
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			r.print("%s\n", lines.Text()) // what the tool around the tests says
			continue
		}
		r.add(e)
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
		r.bad = append(r.bad, "BUILD "+e.ImportPath)
	case "pass":
		if e.Test != "" {
			r.passed++
		} else {
			r.print("ok    %-40s %6.1f s\n", e.Package, e.Elapsed)
		}
		delete(r.output, key)
	case "fail":
		if e.Test == "" {
			r.print("FAIL  %-40s %6.1f s\n", e.Package, e.Elapsed)
		}
		r.show(key)
		r.bad = append(r.bad, "FAIL "+key)
	case "skip":
		r.skip(e, key)
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
	r.bad = append(r.bad, "SKIP "+key)
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
