package scan_test

import (
	"encoding/json"
	"math"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"barkeep/backfill/source/scan"
)

func TestNumbers(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]float64{`1`: 1, `"2.50"`: 2.5, "\x20-1e-3": -0.001} {
		f, err := scan.New([]byte(text)).Float()
		require.NoError(t, err)
		require.InDelta(t, want, f, 0)
	}
	for _, text := range []string{`"NaN"`, `"Inf"`, `"0x10"`, `"1_0"`, `""`, `null`, `"1e999"`, `[1]`, ``, `"1`} {
		_, err := scan.New([]byte(text)).Float()
		require.Error(t, err, text)
	}
	s := scan.New([]byte(`[null, 1.x4, 2]`))
	seen := 0
	require.NoError(t, s.Array(func() error {
		_, err := s.Float()
		seen++
		if seen < 3 {
			require.ErrorIs(t, err, scan.ErrNumber, "the value has been taken: the next one follows")
			return nil
		}
		return err
	}))
	require.Equal(t, 3, seen)
}

// TestDecimalsAreTheNearestFloats: numbers as vendors write them are what strconv makes of them, bit by bit, and end where they end.
func TestDecimalsAreTheNearestFloats(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		text := rapid.StringMatching(`-?[0-9]{0,21}(\.[0-9]{0,24})?(e-?[0-9])?`).Draw(t, "text")
		want, err := strconv.ParseFloat(text, 64)
		for _, form := range []string{text, text + ",7", `"` + text + `"`, `"` + text + `",7`} {
			s := scan.New([]byte(form))
			got, failure := s.Float()
			require.Equal(t, err != nil, failure != nil, form)
			if err == nil {
				require.Equal(t, math.Float64bits(want), math.Float64bits(got), form)
				require.Equal(t, strings.HasSuffix(form, ",7"), s.Accept(','), form)
			}
		}
	})
}

func TestText(t *testing.T) {
	t.Parallel()
	text, err := scan.New([]byte(`"BTC\/USD ä\""`)).Text()
	require.NoError(t, err)
	require.Equal(t, `BTC/USD ä"`, text)
}

// Whatever encoding/json takes is skipped whole, and nothing makes the scanner fall.
func FuzzSkip(f *testing.F) {
	for _, seed := range []string{`{"a":[1,"b\\\"",null,{}],"c":-1.5e3}`, `[[1,"2"],[]]`, `"`, `{"a"`, `"\`, `tru`} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		s := scan.New(text)
		err := s.Skip()
		if err == nil {
			err = s.End()
		}
		if json.Valid(text) && len(text) < 64 {
			require.NoError(t, err)
		}
	})
}
