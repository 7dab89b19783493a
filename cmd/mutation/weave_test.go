package main

import (
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestWeave: a function calls its mutated copy with what it was given; what is in no function, or in one whose parameters have no names,
// stays as it is.
func TestWeave(t *testing.T) {
	t.Parallel()
	source := `package planner

var flipped = map[string]string{"<": ">"}

// sum adds.
func (e *evaluator) sum(first int, rest ...int) (n int) {
	n = first
	return n + len(rest)
}

func clear(to *int) { *to = 0 }

func note(to *int, _ int) { *to = 1 }
`
	mutations := map[int]mutation{
		1: {old: `{"<": ">"}`, with: `{"<": "<"}`},
		2: {old: "\treturn n + len(rest)\n", with: "\treturn n - len(rest)\n"},
		3: {old: "{ *to = 0 }", with: "{ *to = 2 }"},
		4: {old: "*to = 1", with: "*to = 3"},
		5: {old: "n = first\n\treturn", with: "n = 0\n\treturn"},
		6: {old: "nothing there", with: ""},
	}
	text, woven := weave(source, mutations)
	slices.Sort(woven)
	require.Equal(t, []int{2, 3, 5}, woven)
	require.Contains(t, text, `var flipped = map[string]string{"<": ">"}`)
	require.Contains(t, text, "func note(to *int, _ int) { *to = 1 }\n")
	require.Contains(t, text, "func clear(to *int) {\nif mutant == \"3\" {\nclearMutant3(to)\nreturn\n}\n *to = 0 }\n")
	require.Contains(t, text, "\nfunc clearMutant3(to *int) { *to = 2 }\n")
	require.Contains(t, text, "\nif mutant == \"2\" {\nreturn e.sumMutant2(first, rest...)\n}\n")
	require.Contains(t, text, "\nfunc (e *evaluator) sumMutant2(first int, rest ...int) (n int) {\n\tn = first\n\treturn n - len(rest)\n}\n")
	require.Contains(t, text, "\nfunc (e *evaluator) sumMutant5(first int, rest ...int) (n int) {\n\tn = 0\n\treturn n + len(rest)\n}\n")
	_, err := parseFile(text)
	require.NoError(t, err)
}
