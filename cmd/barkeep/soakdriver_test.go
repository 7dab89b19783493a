package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/url"
	"os"
	commands "os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgerrcode"
	"github.com/stretchr/testify/require"

	"barkeep/internal/market"
)

// soakProgram is a process that has sessions of another driver do what it is told: its orders and answers are those of
// test/clients/pysoak.py.
type soakProgram struct {
	driver string
	in     io.WriteCloser

	mu      sync.Mutex             // guards what follows, and in
	waiting map[int]chan soakReply // by session
	ended   bool
}

// soakReply is what became of an order: rows, or an error.
type soakReply struct {
	Session int     `json:"session"`
	Rows    [][]any `json:"rows"`
	Code    *string `json:"code"` // of the server's error; empty where the error is not the server's
	Message string  `json:"message"`
}

// startSoakProgram starts a program, which ends with the test.
func startSoakProgram(t *testing.T, driver string, command []string) *soakProgram {
	t.Helper()
	cmd := commands.CommandContext(context.WithoutCancel(t.Context()), command[0], command[1:]...)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	require.NoError(t, err)
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	p := &soakProgram{driver: driver, in: in, waiting: map[int]chan soakReply{}}
	var reading sync.WaitGroup
	reading.Go(func() { p.read(t, out) })
	t.Cleanup(func() {
		p.mu.Lock()
		p.ended = true
		_ = in.Close()
		p.mu.Unlock()
		stop := time.AfterFunc(20*time.Second, func() { _ = cmd.Process.Kill() })
		defer stop.Stop()
		reading.Wait()
		_ = cmd.Wait()
	})
	return p
}

