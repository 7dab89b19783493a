package proxy

import (
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
)

// The statements of transcripts. A row that begins with "bars" says how many bars there were, so that one without all of them is found
// whatever else differs.
const (
	ofBars      = " from ohlcv where symbol = 'sim:BTCUSD' and timeframe = '1m' and ts >= '2024-01-01Z' and ts < '2024-01-02Z'"
	ofAsked     = " from ohlcv where symbol = $1 and timeframe = '1m' and ts >= '2024-01-01Z' and ts < '2024-01-02Z'"
	readText    = "select 'bars' as what, count(*) as n" + ofBars
	readRows    = "select 'bars' as what, (select count(*)" + ofBars + ") as n from generate_series(1, 3)"
	readAsking  = "select 'bars', count(*)" + ofAsked
	readCloses  = "select close::int" + ofAsked + " order by ts"
	readLocal   = "select count(*) from ohlcv where symbol = 'sim:BTCUSD' and timeframe = '1m' and ts >= '2024-01-01 00:05' and ts < '2024-01-02'"
	readFailing = "select 1/(close - 1)::int from ohlcv where symbol = 'sim:ETHUSD' and timeframe = '1m' and ts >= '2024-01-01Z' and ts < '2024-01-02Z'"
	noBars      = "select 'bars' as what, 10::bigint as n"
	ofView      = "select what, n from v"
	ofFunction  = "select 'bars' as what, pg_temp.f() as n"
	allBars     = "10" // as many as there are of each symbol

	// guarding makes, for all transcripts, a table whose trigger refuses each row, and another ohlcv.
	guarding = `create table public.guarded (a int);
 create function public.guard() returns trigger language plpgsql as $$ begin raise exception 'no'; end $$;
 create trigger guard before insert on public.guarded for each statement execute function public.guard();
 create schema nearer; create table nearer.ohlcv (like public.ohlcv)`
)

var (
	plainTexts = []string{
		"select 1", "select 2", "select generate_series(1, 3)", "select 1/0", "nonsense", "", "insert into t values (1)", "select count(*) from t",
		"copy t to stdout", "select 1; select 2", "delete from t", "truncate t", "values (1), (2)", "insert into t values (2), (3)",
	}
	blockTexts = []string{
		"begin", "begin", "begin", "commit", "rollback", "savepoint s", "savepoint s", "rollback to s", "rollback to s", "rollback to s", "release s",
		"start transaction read only", "commit and chain", "rollback and chain", "prepare transaction 'x'", "begin; " + readText,
	}
	repeatableTexts = []string{
		"begin isolation level repeatable read", "begin isolation level serializable", "set transaction isolation level repeatable read",
	}
	askingTexts = []string{"select $1::int + 1", "select $1::text", "insert into t values ($1::int)", "select generate_series(1, $1::int)"}
	copyTexts   = []string{"copy t from stdin", "copy nowhere from stdin", "copy t (b) from stdin", "copy guarded from stdin", "copy t from stdin"}
	nameTexts   = []string{
		"execute a", "execute a", "execute a", "execute b('sim:ETHUSD')", "execute b('sim:BTCUSD')", "deallocate a", "deallocate a", "deallocate b",
		"deallocate all", "create temp table m as execute a", "explain (costs off) execute a", "discard plans",
	}
	cursorTexts = []string{
		"fetch 2 from k", "fetch 1 from p", "fetch 2 from q", "fetch all from k", "fetch all from q", "move 1 in k", "move 1 in p", "close k",
		"close p", "close all",
	}
	settingTexts = []string{
		"set local timezone to 'Asia/Tokyo'", "set timezone to 'UTC'", "set timezone to 'America/New_York'", "set local search_path to nearer, public",
		"set search_path to public", "set local role pg_read_all_data", "reset role", "reset all", "discard all", "set local datestyle to 'German'",
	}
	madeTexts = []string{"drop view v", "drop table m", "drop function pg_temp.f()", "table m", ofView, ofFunction}
)

// writer writes one transcript.
type writer struct {
	*rand.Rand
	lines []string
	// steps says that what was sent is answered, mostly, before more is.
	steps      bool
	repeatable bool
	open       bool // a segment is
	unnamed    bool // a Bind of the unnamed portal came in the segment
}

func (w *writer) add(lines ...string) {
	for _, line := range lines {
		if w.steps && w.open && strings.ContainsAny(line[:1], "QF") {
			w.sync()
		}
		if !w.unnamed {
			line = strings.Replace(line, "E -", "E p", 1) // that of a Query that has failed can end PostgreSQL 17.12
		}
		w.unnamed = strings.HasPrefix(line, "B - ") || w.unnamed && line[0] != 'Q' && line != "S"
		w.open = strings.ContainsAny(line[:1], "PBDECH") || w.open && line != "S"
		w.lines = append(w.lines, line)
		if w.steps && (line[0] == 'Q' || line[0] == 'F') && !w.chance(4) {
			w.lines = append(w.lines, "await")
		}
	}
}

