package proxy

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"barkeep/internal/dbtest"
	"barkeep/internal/market"
	"barkeep/internal/pgtest"
)

// TestRandomPipelines plays random transcripts, written by a seed, straight at PostgreSQL, through barkeep, and through barkeep with
// every statement held, in random pieces: the answers are the same, but for refusals in barkeep's own words. PIPELINES sets how many there
// are, BARKEEP_TEST_SEED the seed; without one they are the same each time, in pieces that are not.
func TestRandomPipelines(t *testing.T) {
	seed := uint64(dbtest.Number(t, "BARKEEP_TEST_SEED", 11))
	t.Logf("BARKEEP_TEST_SEED=%d", seed)
	p := newPipelines(t)
	most := dbtest.Number(t, "PIPELINES", 6)
	for n := range most {
		p.reads = readers[n%len(readers)]
		script := pipeline(rand.New(rand.NewPCG(seed, uint64(n))), p.reads)
		if found := p.differs(script); found != "" {
			t.Logf("pipeline %d, bars that are %s: %s\n%s", n, p.reads, found, strings.Join(script, "\n"))
			script, found = p.shortest(script, found)
			t.Fatalf("in short: %s\n%s", found, strings.Join(script, "\n"))
		}
	}
	require.LessOrEqual(t, p.refused, 4+most/2, "refused")
}

// readers are what the bars that are read are before a transcript begins.
var readers = []string{"there", "not there"}

var ownRefusal = regexp.MustCompile("^E ERROR (0A000 (barkeep:|" + errSettingsInSegment.Message + "|" + errBehindEnd.Message + ")|25P02 [^\t]*$)")

// temporary is a schema whose number is its session's.
var temporary = regexp.MustCompile(`pg_temp_\d+`)

type pipelines struct {
	t        *testing.T
	straight *bar
	through  map[string]*bar
	reads    string
	patience time.Duration
	refused  int // transcripts, in barkeep's own words: that is known to differ
}

func newPipelines(t *testing.T) *pipelines {
	t.Helper()
	quiet := func(c *Config) { c.NoticeAfter = never }
	p := &pipelines{t: t, patience: 15 * time.Second, straight: start(t, nil), through: map[string]*bar{
		"through": start(t, quiet), "held": start(t, func(c *Config) { quiet(c); c.ForceHold = 2 * time.Millisecond }),
	}}
	p.fill(p.straight)
	for _, b := range append(slices.Collect(maps.Values(p.through)), p.straight) {
		_, err := b.db.Pool.Exec(t.Context(), guarding)
		require.NoError(t, err)
		b.refresh(t)
	}
	return p
}

func (p *pipelines) fill(b *bar) {
	for _, symbol := range []market.Symbol{"sim:BTCUSD", "sim:ETHUSD", "5", "6", "7", "x"} {
		require.NoError(p.t, b.fill(p.t.Context(), market.Series{Symbol: symbol, Timeframe: market.M1}))
	}
}

// reset has the bars be there, or not.
func (p *pipelines) reset(b *bar) {
	b.forget(nil)
	if p.reads == "there" {
		p.fill(b)
		return
	}
	_, err := b.db.Pool.Exec(p.t.Context(), "delete from public.ohlcv")
	require.NoError(p.t, err)
}

// differs says where the answers to a transcript differ, nothing where they do not.
func (p *pipelines) differs(script []string) string {
	script = slices.Concat([]string{"Q create temp table t (a int primary key)", "wait Z"}, script, []string{"c", "S", "c", "S", "c", "S", "Q rollback"}) // whatever is open ends
	straight := p.play("postgres", p.straight.db.URL, append(slices.Clone(script), "X", "wait end"))
	if strings.Contains(strings.Join(straight, "\n"), "E FATAL") {
		return "" // how much of it a client sees is a matter of time
	}
	straight = straight[:len(straight)-1] // the end
	ready := -1                           // that of the table
	for _, text := range straight {
		if strings.HasPrefix(text, "Z ") {
			ready++
		}
	}
	for name, b := range p.through {
		p.reset(b)
		through := p.play(name, b.url, append(slices.Clone(script), fmt.Sprintf("wait Z %d", ready), "Q select 'end'", "wait Z"))
		if n := len(through) - 4; n >= 0 && through[n+1] == "D end" {
			through = through[:n]
		}
		if slices.ContainsFunc(through, func(text string) bool { return ownRefusal.MatchString(text) }) {
			p.refused++
			continue
		}
		for i := range max(len(straight), len(through)) {
			if i >= len(straight) || i >= len(through) || straight[i] != through[i] {
				return fmt.Sprintf("%s, message %d:\nstraight: %q\n%s: %q", name, i, tail(straight, i), name, tail(through, i))
			}
		}
	}
	return ""
}

// tail is a few of the list from i on, with two before it.
func tail(list []string, i int) []string {
	return list[min(max(i-2, 0), len(list)):min(i+4, len(list))]
}

// play returns what came, the last of it why there is no more where there should be.
func (p *pipelines) play(name, url string, script []string) []string {
	dial := func(ctx context.Context, address string) (net.Conn, error) {
		conn, err := new(net.Dialer).DialContext(ctx, "tcp", address)
		if err != nil {
			return nil, err
		}
		return &slowConn{pieceConn{Conn: conn, on: way{piece: randomPiece}}}, nil
	}
	ctx, stop := context.WithTimeout(p.t.Context(), p.patience)
	defer stop()
	record, err := pgtest.Play(ctx, pgtest.Peer{Name: name, URL: url, Dial: dial}, strings.Join(script, "\n"))
	var all []string
	for _, step := range record.Steps {
		for _, text := range step.Seen {
			all = append(all, temporary.ReplaceAllString(text, "pg_temp"))
		}
	}
	if err != nil {
		all = append(all, err.Error())
	}
	return all
}