// read hands answers to who waits for them.
func (p *soakProgram) read(t *testing.T, out io.Reader) {
	t.Helper()
	lines := bufio.NewScanner(out)
	lines.Buffer(nil, 16<<20)
	for lines.Scan() {
		var reply soakReply
		if err := json.Unmarshal(lines.Bytes(), &reply); err != nil {
			t.Errorf("%s: %v in %q", p.driver, err, lines.Text())
			continue
		}
		p.mu.Lock()
		to := p.waiting[reply.Session]
		delete(p.waiting, reply.Session)
		p.mu.Unlock()
		if to == nil {
			t.Errorf("%s: an answer that nobody waits for: %q", p.driver, lines.Text())
			continue
		}
		to <- reply
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.ended {
		t.Errorf("%s: its program has ended: %v", p.driver, lines.Err())
	}
	p.ended = true
	for _, to := range p.waiting {
		close(to)
	}
}

// order sends an order; its answer comes to the channel.
func (p *soakProgram) order(session int, fields ...string) (<-chan soakReply, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ended {
		return nil, errProgramEnded
	}
	to := make(chan soakReply, 1)
	p.waiting[session] = to
	_, err := fmt.Fprintf(p.in, "%d\t%s\n", session, strings.Join(fields, "\t"))
	return to, err
}

// soakDriver is a soakClient whose session is a program's.
type soakDriver struct {
	soakPeer
	number  int
	program *soakProgram
	lost    bool // the connection has ended
	given   bool // the program is given up: it has ended, or does not answer
}

// clients gives the soak's clients: pgx's, and in turn those of the programs that SOAK_DRIVERS prints.
func (s *soak) clients(count int) []soakClient {
	var programs []*soakProgram
	if command := os.Getenv("SOAK_DRIVERS"); command != "" {
		cmd := commands.CommandContext(s.t.Context(), command, s.t.TempDir())
		cmd.Stderr = os.Stderr
		out, err := cmd.Output()
		require.NoError(s.t, err, command)
		found := map[string][]string{}
		require.NoError(s.t, json.Unmarshal(out, &found), command)
		for _, driver := range slices.Sorted(maps.Keys(found)) {
			programs = append(programs, startSoakProgram(s.t, driver, found[driver]))
		}
		s.t.Logf("programs: %v", slices.Sorted(maps.Keys(found)))
	}
	clients := make([]soakClient, count)
	for n := range clients {
		if kind := n % (len(programs) + 1); kind > 0 {
			clients[n] = &soakDriver{soakPeer: s.peer(n), number: n, program: programs[kind-1]}
		} else {
			clients[n] = &pgxClient{soakPeer: s.peer(n)}
		}
	}
	return clients
}

// tell gives an order and waits for what becomes of it.
func (d *soakDriver) tell(fields ...string) (soakReply, error) {
	to, err := d.program.order(d.number, fields...)
	if err != nil {
		return soakReply{}, fmt.Errorf("give an order: %w", err)
	}
	return d.await(to)
}

func (d *soakDriver) await(to <-chan soakReply) (soakReply, error) {
	select {
	case reply, ok := <-to:
		if !ok {
			return soakReply{}, errProgramEnded
		}
		return reply, nil
	case <-time.After(soakPatience):
		return soakReply{}, errNoAnswer
	}
}

var errNoAnswer, errProgramEnded = errors.New("no answer has come"), errors.New("the program has ended")

// do gives an order and judges its error.
func (d *soakDriver) do(what string, fields ...string) (rows [][]any, ok bool) {
	reply, err := d.tell(fields...)
	switch {
	case err != nil:
		d.lost, d.given = true, true
		d.soak.fail("%s, %s: %v", d.program.driver, what, err)
	case reply.Code != nil:
		d.lost = *reply.Code == "" || *reply.Code == pgerrcode.AdminShutdown || strings.HasPrefix(*reply.Code, "08")
		d.judge(d.program.driver+", "+what, *reply.Code, reply.Message)
	default:
		return reply.Rows, true
	}
	return nil, false
}

func (d *soakDriver) connect() bool {
	d.begin()
	d.lost = false
	at, err := url.Parse(d.soak.url)
	require.NoError(d.soak.t, err)
	host, port, err := net.SplitHostPort(d.link.Addr())
	require.NoError(d.soak.t, err)
	_, ok := d.do("connect", "connect", host, port, at.User.Username(), strings.TrimPrefix(at.Path, "/"), d.name)
	return ok
}

func (d *soakDriver) once(context.Context) {
	d.cut = false // long ago
	if d.connect() {
		d.ask(d.statement(), 0)
	}
	d.end()
}

func (d *soakDriver) run(ctx context.Context) {
	defer d.link.Up()
	for ctx.Err() == nil && !d.given {
		if !d.connect() {
			d.end()
			d.pause(ctx)
			continue
		}
		d.soak.count("sessions of " + d.program.driver)
		if d.random.IntN(4) == 0 {
			d.cut = true
			d.link.CutAfter(d.random.Int64N(40_000))
		}
		for n := 1 + d.random.IntN(30); n > 0 && ctx.Err() == nil && !d.lost; n-- {
			d.step()
		}
		d.leave()
	}
}

// leave ends the session: with a Terminate, without a word, or in mid-statement.
func (d *soakDriver) leave() {
	switch d.random.IntN(4) {
	case 0:
		d.cut = true
		d.link.Down()
	case 1:
		if d.lost || d.program.driver == "postgresjs" { // it may wait for ever for what a connection that ends had been asked
			break
		}
		d.cut = true
		asked, err := d.program.order(d.number, d.question(d.statement(), 0)...)
		<-time.After(time.Duration(d.random.IntN(20)) * time.Millisecond)
		d.link.Down()
		if err == nil {
			_, err = d.await(asked)
		}
		if err != nil {
			d.given = true
			d.soak.fail("%s, left in mid-statement: %v", d.program.driver, err)
		}
		d.soak.count("left in mid-statement")
	}
	d.end()
}

// end has the program forget the connection; what a driver says to the end of one that is lost is its own business.
func (d *soakDriver) end() {
	if d.given {
		return
	}
	if _, err := d.tell("close"); err != nil {
		d.given = true
		d.soak.fail("%s, close: %v", d.program.driver, err)
	}
}

// step is one statement, or a few.
func (d *soakDriver) step() {
	switch d.random.IntN(8) {
	default:
		d.ask(d.statement(), 0)
	case 0:
		d.canceled = true
		if !d.ask(d.statement(), 1+d.random.IntN(100)) && !d.lost {
			d.ask(d.statement(), 0) // asyncpg may have left a Parse without its Sync, in whose transaction a BEGIN would be
		}
	case 1:
		d.block()
	case 2:
		d.wrong()
	}
}

// soakEpochs is soakBars with times that every driver gives alike.
const soakEpochs = `select $1::text, extract(epoch from ts)::bigint, open, high, low, close, volume from ohlcv where symbol = $2 and timeframe = $3 and ts >= $4 and ts < $5 order by ts`

// question is the order to ask, with arguments or without; after so many milliseconds, if any, it is canceled.
func (d *soakDriver) question(q soakStatement, after int) []string {
	order := []string{"ask", strconv.Itoa(after), soakEpochs}
	arguments := []string{q.tag, string(q.series.Symbol), q.series.Timeframe.String(), q.r.Start.Time().Format(time.RFC3339), q.r.End.Time().Format(time.RFC3339)}
	if d.random.IntN(2) == 0 {
		return append(order, arguments...)
	}
	for n, value := range arguments {
		order[2] = strings.ReplaceAll(order[2], "$"+strconv.Itoa(n+1), "'"+value+"'")
	}
	return order
}

func (d *soakDriver) ask(q soakStatement, after int) bool {
	rows, ok := d.do(q.String(), d.question(q, after)...)
	if !ok {
		return false
	}
	tags, got, err := soakRows(rows)
	if err != nil {
		d.soak.fail("%s, %v: %v", d.program.driver, q, err)
		return false
	}
	return d.right(q, tags, got)
}

// soakRows reads the rows of an answer that a program has printed.
func soakRows(rows [][]any) (tags []string, bars []market.Bar, err error) {
	for _, row := range rows {
		if len(row) != 7 {
			return nil, nil, fmt.Errorf("%w: %v", errMalformed, row)
		}
		tag, ok := row[0].(string)
		numbers := make([]float64, 6)
		for i := range numbers {
			var is bool
			numbers[i], is = row[i+1].(float64)
			ok = ok && is
		}
		if !ok {
			return nil, nil, fmt.Errorf("%w: %v", errMalformed, row)
		}
		tags = append(tags, tag)
		bars = append(bars, market.Bar{
			TS:   market.FromTime(time.Unix(int64(numbers[0]), 0).UTC()),
			Open: numbers[1], High: numbers[2], Low: numbers[3], Close: numbers[4], Volume: numbers[5],
		})
	}
	return tags, bars, nil
}

// block asks in a transaction.
func (d *soakDriver) block() {
	level := []string{"read committed", "repeatable read"}[d.random.IntN(2)]
	if _, ok := d.do("begin", "ask", "0", "begin isolation level "+level); !ok {
		return
	}
	for range 1 + d.random.IntN(3) {
		if !d.ask(d.statement(), 0) {
			break
		}
	}
	if d.lost {
		return
	}
	if _, ok := d.do("rollback", "ask", "0", "rollback"); !ok {
		d.soak.count("rollbacks that failed")
		d.lost = true // the block may be open
	}
}

// wrong sends a statement that fails with an error that carries its tag.
func (d *soakDriver) wrong() {
	q := d.statement()
	reply, err := d.tell("ask", "0", "select cast('"+q.tag+"' as int)")
	switch {
	case err != nil:
		d.lost, d.given = true, true
		d.soak.fail("%s, %v: %v", d.program.driver, q, err)
	case reply.Code == nil:
		d.soak.fail("%s, %v: it got an answer", d.program.driver, q)
	case *reply.Code == pgerrcode.InvalidTextRepresentation:
		if !strings.Contains(reply.Message, `"`+q.tag+`"`) {
			d.soak.fail("%s, %v: it got the error %q", d.program.driver, q, reply.Message)
		}
		d.soak.count("right errors")
	default:
		d.lost = *reply.Code == "" || strings.HasPrefix(*reply.Code, "08")
		d.judge(d.program.driver+", "+q.String(), *reply.Code, reply.Message)
	}
}
