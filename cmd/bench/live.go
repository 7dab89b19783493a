package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/coder/websocket"
	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"
)

const (
	liveSeries    = 50
	liveListeners = 200
	// liveEvery is how often each series is told: less often than barkeep bounds the rate of forming bars to, so that each is
	// passed on at once.
	liveEvery = 1500 * time.Millisecond
	// liveWindow has the end of one minute in it, wherever it begins: all series close at once.
	liveWindow = 61 * time.Second
)

// feeds are the connections to the stand-in's kline streams.
type feeds struct {
	mu    sync.Mutex
	conns map[string]*websocket.Conn // guarded by mu; by the symbol that is subscribed to, in lower case
}

// serve takes SUBSCRIBE and UNSUBSCRIBE of streams such as btcusdt@kline_1m until the connection ends.
func (f *feeds) serve(w http.ResponseWriter, r *http.Request) {
	conn, err := websocket.Accept(w, r, nil)
	if err != nil {
		return // it has answered
	}
	defer func() { _ = conn.CloseNow() }()
	for {
		_, text, err := conn.Read(r.Context())
		if err != nil {
			return
		}
		var m struct {
			Method string   `json:"method"`
			Params []string `json:"params"`
			ID     int64    `json:"id"`
		}
		if err := json.Unmarshal(text, &m); err != nil {
			return
		}
		f.mu.Lock()
		if f.conns == nil {
			f.conns = map[string]*websocket.Conn{}
		}
		for _, stream := range m.Params {
			symbol, _, _ := strings.Cut(stream, "@")
			if m.Method == "SUBSCRIBE" {
				f.conns[symbol] = conn
			} else {
				delete(f.conns, symbol)
			}
		}
		f.mu.Unlock()
		if conn.Write(r.Context(), websocket.MessageText, fmt.Appendf(nil, `{"result":null,"id":%d}`, m.ID)) != nil {
			return
		}
	}
}

// tell sends the state of a bar, whose volume is a number by which it is known again, and reports whether anybody is subscribed.
func (f *feeds) tell(ctx context.Context, symbol string, opened time.Time, volume int64, closed bool) bool {
	f.mu.Lock()
	conn := f.conns[strings.ToLower(symbol)]
	f.mu.Unlock()
	if conn == nil {
		return false
	}
	return conn.Write(ctx, websocket.MessageText, fmt.Appendf(nil, `{"stream":"%s@kline_1m","data":{"e":"kline","E":%d,"s":%q,"k":{"t":%d,"T":%d,"s":%q,"i":"1m",`+
		`"f":100,"L":200,"o":"100.5","c":"100.5","h":"101.25","l":"99.75","v":"%d.00000000","n":100,"x":%t,"q":"1.0","V":"0.5","Q":"0.5","B":"0"}}}`,
		strings.ToLower(symbol), time.Now().UnixMilli(), symbol, opened.UnixMilli(), opened.Add(time.Minute).UnixMilli()-1, symbol, volume, closed)) == nil
}

// formingKlines answers with the bars of a symbol that is traded now, from firstBar on.
func formingKlines(w http.ResponseWriter, query url.Values, now time.Time) {
	const step = int64(time.Minute / time.Millisecond)
	at := max(firstBar.UnixMilli(), (number(query.Get("startTime"), 0)+step-1)/step*step)
	last := min(now.UnixMilli(), number(query.Get("endTime"), now.UnixMilli()))
	text := []byte{'['}
	for rows := min(number(query.Get("limit"), 500), pageLimit); rows > 0 && at <= last; rows, at = rows-1, at+step {
		if len(text) > 1 {
			text = append(text, ',')
		}
		text = fmt.Appendf(text, `[%d,"100.5","101.25","99.75","100.5","1.00000000",%d,"0.00000000",10,"0.00000000","0.00000000","0"]`, at, at+step-1)
	}
	_, _ = w.Write(append(text, ']')) //nolint:gosec // G705: numbers
}

// measureLive times messages of the exchange from when they are sent to the notification of each listener, at a tenth of the size
// first; and beside them PostgreSQL's own notifications, which tell how busy the machine was.
func (b *bench) measureLive(ctx context.Context) error {
	for _, size := range []struct {
		series, listeners int
		most              float64
	}{{liveSeries / 10, liveListeners / 10, 0}, {liveSeries, liveListeners, 20}} {
		l := &liveRun{bench: b, series: size.series}
		if err := l.run(ctx, size.listeners); err != nil {
			return fmt.Errorf("%d listeners: %w", size.listeners, err)
		}
		label := fmt.Sprintf("exchange message to notification, %d listeners on %d series, ", size.listeners, size.series)
		for _, of := range []struct {
			name   string
			values []float64
			most   float64
		}{{"", slices.Concat(l.forming, l.final), size.most}, {"bars that close, ", l.final, 0}, {"PostgreSQL's own NOTIFY, ", l.native, 0}} {
			slices.Sort(of.values)
			b.report.measure(label+of.name+"median", "ms", of.values[len(of.values)/2], 0)
			b.report.measure(label+of.name+"99th percentile", "ms", of.values[len(of.values)*99/100], of.most)
		}
		b.report.measure(label+"notifications", "/s", float64(len(l.forming)+len(l.final))/liveWindow.Seconds(), 0)
	}
	return nil
}

