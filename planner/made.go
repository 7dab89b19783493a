package planner

import (
	"slices"
	"strconv"

	pg "github.com/pganalyze/pg_query_go/v6"
	"google.golang.org/protobuf/proto"
)

// origin is where the values of a column come from: a column of a scan, or constants.
type origin struct {
	ref
	// values are expressions without columns, one of which the value is.
	values []*pg.Node
	// series is a call of generate_series that gives the value.
	series *pg.FuncCall
	// asked gives the values that an item of the user's data has; instant says that only timestamptz will do.
	asked   *question
	instant bool
}

func (o origin) made() bool { return o.series != nil || len(o.values) > 0 || o.asked != nil }

const seriesName = "generate_series"

// isSeries reports whether a call is generate_series of two points and a step.
func isSeries(f *pg.FuncCall) bool {
	name, ok := callName(f.GetFuncname())
	return ok && name == seriesName && len(f.GetArgs()) >= 2 && f.GetOver() == nil && !f.GetFuncVariadic()
}

// functionItem is a function in a FROM clause: generate_series has one column, others are not known.
func functionItem(n *pg.RangeFunction) *item {
	it := &item{opaque: true}
	alias := n.GetAlias()
	it.alias = alias.GetAliasname()
	if n.GetOrdinality() || n.GetIsRowsfrom() || len(n.GetFunctions()) != 1 || len(n.GetColdeflist()) > 0 || len(alias.GetColnames()) > 1 {
		return it
	}
	call := n.GetFunctions()[0].GetList().GetItems()
	if len(call) == 0 || !isSeries(call[0].GetFuncCall()) {
		return it
	}
	name := seriesName
	if it.alias == "" {
		it.alias = seriesName
	} else {
		name = it.alias
	}
	for _, col := range alias.GetColnames() {
		name = col.GetString_().GetSval()
	}
	it.opaque, it.series, it.columns = false, call[0].GetFuncCall(), []string{name}
	return it
}

// valueNames returns the names of the columns of VALUES.
func valueNames(it *item) []string {
	names := slices.Clone(it.columns)
	for i := len(names); i < len(it.sub.GetValuesLists()[0].GetList().GetItems()); i++ {
		names = append(names, "column"+strconv.Itoa(i+1))
	}
	return names
}

// madeColumn returns where the values of a subquery's column come from, if that is no column of its FROM clause.
func (a *analyzer) madeColumn(it *item, col string) (origin, bool) {
	if lists := it.sub.GetValuesLists(); len(lists) > 0 {
		at := slices.Index(valueNames(it), col)
		if at < 0 {
			return origin{}, false
		}
		o := origin{ref: ref{it, col}}
		for _, list := range lists {
			items := list.GetList().GetItems()
			if at >= len(items) || anyColumn(items[at]) || hasSelect(items[at]) {
				return origin{}, false
			}
			o.values = append(o.values, items[at])
		}
		return o, true
	}
	node := targetOf(it, col)
	switch {
	case node == nil || node.GetColumnRef() != nil || anyColumn(node) || hasSelect(node):
		return origin{}, false
	case isSeries(node.GetFuncCall()):
		return origin{ref: ref{it, col}, series: node.GetFuncCall()}, true
	}
	return origin{ref: ref{it, col}, values: []*pg.Node{node}}, true
}

// extreme returns the column of which a subquery's column is the least or the greatest value, nil if it is not.
func extreme(it *item, col string) *pg.ColumnRef {
	f := targetOf(it, col).GetFuncCall()
	name, ok := callName(f.GetFuncname())
	if !ok || name != "min" && name != "max" || len(f.GetArgs()) != 1 {
		return nil
	}
	return f.GetArgs()[0].GetColumnRef()
}

