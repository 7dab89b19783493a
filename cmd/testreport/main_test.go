package main

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestReport(t *testing.T) {
	t.Parallel()
	const leftOut = `{"Action":"pass","Package":"p","Test":"B"}
{"Action":"output","Package":"p","Test":"A","Output":"no recordings\n"}
{"Action":"skip","Package":"p","Test":"A"}`
	cases := []struct {
		name, in string
		code     int
		want     string
		strict   bool
	}{
		{name: "nothing ran", code: 1, want: "no test ran"},
		{name: "a pass", in: `{"Action":"pass","Package":"p","Test":"A"}`, want: "1 passed, 0 failed, 0 skipped"},
		{
			name: "a failure shows its output", code: 1, want: "boom",
			in: `{"Action":"output","Package":"p","Test":"A","Output":"boom\n"}` + "\n" + `{"Action":"fail","Package":"p","Test":"A"}`,
		},
		{name: "a skip is a failure", in: `{"Action":"skip","Package":"p","Test":"A"}`, code: 1, want: "SKIP p A"},
		{name: "but for recordings", in: leftOut, want: "left out: p A"},
		{name: "which are there where they are named", in: leftOut, code: 1, want: "SKIP p A", strict: true},
		{name: "a build that failed", in: `{"Action":"build-fail","ImportPath":"p"}`, code: 1, want: "BUILD p"},
		{name: "a package of which no test ran", in: `{"Action":"pass","Package":"q","Test":"A"}` + "\n" +
			`{"Action":"output","Package":"p","Output":"testing: warning: no tests to run\n"}` + "\n" + `{"Action":"pass","Package":"p"}`, code: 1, want: "NO TEST RAN in p"},
		{name: "the command failed", in: `{"Action":"pass","Package":"p","Test":"A"}` + "\nthe tests ended with 1", code: 1, want: "the tests' command failed, and no test did"},
		{name: "other text is kept", in: "started the database\n" + `{"Action":"pass","Package":"p","Test":"A"}`, want: "started the database"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			var out strings.Builder
			r := &report{out: &out, output: map[string]*strings.Builder{}, strict: c.strict}
			require.NoError(t, r.read(strings.NewReader(c.in)))
			require.Equal(t, c.code, r.finish())
			require.Contains(t, out.String(), c.want)
		})
	}
}

// Only what a second run can speak about is run once more, and only where that passes is a failure taken back.
func TestAgain(t *testing.T) {
	t.Parallel()
	fail := func(test, output string) string {
		return `{"Action":"output","Package":"p","Test":"` + test + `","Output":"` + output + `\n"}` + "\n" +
			`{"Action":"fail","Package":"p","Test":"` + test + `"}` + "\n"
	}
	const pkg = `{"Action":"fail","Package":"p"}`
	for name, c := range map[string]struct {
		in, command, want string
		code              int
	}{
		"passes alone":         {in: fail("A/b", "x") + fail("A", "x") + pkg, command: "true", want: "UNSTEADY p A: it failed"},
		"is told what to run":  {in: fail("A/b", "x") + fail("A", "x") + fail("B", "x") + pkg, command: "echo go test", want: "go test -run ^(A|B)$ p\n"},
		"fails alone":          {in: fail("A", "x") + pkg, command: "false", code: 1, want: "FAIL p A"},
		"no command":           {in: fail("A", "x") + pkg, command: "/does/not/exist", code: 1, want: "FAIL p A"},
		"and the command did":  {in: fail("A", "x") + pkg + "\nthe tests ended with 1\n", command: "true", want: "UNSTEADY p A: it failed"},
		"the command alone":    {in: `{"Action":"pass","Package":"p","Test":"A"}` + "\nthe tests ended with 1\n", command: "true", code: 1, want: "the tests' command failed"},
		"a data race":          {in: fail("A", "WARNING: DATA RACE") + pkg, command: "true", code: 1, want: "FAIL p A"},
		"a panic":              {in: fail("A", "panic: no") + pkg, command: "true", code: 1, want: "FAIL p A"},
		"a test that draws":    {in: fail("TestDifferential", "x") + pkg, command: "true", code: 1, want: "FAIL p TestDifferential"},
		"a package":            {in: pkg, command: "true", code: 1, want: "FAIL p"},
		"a build":              {in: fail("A", "x") + `{"Action":"build-fail","ImportPath":"q"}`, command: "true", code: 1, want: "BUILD q"},
		"a skip":               {in: fail("A", "x") + `{"Action":"skip","Package":"p","Test":"B"}`, command: "true", code: 1, want: "SKIP p B"},
		"more than by chance":  {in: fail("A", "") + fail("B", "") + fail("C", "") + fail("D", "") + fail("E", "") + pkg, command: "true", code: 1, want: "FAIL p E"},
		"nothing failed":       {in: `{"Action":"pass","Package":"p","Test":"A"}`, command: "false", want: "1 passed, 0 failed"},
		"what passed is added": {in: `{"Action":"pass","Package":"p","Test":"A"}` + "\n" + fail("B", "x") + pkg, command: "true", want: "2 passed, 0 failed"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var out strings.Builder
			r := &report{out: &out, output: map[string]*strings.Builder{}}
			require.NoError(t, r.read(strings.NewReader(c.in)))
			r.again(strings.Fields(c.command))
			require.Equal(t, c.code, r.finish())
			require.Contains(t, out.String(), c.want)
		})
	}
}