// liveRun is one measurement. A message's number is its index in sent.
type liveRun struct {
	*bench
	series int

	sent      [1 << 16]atomic.Int64 // Unix nanoseconds
	number    atomic.Int64
	measuring atomic.Int64 // numbers from here on are measured; 0: none yet

	mu                     sync.Mutex
	forming, final, native []float64 // guarded by mu; ms
}

func (l *liveRun) run(ctx context.Context, listeners int) error {
	ctx, cancel := context.WithTimeoutCause(ctx, 5*time.Minute, errors.New("live bars did not come for five minutes"))
	defer cancel()
	conns, closeAll, err := connectAll(ctx, l.through, listeners)
	if err != nil {
		return err
	}
	defer closeAll()
	native, closeNative, err := l.startNative(ctx)
	if err != nil {
		return err
	}
	defer closeNative()
	group, ctx := errgroup.WithContext(ctx)
	over, end := context.WithCancel(ctx)
	defer end()
	var ready sync.WaitGroup
	ready.Add(listeners)
	for i, conn := range conns {
		group.Go(func() error { return l.listen(over, conn, numberedSymbol(livePrefix, i%l.series), ready.Done) })
	}
	for i := range l.series {
		group.Go(func() error { l.tellOf(over, i); return nil })
	}
	group.Go(func() error { return native.run(over, l) })
	group.Go(func() error {
		defer end()
		all := make(chan struct{})
		go func() { ready.Wait(); close(all) }()
		select {
		case <-all:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		l.measuring.Store(l.number.Load() + 1)
		return wait(ctx, liveWindow)
	})
	if err := group.Wait(); err != nil {
		return err
	}
	if len(l.final) < listeners*9/10 { // what is sent while the window ends may come after it
		return fmt.Errorf("%d bars that close were told, of one for each listener", len(l.final))
	}
	return nil
}

// listen takes notifications until ctx ends; started is called at the first.
func (l *liveRun) listen(ctx context.Context, conn *pgx.Conn, symbol string, started func()) error {
	if _, err := conn.Exec(ctx, `listen "ohlcv.binance:`+symbol+`.1m"`, pgx.QueryExecModeSimpleProtocol); err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	started = sync.OnceFunc(started)
	for {
		n, err := conn.WaitForNotification(ctx)
		at := time.Now()
		if ctx.Err() != nil {
			return nil //nolint:nilerr // the measurement is over
		}
		if err != nil {
			return fmt.Errorf("wait for a notification: %w", err)
		}
		var bar struct {
			Volume float64
			Final  bool
		}
		if err := json.Unmarshal([]byte(n.Payload), &bar); err != nil {
			return fmt.Errorf("read a notification: %w", err)
		}
		started()
		number := int64(bar.Volume)
		if first := l.measuring.Load(); first == 0 || number < first {
			continue
		}
		took := millis(at.Sub(time.Unix(0, l.sent[number].Load())))
		l.mu.Lock()
		if bar.Final {
			l.final = append(l.final, took)
		} else {
			l.forming = append(l.forming, took)
		}
		l.mu.Unlock()
	}
}

// tellOf tells a series' bars: at its own beat as they form, and with all others when the minute is over.
func (l *liveRun) tellOf(ctx context.Context, series int) {
	symbol := numberedSymbol(livePrefix, series)
	if wait(ctx, liveEvery*time.Duration(series)/time.Duration(l.series)) != nil {
		return
	}
	tick := time.NewTicker(liveEvery)
	defer tick.Stop()
	for {
		minute := time.Now().Truncate(time.Minute)
		closes := time.NewTimer(time.Until(minute.Add(time.Minute)))
		for forming := true; forming; {
			select {
			case <-ctx.Done():
				closes.Stop()
				return
			case <-closes.C:
				forming = false
			case now := <-tick.C:
				if forming = now.Before(minute.Add(time.Minute)); !forming {
					closes.Stop()
				}
			}
			number := l.number.Add(1)
			l.sent[number].Store(time.Now().UnixNano())
			l.exchange.feeds.tell(ctx, symbol, minute, number, !forming)
		}
	}
}

// nativeNotify is a connection that notifies and one that listens, both straight at the database.
type nativeNotify struct{ from, to *pgx.Conn }

func (b *bench) startNative(ctx context.Context) (n *nativeNotify, closeAll func(), err error) {
	conns, closeAll, err := connectAll(ctx, b.direct, 2)
	if err != nil {
		return nil, nil, err
	}
	if _, err := conns[1].Exec(ctx, "listen bench_native"); err != nil {
		closeAll()
		return nil, nil, fmt.Errorf("listen: %w", err)
	}
	return &nativeNotify{conns[0], conns[1]}, closeAll, nil
}

// run notifies ten times a second, and times each one while the window is open.
func (n *nativeNotify) run(ctx context.Context, l *liveRun) error {
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		began := time.Now()
		_, err := n.from.Exec(ctx, "notify bench_native")
		if err == nil {
			_, err = n.to.WaitForNotification(ctx)
		}
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return fmt.Errorf("notify: %w", err)
		}
		if l.measuring.Load() > 0 {
			l.mu.Lock()
			l.native = append(l.native, millis(time.Since(began)))
			l.mu.Unlock()
		}
	}
}

// wait returns nil after d.
func wait(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
