package main

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// switchFile declares the variable by which a function chooses its copy; empty it chooses none.
const switchFile = `package planner

import "os"

var mutant = os.Getenv("PLANNER_MUTANT")
`

// weave puts a mutated copy beside the function that a mutation is in, which calls it where PLANNER_MUTANT is the mutation's number: so
// all of them are built at once. It leaves out a mutation that is not in one function, and says which it has put in.
func weave(source string, mutations map[int]mutation) (out string, woven []int) {
	type call struct {
		at   int
		text string
	}
	var calls []call
	var copies strings.Builder
	original, err := parseFile(source)
	if err != nil {
		return source, nil
	}
	for _, i := range slices.Sorted(maps.Keys(mutations)) {
		m := mutations[i]
		mutated, err := m.apply(source)
		if err != nil {
			continue
		}
		after, err := parseFile(mutated)
		if err != nil || len(after.decls) != len(original.decls) {
			continue
		}
		start, end := changed(source, mutated)
		for n, d := range original.decls {
			f, ok := d.(*ast.FuncDecl)
			if !ok || f.Body == nil || original.at(f.Body.Lbrace) >= start || end > original.at(f.Body.Rbrace) {
				continue
			}
			name := f.Name.Name + "Mutant" + strconv.Itoa(i)
			again, ok := callOf(f, name)
			if !ok {
				break
			}
			g := after.decls[n]
			copied := g.(*ast.FuncDecl) //nolint:errcheck,forcetypeassert // what changed is inside one
			_, _ = fmt.Fprintf(&copies, "\n%s%s%s\n", mutated[after.at(g.Pos()):after.at(copied.Name.Pos())], name, mutated[after.at(copied.Name.End()):after.at(g.End())])
			calls = append(calls, call{original.at(f.Body.Lbrace) + 1, fmt.Sprintf("\nif mutant == %q {\n%s\n}\n", strconv.Itoa(i), again)})
			woven = append(woven, i)
		}
	}
	slices.SortFunc(calls, func(a, b call) int { return b.at - a.at })
	for _, c := range calls {
		source = source[:c.at] + c.text + source[c.at:]
	}
	return source + copies.String(), woven
}

// parsed is a source file whose positions are offsets in its text.
type parsed struct {
	decls []ast.Decl
	at    func(token.Pos) int
}

func parseFile(source string) (parsed, error) {
	set := token.NewFileSet()
	f, err := parser.ParseFile(set, "", source, parser.SkipObjectResolution)
	if err != nil {
		return parsed{}, fmt.Errorf("parse source: %w", err)
	}
	return parsed{decls: f.Decls, at: func(p token.Pos) int { return set.Position(p).Offset }}, nil
}

// changed returns the part of a text that another one has in another way.
func changed(before, after string) (start, end int) {
	most := min(len(before), len(after))
	for start < most && before[start] == after[start] {
		start++
	}
	same := 0
	for same < most-start && before[len(before)-1-same] == after[len(after)-1-same] {
		same++
	}
	return start, len(before) - same
}

// callOf calls the function's copy with what the function was given; false where that has no names.
func callOf(f *ast.FuncDecl, name string) (string, bool) {
	if f.Recv != nil {
		if len(f.Recv.List[0].Names) == 0 {
			return "", false
		}
		name = f.Recv.List[0].Names[0].Name + "." + name
	}
	var args []string
	for _, p := range f.Type.Params.List {
		if len(p.Names) == 0 {
			return "", false
		}
		_, variadic := p.Type.(*ast.Ellipsis)
		for _, n := range p.Names {
			if n.Name == "_" {
				return "", false
			}
			args = append(args, n.Name)
		}
		if variadic {
			args[len(args)-1] += "..."
		}
	}
	again := name + "(" + strings.Join(args, ", ") + ")"
	if f.Type.Results == nil {
		return again + "\nreturn", true
	}
	return "return " + again, true
}