// sync ends a segment.
func (w *writer) sync() {
	w.lines, w.open, w.unnamed = append(w.lines, "S"), false, false
	if !w.chance(4) {
		w.lines = append(w.lines, "await")
	}
}

func (w *writer) one(list ...string) string { return list[w.IntN(len(list))] }

// chance is true once in so many times.
func (w *writer) chance(n int) bool { return w.IntN(n) == 0 }

// pipeline writes a transcript: one by steps, or one that is sent without a look at the answers. Where bars are not there, a block sees those
// that come later, if its level is READ COMMITTED.
func pipeline(random *rand.Rand) []string {
	w := &writer{Rand: random, steps: random.IntN(2) == 0, repeatable: random.IntN(4) == 0}
	for range 4 + w.IntN(24) {
		if w.steps {
			w.step()
		} else {
			w.more()
		}
	}
	return w.lines
}

// text is a statement without parameters.
func (w *writer) text() string {
	kind := w.IntN(16)
	if !w.steps && kind > 10 && !w.chance(8) {
		return w.one(plainTexts...) // what reads ohlcv behind a change of settings in the same segment is refused
	}
	switch kind {
	case 0, 1, 2, 3:
		return w.reading()
	case 4, 5:
		return w.one(nameTexts...)
	case 6:
		return w.one("prepare a as ", "prepare a as ", "prepare b (text) as ") + w.meant()
	case 7:
		return w.one("declare k cursor for ", "declare k cursor for ", "declare p cursor with hold for ", "declare k scroll cursor for ") + w.reading()
	case 8:
		return w.one(cursorTexts...)
	case 9, 10:
		if w.repeatable && w.chance(2) {
			return w.one(repeatableTexts...)
		}
		return w.one(blockTexts...)
	case 11:
		return w.making()
	case 12:
		return w.one(madeTexts...)
	case 13:
		if w.chance(2) {
			return w.one(settingTexts...)
		}
	}
	return w.one(plainTexts...)
}

// reading is a statement that may read bars.
func (w *writer) reading() string {
	switch w.IntN(12) {
	case 0:
		return readFailing
	case 1:
		return readLocal
	case 2:
		return "copy (" + w.one(readText, ofView, ofFunction) + ") to stdout"
	case 3:
		return "create temp table m as " + w.one(readText, ofView)
	case 4:
		return "insert into t select 100 + n from (" + readText + ") x"
	case 5, 6:
		return w.one(ofView, ofFunction, "table m")
	}
	return w.one(readText, readText, readRows)
}

// meant is a statement to be prepared.
func (w *writer) meant() string {
	if w.chance(5) {
		return readAsking
	}
	return w.one(readText, readRows, noBars, noBars, ofView, ofFunction, "insert into t values (50)")
}

// making is a statement that defines something, over ohlcv or not.
func (w *writer) making() string {
	query := w.one(readText, noBars)
	switch w.IntN(6) {
	case 0, 1:
		return w.one("create temp view v as ", "create or replace temp view v as ") + query
	case 2:
		return "create or replace function pg_temp.f() returns bigint language sql as $$select n from (" + query + ") x$$"
	case 3:
		return "create or replace function pg_temp.f() returns bigint language plpgsql as $$begin return (select n from (" + query + ") x); end$$"
	case 4:
		return "do $$ begin create or replace temp view v as " + query + "; end $$"
	}
	return w.one("do $$ begin execute 'deallocate a'; end $$", "do $$ begin perform 1; end $$", "create temp table m as "+query)
}

// step writes what is answered before more is sent, mostly.
func (w *writer) step() {
	name, portal := w.one("-", "-", "a", "b"), w.one("-", "p", "p", "q", "q")
	switch w.IntN(12) {
	case 0, 1, 2:
		w.unit(name, portal)
	case 3:
		w.bind(name, portal)
		if w.chance(2) {
			w.execute(portal)
		}
	case 4, 5:
		w.execute(portal)
	case 6:
		w.add(w.one("C S "+name, "C P "+portal, "D S "+name, "D P "+portal, "H"))
	case 7:
		w.late(portal)
	default:
		w.add("Q " + w.text())
	}
	if w.open && !w.chance(3) {
		w.sync()
	}
}

