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