// targetOf returns the expression of the one output column of that name, nil where that is not certain.
func targetOf(it *item, col string) *pg.Node {
	targets := it.sub.GetTargetList()
	var found *pg.Node
	for i, target := range targets {
		t := target.GetResTarget()
		if isStar(t.GetVal().GetColumnRef().GetFields()) || expands(t.GetVal()) {
			return nil
		}
		name := t.GetName()
		if name == "" {
			name = lastName(t.GetVal().GetFuncCall().GetFuncname())
		}
		if i < len(it.columns) {
			name = it.columns[i]
		}
		switch {
		case name != col:
		case found != nil:
			return nil
		default:
			found = t.GetVal()
		}
	}
	return found
}

func hasSelect(node *pg.Node) bool {
	found := false
	walk(node, func(m proto.Message) bool {
		_, is := m.(*pg.SelectStmt)
		found = found || is
		return !found
	})
	return found
}

// steps reports whether a link's function of the column, which was understood as one of a timestamptz, is the same of what the
// constants are: of a timestamp AT TIME ZONE goes the other way, and a text loses its zone where it is cast to one.
func (o origin) steps(e *evaluator, fn *derived) bool {
	kinds := make([]kind, 0, len(o.values)+1)
	for _, node := range o.values {
		if v := e.eval(node); !v.null {
			kinds = append(kinds, v.kind)
		}
	}
	if o.series != nil {
		k := e.eval(o.series.GetArgs()[0]).kind
		if k != kindTimestamp {
			k = kindTimestamptz // also of dates, and of literals without a type
		}
		kinds = append(kinds, k)
	}
	same := e.env.utc() && !slices.ContainsFunc(fn.steps, func(s step) bool { return s.zone != nil || s.kind == stepBucket })
	typed := slices.Contains(kinds, kindTimestamptz) // then all of them are
	for _, k := range kinds {
		if !typed && (!same || k != kindTimestamp && k != kindDate) {
			return false
		}
	}
	return true
}

// holds returns the rows whose column has a value that the origin's constants give; false where those are not known. Alone says
// that one constant is all that the column is made of.
func (o origin) holds(e *evaluator, col string, alone bool) (box, bool) {
	if o.asked != nil {
		return o.askedRows(e, col)
	}
	out := box{symbols: everyName(), timeframes: everyName(), ts: always()}
	if o.series != nil {
		args := o.series.GetArgs()
		first, last := e.eval(args[0]).kind, e.eval(args[1]).kind
		low, high := e.time(args[0]), e.time(args[1])
		if first != last && (first != kindTimestamptz || last != kindUnknown) && (first != kindUnknown || last != kindTimestamptz) {
			return box{}, false // the literal is of the other's type
		}
		if col != colTS || low.kind == kindOpaque || high.kind == kindOpaque || low.null || high.null {
			return box{}, false
		}
		// It may go down, and of wall clocks it is not monotone where a zone's clock is set back.
		from, to := min(low.lo, high.lo), max(low.hi, high.hi)
		if !e.env.utc() {
			from, to = from.Shift(-e.env.zoneShift()), to.Shift(e.env.zoneShift())
		}
		out.ts = within(from, to)
		return out, true
	}
	out.ts, out.symbols, out.timeframes = nil, names{}, names{}
	if col == colTS && !alone && !slices.ContainsFunc(o.values, func(n *pg.Node) bool { return e.eval(n).kind == kindTimestamptz }) {
		return box{}, false // all of them have one type, which is not this
	}
	for _, node := range o.values {
		v := e.text(node)
		if col == colTS {
			v = e.time(node)
		}
		switch {
		case v.null:
		case v.kind == kindOpaque, col == colTS && v.lo == v.hi && v.lo.IsInf():
			return box{}, false // the infinities lie in no set
		case col == colTS:
			out.ts = out.ts.Union(within(v.lo, v.hi))
		default:
			out.symbols, out.timeframes = out.symbols.union(someNames(v.text)), out.timeframes.union(someNames(v.text))
		}
	}
	return out, true
}