// late binds a portal in a block, has something else be there, and executes it.
func (w *writer) late(portal string) {
	if portal == "-" {
		w.add("Q rollback") // so that no failed Query has left another
	}
	w.add("Q "+w.one("begin", "begin", "savepoint s"), "P x "+w.one("execute a", "execute a", "execute b('sim:ETHUSD')", "copy ("+ofView+") to stdout",
		"create temp table m as "+ofView, ofFunction, "declare k cursor for "+w.one(ofView, ofFunction)), "B "+portal+" x")
	if w.chance(4) {
		w.add("H")
	} else {
		w.sync()
	}
	for range w.IntN(3) {
		text := w.one("savepoint s", "rollback to s", "select 1/0", w.making(), "deallocate a", "prepare a as "+w.meant(), w.one(cursorTexts...))
		if portal == "-" || w.chance(4) {
			w.add("P d "+text, "B d d", "E d", "C P d", "C S d")
			w.sync()
		} else {
			w.add("Q " + text)
		}
	}
	w.lines = append(w.lines, "E "+portal+w.one("", "", " 1"))
	w.open = true
	w.add("C S x")
}

// more writes what belongs together.
func (w *writer) more() {
	name, portal := w.one("-", "-", "-", "a", "b"), w.one("-", "-", "-", "p", "q")
	switch w.IntN(20) {
	case 0, 1, 2, 3, 4, 5:
		w.unit(name, portal)
	case 6:
		w.add("P " + name + " " + w.text())
	case 7:
		w.add("P " + name + " " + w.one(append(askingTexts, readAsking, readCloses)...))
	case 8, 9:
		w.bind(name, portal)
		w.execute(portal)
	case 10:
		w.execute(portal)
	case 11:
		w.add(w.one("D S "+name, "D P "+portal))
	case 12:
		w.add(w.one("C S "+name, "C P "+portal))
	case 13:
		w.add("H")
	case 14, 15:
		w.add("S")
	case 16, 17:
		texts := make([]string, 1+w.IntN(3)/2)
		for i := range texts {
			texts[i] = w.text()
		}
		w.add("Q " + strings.Join(texts, "; "))
	case 18:
		w.copy(name, portal)
	case 19:
		w.add(w.one("d x", "c", "f no", "F 177 40 2", "F 1 2", "send", "send"))
	}
}

func (w *writer) bind(name, portal string) {
	w.add("B " + portal + " " + name + " " + w.one("5", "7", "sim:BTCUSD", "sim:ETHUSD"))
}

func (w *writer) execute(portal string) { w.add("E " + portal + w.one("", "", " 1", " 2")) }

// unit is a statement from its Parse to its Execute, mostly.
func (w *writer) unit(name, portal string) {
	if w.steps && name != "-" {
		w.add("C S " + name)
	}
	switch w.IntN(9) {
	case 0, 1:
		w.add("P "+name+" "+w.one(askingTexts...), "B "+portal+" "+name+" "+w.one("5", "6", "x"))
	case 2, 3:
		w.add("P "+name+" "+w.one(readAsking, readCloses), "B "+portal+" "+name+" "+w.one("sim:BTCUSD", "sim:ETHUSD"))
	default:
		w.add("P "+name+" "+w.text(), "B "+portal+" "+name)
	}
	if w.chance(3) {
		w.add("D P " + portal)
	}
	if w.steps && w.chance(3) {
		return // it is executed later, or never
	}
	w.execute(portal)
	if w.chance(2) {
		w.add(w.one("S", "S", "H", "C P "+portal))
	}
}

// copy is a COPY from the client, with its data and its end, and what may come before and between them.
func (w *writer) copy(name, portal string) {
	text := w.one(copyTexts...)
	if w.chance(2) {
		w.add("Q " + text)
	} else {
		w.add("P "+name+" "+text, "B "+portal+" "+name, "E "+portal)
	}
	if w.chance(2) {
		w.add("S")
	}
	for range w.IntN(3) {
		w.add(w.one("d 1"+strconv.Itoa(w.IntN(1000)), "d 2"+strconv.Itoa(w.IntN(1000)), "d x", "H", "S", "send"))
	}
	w.add(w.one("c", "c", "f enough"))
	if w.chance(3) { // what comes behind it may be in its segment
		w.add("Q "+w.text(), "Q "+w.one(readText, readRows))
	}
	if w.chance(2) {
		w.add("S")
	}
}

// waiting has the script wait where it says "await", for as many ReadyForQuery as have not come yet, if that is known.
func waiting(script []string) (lines []string) {
	open, readies, known := false, 0, true
	for _, line := range script {
		switch {
		case line == "await":
			if known && !open && readies > 0 {
				lines = append(lines, "wait Z "+strconv.Itoa(readies))
				readies = 0
			}
			continue
		case line == "S":
			open, readies = false, readies+1
		case slices.Contains([]string{"Q", "F"}, line[:1]):
			known, readies = known && !open, readies+1
		case strings.ContainsAny(line[:1], "PBDECH"):
			open = true
		}
		known = known && !strings.Contains(line, "from stdin")
		lines = append(lines, line)
	}
	return lines
}
