package main

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestReport(t *testing.T) {
	t.Parallel()
	cases := []struct {
		name, in string
		code     int
		want     string
	}{
		{"nothing ran", "", 1, "no test ran"},
		{"a pass", `{"Action":"pass","Package":"p","Test":"A"}`, 0, "1 tests passed"},
		{
			"a failure shows its output",
			`{"Action":"output","Package":"p","Test":"A","Output":"boom\n"}` + "\n" + `{"Action":"fail","Package":"p","Test":"A"}`, 1, "boom",
		},
		{"a skip is a failure", `{"Action":"skip","Package":"p","Test":"A"}`, 1, "SKIP p A"},
		{
			"but for recordings",
			`{"Action":"pass","Package":"p","Test":"B"}` + "\n" + `{"Action":"output","Package":"p","Test":"A","Output":"no recordings\n"}` + "\n" + `{"Action":"skip","Package":"p","Test":"A"}`,
			0, "left out: p A",
		},
		{"a build that failed", `{"Action":"build-fail","ImportPath":"p"}`, 1, "BUILD p"},
		{"other text is kept", "started the database\n" + `{"Action":"pass","Package":"p","Test":"A"}`, 0, "started the database"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			var out strings.Builder
			r := &report{out: &out, output: map[string]*strings.Builder{}}
			require.NoError(t, r.read(strings.NewReader(c.in)))
			require.Equal(t, c.code, r.finish())
			require.Contains(t, out.String(), c.want)
		})
	}
}
