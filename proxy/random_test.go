package proxy

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"barkeep/internal/catalog"
	"barkeep/internal/dbtest"
	"barkeep/internal/market"
	"barkeep/internal/pgtest"
)

// TestRandomPipelines plays random transcripts, written by a seed, straight at PostgreSQL, through barkeep, and through barkeep with
// every statement held, in random pieces: the answers are the same up to the first refusal in barkeep's own words, and no answer lacks bars,
// neither before nor behind it. PIPELINES sets how many there are, BARKEEP_TEST_SEED the seed; without one they are the same each time, in
// pieces that are not.
func TestRandomPipelines(t *testing.T) {
	seed := uint64(dbtest.Number(t, "BARKEEP_TEST_SEED", 11))
	t.Logf("BARKEEP_TEST_SEED=%d", seed)
	p := newPipelines(t)
	most := dbtest.Number(t, "PIPELINES", 6)
	for n := range most {
		p.reads = readers[n%len(readers)]
		script := pipeline(rand.New(rand.NewPCG(seed, uint64(n))))
		if found := p.differs(script); found != "" {
			t.Logf("pipeline %d, bars that are %s: %s\n%s", n, p.reads, found, strings.Join(script, "\n"))
			script, found = p.shortest(script, found)
			t.Fatalf("in short: %s\n%s", found, strings.Join(script, "\n"))
		}
	}
	t.Logf("%d of %d refused: %v", p.refused, 2*most, p.refusals)
	require.LessOrEqual(t, p.refused, 4+most, "refused")
}

// readers are what the bars that are read are before a transcript begins.
var readers = []string{"there", "not there"}

var ownRefusal = regexp.MustCompile("^E ERROR (0A000 (barkeep:|" + errSettingsInSegment.Message + "|" + errBehindEnd.Message + "|" +
	errCursorSettings.Message + "|" + errConcealed.Message + ")|40001 [^\t]*\tH=Retry|40001 " + errPlanKept.Message + "|25P02 [^\t]*$|.*\tD=" + together + ")")

// temporary is a schema whose number is its session's.
var temporary = regexp.MustCompile(`pg_temp_\d+`)

type pipelines struct {
	t        *testing.T
	straight *bar
	through  map[string]*bar
	reads    string
	patience time.Duration
	refused  int // transcripts, in barkeep's own words: that is known to differ
	refusals map[string]int
}

func newPipelines(t *testing.T) *pipelines {
	t.Helper()
	quiet := func(c *Config) {
		names, _ := c.Catalog.(*catalog.Catalog)
		c.NoticeAfter, c.Catalog = never, fresh{names, t.Context()}
	}
	p := &pipelines{t: t, patience: 15 * time.Second, straight: start(t, nil), refusals: map[string]int{}, through: map[string]*bar{
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
	for len(b.began) > 0 {
		<-b.began
	}
	for len(b.ended) > 0 {
		<-b.ended
	}
	if p.reads == "there" {
		p.fill(b)
		return
	}
	_, err := b.db.Pool.Exec(p.t.Context(), "delete from public.ohlcv")
	require.NoError(p.t, err)
}

// differs says where the answers to a transcript differ, nothing where they do not.
func (p *pipelines) differs(script []string) string {
	script = waiting(script)
	script = slices.Concat([]string{"Q create temp table t (a int primary key)", "wait Z"}, script, []string{"c", "S", "c", "S", "c", "S", "Q rollback"}) // whatever is open ends
	straight := p.play("postgres", p.straight.db.URL, append(slices.Clone(script), "X", "wait end"))
	if strings.Contains(strings.Join(straight, "\n"), "E FATAL") {
		return "" // how much of it a client sees is a matter of time
	}
	straight = straight[:len(straight)-1] // the end
	for name, b := range p.through {
		p.reset(b)
		through := p.play(name, b.url, append(slices.Clone(script), "Q listen its_end; notify its_end", "wait A", "wait Z"))
		if n := len(through) - 4; n >= 0 && strings.HasPrefix(through[n+2], "A its_end") {
			through = through[:n]
		}
		if found := p.compared(name, straight, through); found != "" {
			return found
		}
	}
	return ""
}

// compared says where the answers differ before what is refused, or one lacks bars.
func (p *pipelines) compared(name string, straight, through []string) string {
	lacks := func(text string) bool { return strings.HasPrefix(text, "D bars|") && text != "D bars|"+allBars }
	if i := slices.IndexFunc(through, lacks); i >= 0 {
		return fmt.Sprintf("%s, message %d lacks bars:\nstraight: %q\n%s: %q", name, i, tail(straight, i), name, tail(through, i))
	}
	if i := slices.IndexFunc(through, ownRefusal.MatchString); i >= 0 {
		p.refused++
		p.refusals[strings.SplitN(through[i], "\t", 2)[0]]++
		for i > 0 && !strings.HasPrefix(through[i-1], "Z ") {
			i-- // what comes before it in its segment is not answered
		}
		straight, through = straight[:min(i, len(straight))], through[:i]
	}
	for i := range max(len(straight), len(through)) {
		if i >= len(straight) || i >= len(through) || straight[i] != through[i] {
			return fmt.Sprintf("%s, message %d:\nstraight: %q\n%s: %q", name, i, tail(straight, i), name, tail(through, i))
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
