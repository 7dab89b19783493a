package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgconn/ctxwatch"
	"github.com/jackc/pgx/v5/pgproto3"
	"github.com/stretchr/testify/require"

	"barkeep/internal/market"
	"barkeep/internal/netfault"
)

// soakClient is one of the sessions of a soak, which comes again when it has ended.
type soakClient interface {
	// run opens sessions and asks until ctx ends.
	run(ctx context.Context)
	// once opens a session whose network is well, asks and leaves.
	once(ctx context.Context)
}

// soakPeer is what soakClients have in common: questions, and what explains their errors.
type soakPeer struct {
	soak   *soak
	name   string
	random *rand.Rand
	link   *netfault.Link // between it and barkeep
	asked  int

	// Of the connection:
	began     time.Time
	canceled  bool // a statement of it was canceled
	cut       bool // its network was cut
	cutBefore bool // that of the connection before was, whose end may reach this one
}

// pgxClient is a soakClient by pgx.
type pgxClient struct {
	soakPeer
	conn *pgx.Conn
	mode pgx.QueryExecMode
}

var soakModes = []pgx.QueryExecMode{
	pgx.QueryExecModeSimpleProtocol, pgx.QueryExecModeCacheStatement, pgx.QueryExecModeCacheDescribe, pgx.QueryExecModeDescribeExec, pgx.QueryExecModeExec,
}

func (s *soak) peer(n int) soakPeer {
	return soakPeer{
		soak: s, name: fmt.Sprintf("soak-%d", n), random: rand.New(rand.NewPCG(s.seed, uint64(n)+2)), link: netfault.New(s.t, s.stack.addr),
	}
}

// soakPatience is how long an answer may take on a busy machine.
const soakPatience = 2 * time.Minute

// begin is called before a connection is made.
func (c *soakPeer) begin() {
	c.link.Up()
	c.began, c.canceled, c.cut, c.cutBefore = time.Now(), false, false, c.cut
}

// pause waits for a moment, or until ctx ends.
func (c *soakPeer) pause(ctx context.Context) {
	select {
	case <-ctx.Done():
	case <-time.After(time.Duration(50+c.random.IntN(200)) * time.Millisecond):
	}
}

// connect opens a session in one of the modes.
func (c *pgxClient) connect(ctx context.Context) bool {
	c.begin()
	c.mode = soakModes[c.random.IntN(len(soakModes))]
	config, err := pgx.ParseConfig(c.soak.url)
	require.NoError(c.soak.t, err)
	host, port, err := net.SplitHostPort(c.link.Addr())
	require.NoError(c.soak.t, err)
	number, err := strconv.ParseUint(port, 10, 16)
	require.NoError(c.soak.t, err)
	config.Host, config.Port, config.TLSConfig, config.Fallbacks = host, uint16(number), nil, nil
	config.DefaultQueryExecMode = c.mode
	config.RuntimeParams["application_name"] = c.name
	if c.random.IntN(2) == 0 { // a cancel keeps the session
		config.BuildContextWatcherHandler = func(conn *pgconn.PgConn) ctxwatch.Handler {
			return &pgconn.CancelRequestContextWatcherHandler{Conn: conn, DeadlineDelay: soakPatience}
		}
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), soakPatience)
	defer cancel()
	c.conn, err = pgx.ConnectConfig(ctx, config)
	if err != nil {
		c.failed("connect", err)
		return false
	}
	return true
}

func (c *pgxClient) once(ctx context.Context) {
	c.cut = false // long ago
	if c.connect(ctx) {
		c.ask(ctx, c.statement())
		_ = c.conn.Close(ctx)
	}
}

func (c *pgxClient) run(ctx context.Context) {
	defer c.link.Up()
	for ctx.Err() == nil {
		if !c.connect(ctx) {
			c.pause(ctx)
			continue
		}
		c.soak.count("sessions of pgx")
		if c.random.IntN(4) == 0 {
			c.cut = true
			c.link.CutAfter(c.random.Int64N(40_000))
		}
		for n := 1 + c.random.IntN(30); n > 0 && ctx.Err() == nil && !c.conn.IsClosed(); n-- {
			c.step(ctx)
		}
		c.leave(ctx)
	}
}