// slowConn stops now and then, so that what was answered before may have come.
type slowConn struct{ pieceConn }

func (s *slowConn) Write(b []byte) (int, error) {
	written := 0
	for written < len(b) {
		n, err := s.pieceConn.Write(b[written : written+randomPiece(len(b)-written)])
		written += n
		if err != nil {
			return written, err
		}
		if rand.IntN(4) == 0 {
			_ = wait(context.Background(), time.Duration(rand.IntN(2000))*time.Microsecond)
		}
	}
	return written, nil
}

// shortest leaves out lines without which the answers still differ.
func (p *pipelines) shortest(script []string, found string) (short []string, difference string) {
	end := time.Now().Add(40 * time.Second)
	p.patience = 2 * time.Second
	for size := len(script) / 2; size > 0; size /= 2 {
		for at := 0; at+size <= len(script) && time.Now().Before(end); {
			less := slices.Delete(slices.Clone(script), at, at+size)
			if still := p.differs(less); still != "" && (!strings.Contains(still, "0A000") || strings.Contains(found, "0A000")) {
				script, found = less, still
				continue
			}
			at += size
		}
	}
	return script, found
}

// The statements of transcripts. Those that change settings are in none: what reads ohlcv behind them in the same segment is refused.
var (
	plainTexts = []string{
		"select 1", "select 2", "select generate_series(1, 3)", "select 1/0", "nonsense", "", "insert into t values (1)", "select count(*) from t",
		"begin", "commit", "rollback", "savepoint s", "rollback to s", "prepare a as select 8", "prepare b (text) as select $1", "deallocate a",
		"deallocate all", "declare k cursor for select generate_series(1, 9)", "fetch 2 from k", "close k", "copy t to stdout",
		"select 1; select 2", "delete from t", "truncate t", "values (1), (2)", "start transaction read only",
	}
	askingTexts = []string{"select $1::int + 1", "select $1::text", "insert into t values ($1::int)", "select generate_series(1, $1::int)"}
	copyTexts   = []string{"copy t from stdin", "copy nowhere from stdin", "copy t (b) from stdin", "copy guarded from stdin", "copy t from stdin"}
)

const (
	readText    = "select count(*) from ohlcv where symbol = 'sim:BTCUSD' and timeframe = '1m' and ts >= '2024-01-01Z' and ts < '2024-01-02Z'"
	readAsking  = "select close::int from ohlcv where symbol = $1 and timeframe = '1m' and ts >= '2024-01-01Z' and ts < '2024-01-02Z' order by ts"
	readFailing = "select 1/(close - 1)::int from ohlcv where symbol = 'sim:ETHUSD' and timeframe = '1m' and ts >= '2024-01-01Z' and ts < '2024-01-02Z'"
	guarding    = `create table public.guarded (a int);
 create function public.guard() returns trigger language plpgsql as $$ begin raise exception 'no'; end $$;
 create trigger guard before insert on public.guarded for each statement execute function public.guard()`
)

// writer writes one transcript.
type writer struct {
	*rand.Rand
	lines []string
	texts []string // of statements without parameters
}

func (w *writer) add(lines ...string) { w.lines = append(w.lines, lines...) }

func (w *writer) one(list ...string) string { return list[w.IntN(len(list))] }

// chance is true once in so many times.
func (w *writer) chance(n int) bool { return w.IntN(n) == 0 }

// pipeline writes a transcript. Where bars are not there, a block sees those that come later: the level is READ COMMITTED.
func pipeline(random *rand.Rand, reads string) []string {
	w := &writer{Rand: random, texts: append([]string{readText, readText, readText, readFailing, "begin;" + readText}, plainTexts...)}
	if reads == "there" {
		w.texts = append(w.texts, "begin isolation level repeatable read", "begin isolation level serializable")
	}
	for range 4 + w.IntN(24) {
		w.more()
	}
	return w.lines
}

// more writes what belongs together.
func (w *writer) more() {
	name, portal := w.one("-", "-", "-", "a", "b"), w.one("-", "-", "-", "p", "q")
	switch w.IntN(20) {
	case 0, 1, 2, 3, 4, 5:
		w.unit(name, portal)
	case 6:
		w.add("P " + name + " " + w.one(w.texts...))
	case 7:
		w.add("P " + name + " " + w.one(append(askingTexts, readAsking, readAsking)...))
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
			texts[i] = w.one(w.texts...)
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
	switch w.IntN(9) {
	case 0, 1, 2:
		w.add("P "+name+" "+w.one(askingTexts...), "B "+portal+" "+name+" "+w.one("5", "6", "x"))
	case 3, 4:
		w.add("P "+name+" "+readAsking, "B "+portal+" "+name+" "+w.one("sim:BTCUSD", "sim:ETHUSD"))
	default:
		w.add("P "+name+" "+w.one(w.texts...), "B "+portal+" "+name)
	}
	if w.chance(3) {
		w.add("D P " + portal)
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
	if w.chance(2) {
		w.add("S")
	}
}