// leave ends the session: with a Terminate, without a word, or in mid-statement.
func (c *pgxClient) leave(ctx context.Context) {
	raw := c.conn.PgConn()
	switch c.random.IntN(4) {
	case 0:
		_ = raw.Conn().Close()
	case 1:
		if raw.IsClosed() {
			break
		}
		raw.Frontend().SendQuery(&pgproto3.Query{String: c.statement().text()})
		_ = raw.Frontend().Flush()
		if c.random.IntN(2) == 0 {
			<-time.After(time.Duration(c.random.IntN(20)) * time.Millisecond)
		}
		_ = raw.Conn().Close()
		c.soak.count("left in mid-statement")
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	_ = c.conn.Close(ctx)
}

// step is one statement, or a few.
func (c *pgxClient) step(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), soakPatience)
	defer cancel()
	switch c.random.IntN(10) {
	default:
		c.ask(ctx, c.statement())
	case 0:
		c.cancel(ctx)
	case 1:
		c.pipeline(ctx)
	case 2:
		c.block(ctx)
	case 3:
		c.several(ctx)
	case 4:
		c.wrong(ctx)
	}
}

// statement draws a question.
func (c *soakPeer) statement() soakStatement {
	c.asked++
	symbols := []string{"sim:BTCUSD", "sim:ETHBTC", "sim:GAPUSD", "sim:NEWUSD", "sim:OLDUSD"}
	frames := []market.Timeframe{market.M1, market.M1, market.H1, market.D1}
	q := soakStatement{tag: fmt.Sprintf("%s-%d", c.name, c.asked)}
	q.series = market.Series{Symbol: market.Symbol(symbols[c.random.IntN(len(symbols))]), Timeframe: frames[c.random.IntN(len(frames))]}
	start := c.soak.spots[c.random.IntN(len(c.soak.spots))]
	if c.random.IntN(3) == 0 {
		start = soakInstant(c.random)
	}
	start = q.series.Timeframe.Next(start)
	q.r = market.Range{Start: start, End: q.series.Timeframe.Add(start, 1+c.random.Int64N(200))}
	coin := c.soak.coins[string(q.series.Symbol)]
	q.want = coin.Bars(nil, q.series.Timeframe, q.r)
	return q
}

// failed judges an error: it must be one that is explained by what was done.
func (c *pgxClient) failed(what string, err error) {
	var told *pgconn.PgError
	switch {
	case errors.As(err, &told) && !errors.Is(err, errMalformed):
		c.judge(what, told.Code, told.Message)
	case isCut(err) && !errors.Is(err, errMalformed):
		c.judge(what, "", err.Error())
	default:
		c.soak.fail("%s: %v (mode %v)", what, err, c.mode)
	}
}

// judge demands that an error is explained by what was done: one that the server gave a code, or else the end of the connection.
func (c *soakPeer) judge(what, code, message string) {
	s := c.soak
	disturbed := c.cut || c.cutBefore || s.disturbedSince(c.began)
	explained := false
	switch code {
	case "":
		s.count("connections lost")
		explained = c.canceled || disturbed
	case pgerrcode.QueryCanceled:
		explained = c.canceled && strings.Contains(message, "user request")
	case pgerrcode.SerializationFailure:
		explained = true
	case pgerrcode.AdminShutdown, pgerrcode.CannotConnectNow, pgerrcode.ConnectionFailure, pgerrcode.TooManyConnections, pgerrcode.IOError:
		explained = disturbed
	}
	if code != "" {
		first, _, _ := strings.Cut(message, "\n")
		s.count("error " + code + " " + first)
	}
	if !explained {
		s.fail("%s: %s %s (canceled %t, cut %t, disturbed %t, %v old)", what, code, message, c.canceled, c.cut, disturbed, time.Since(c.began))
	}
}

// isCut reports whether a connection has ended; an answer that cannot be read is something else.
func isCut(err error) bool {
	for _, each := range []error{io.EOF, io.ErrUnexpectedEOF, net.ErrClosed, syscall.ECONNRESET, syscall.EPIPE, syscall.ECONNREFUSED, os.ErrDeadlineExceeded, pgconn.ErrConnClosed} {
		if errors.Is(err, each) {
			return true
		}
	}
	return false
}

// check compares an answer.
func (c *pgxClient) check(q soakStatement, tags []string, bars []market.Bar, err error) bool {
	if err != nil {
		c.failed(q.String(), err)
		return false
	}
	return c.right(q, tags, bars)
}

// right compares an answer that has come.
func (c *soakPeer) right(q soakStatement, tags []string, bars []market.Bar) bool {
	if wrong := q.wrong(tags, bars); wrong != "" {
		c.soak.fail("%v: %s", q, wrong)
		return false
	}
	c.soak.count("right answers")
	return true
}

func (c *pgxClient) ask(ctx context.Context, q soakStatement) bool {
	rows, err := c.conn.Query(ctx, soakBars, q.args()...)
	if err != nil {
		c.failed(q.String(), err)
		return false
	}
	tags, bars, err := collectSoak(rows)
	return c.check(q, tags, bars, err)
}

// cancel asks and thinks better of it.
func (c *pgxClient) cancel(ctx context.Context) {
	ctx, stop := context.WithTimeout(ctx, time.Duration(c.random.IntN(100_000))*time.Microsecond)
	defer stop()
	c.canceled = true
	q := c.statement()
	rows, err := c.conn.Query(ctx, soakBars, q.args()...)
	var tags []string
	var bars []market.Bar
	if err == nil {
		tags, bars, err = collectSoak(rows)
	}
	if pgconn.Timeout(err) && codeOf(err) == "" {
		c.soak.count("canceled")
		return
	}
	c.check(q, tags, bars, err)
}

// pipeline sends some statements at once.
func (c *pgxClient) pipeline(ctx context.Context) {
	if c.mode == pgx.QueryExecModeSimpleProtocol {
		c.ask(ctx, c.statement())
		return
	}
	var all []soakStatement
	batch := &pgx.Batch{}
	for range 2 + c.random.IntN(3) {
		q := c.statement()
		all = append(all, q)
		batch.Queue(soakBars, q.args()...)
	}
	results := c.conn.SendBatch(ctx, batch)
	for _, q := range all {
		rows, err := results.Query()
		var tags []string
		var bars []market.Bar
		if err == nil {
			tags, bars, err = collectSoak(rows)
		}
		if !c.check(q, tags, bars, err) {
			break
		}
	}
	_ = results.Close()
}

// block asks in a transaction, which it may forget to end.
func (c *pgxClient) block(ctx context.Context) {
	level := []pgx.TxIsoLevel{pgx.ReadCommitted, pgx.RepeatableRead}[c.random.IntN(2)]
	tx, err := c.conn.BeginTx(ctx, pgx.TxOptions{IsoLevel: level})
	if err != nil {
		c.failed("begin", err)
		return
	}
	for range 1 + c.random.IntN(3) {
		if !c.ask(ctx, c.statement()) {
			break
		}
	}
	if c.random.IntN(5) == 0 {
		_ = c.conn.PgConn().Conn().Close()
		_ = c.conn.Close(ctx)
		c.soak.count("left in a transaction")
		return
	}
	if err := tx.Rollback(ctx); err != nil {
		c.failed("rollback", err)
	}
}

// several sends a string of two statements.
func (c *pgxClient) several(ctx context.Context) {
	all := []soakStatement{c.statement(), c.statement()}
	results, err := c.conn.PgConn().Exec(ctx, all[0].text()+"; "+all[1].text()).ReadAll()
	if err != nil {
		c.failed(all[0].String(), err)
		return
	}
	if len(results) != len(all) {
		c.soak.fail("%v: %d results instead of %d", all[0], len(results), len(all))
		return
	}
	for n, q := range all {
		var tags []string
		var bars []market.Bar
		for _, row := range results[n].Rows {
			var tag string
			var ts time.Time
			var b market.Bar
			for i, into := range []any{&tag, &ts, &b.Open, &b.High, &b.Low, &b.Close, &b.Volume} {
				field := results[n].FieldDescriptions[i]
				if err := c.conn.TypeMap().Scan(field.DataTypeOID, field.Format, row[i], into); err != nil {
					c.failed(q.String(), errors.Join(errMalformed, err))
					return
				}
			}
			b.TS = market.FromTime(ts)
			tags, bars = append(tags, tag), append(bars, b)
		}
		c.check(q, tags, bars, nil)
	}
}

// wrong sends a statement that fails with an error that carries its tag.
func (c *pgxClient) wrong(ctx context.Context) {
	q := c.statement()
	_, err := c.conn.Exec(ctx, `select cast($1::text as int)`, q.tag)
	var told *pgconn.PgError
	if errors.As(err, &told) && told.Code == pgerrcode.InvalidTextRepresentation {
		if !strings.Contains(told.Message, `"`+q.tag+`"`) {
			c.soak.fail("%v: it got the error %q", q, told.Message)
		}
		c.soak.count("right errors")
		return
	}
	if err == nil {
		c.soak.fail("%v: it got an answer", q)
		return
	}
	c.failed(q.String(), err)
}
