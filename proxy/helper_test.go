package proxy

import (
	"context"
	"errors"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"

	"barkeep/internal/catalog"
	"barkeep/internal/dbtest"
	"barkeep/internal/market"
)

// filler is a coordinator that inserts what is missing.
type filler struct {
	db *dbtest.DB

	mu      sync.Mutex // guards what follows
	version int64
	covered map[market.Series]int64 // the version at which it was covered
	block   chan struct{}           // Ensure waits for it to close
	lacks   []string                // Ensure brings nothing and returns these
	asked   []Request
	began   chan struct{}
	ended   chan error
}

func newFiller(db *dbtest.DB) *filler {
	return &filler{db: db, covered: map[market.Series]int64{}, began: make(chan struct{}, 100), ended: make(chan error, 100)}
}

func (f *filler) Snapshot() Version {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.version
}

func (f *filler) Missing(_ context.Context, request Request) (int64, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, each := range request.Requirements {
		at, ok := f.covered[each.Series]
		if !ok {
			return 10, nil
		}
		if v, repeatable := request.At.(int64); repeatable && at > v {
			return 10, nil
		}
	}
	return 0, nil
}

func (f *filler) Ensure(ctx context.Context, request Request, progress func(market.Progress)) (_ []string, err error) {
	defer func() { f.ended <- err }()
	f.mu.Lock()
	f.asked = append(f.asked, request)
	block, lacks := f.block, f.lacks
	f.mu.Unlock()
	f.began <- struct{}{}
	progress(market.Progress{Series: request.Requirements[0].Series, Done: 581_000, Total: 4_840_000, Left: 90 * time.Second})
	if block != nil {
		select {
		case <-block:
		case <-ctx.Done():
			if request.Mode == "partial" && errors.Is(context.Cause(ctx), errHoldTimeout) {
				return []string{"answered with what is stored"}, nil // as the coordinator does
			}
			return nil, context.Cause(ctx)
		}
	}
	if len(lacks) > 0 {
		return lacks, nil
	}
	for _, each := range request.Requirements {
		if err := f.fill(ctx, each.Series); err != nil {
			return nil, err
		}
	}
	if missing, _ := f.Missing(ctx, request); missing > 0 {
		return nil, &Error{Code: "40001", Message: "bars came after the transaction's snapshot", HintText: "Retry the transaction."}
	}
	return nil, nil
}

// Explain says that ten bars of each series are needed.
func (f *filler) Explain(ctx context.Context, request Request) ([]Explanation, error) {
	var list []Explanation
	for _, each := range request.Requirements {
		e := Explanation{Series: each.Series, Source: "sim", Needed: each.Ranges, Took: -1}
		if missing, _ := f.Missing(ctx, Request{Requirements: []market.Requirement{each}}); missing > 0 {
			e.Missing, e.Pages = e.Needed, 1
		}
		list = append(list, e)
	}
	return list, nil
}

func (f *filler) fill(ctx context.Context, series market.Series) error {
	_, err := f.db.Pool.Exec(ctx, `insert into public.ohlcv select $1, $2, timestamptz '2024-01-01Z' + i * interval '1 minute', 1, 1, 1, 1, 1
		from generate_series(0, 9) i on conflict do nothing`, string(series.Symbol), series.Timeframe.String())
	if err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if _, ok := f.covered[series]; !ok {
		f.version++
		f.covered[series] = f.version
	}
	return nil
}

// bar is a running proxy on a database of its own.
type bar struct {
	*filler
	server *Server
	url    string
	stop   func()
}

func start(t *testing.T, change func(*Config)) *bar {
	t.Helper()
	db := dbtest.New(t)
	config, err := pgx.ParseConfig(db.URL)
	require.NoError(t, err)
	f := newFiller(db)
	names := catalog.New(db.Pool, nil, "")
	require.NoError(t, names.Refresh(t.Context()))
	cfg := Config{
		Upstream:    Upstream{Place: Place{Network: "tcp", Address: net.JoinHostPort(config.Host, itoa(int(config.Port)))}},
		Database:    config.Database,
		Coordinator: f, Explainer: f, Catalog: names, Limits: Limits{Grace: time.Second},
	}
	if change != nil {
		change(&cfg)
	}
	server := New(cfg)
	listener, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { _ = server.Serve(ctx, listener) })
	stop := sync.OnceFunc(func() { cancel(); running.Wait() })
	t.Cleanup(stop)
	url := strings.Replace(db.URL, net.JoinHostPort(config.Host, itoa(int(config.Port))), listener.Addr().String(), 1)
	return &bar{filler: f, server: server, url: url, stop: stop}
}

func itoa(n int) string {
	return grouped(int64(n))[:0] + strings.ReplaceAll(grouped(int64(n)), ",", "")
}

func (b *bar) connect(t *testing.T, notices chan<- string) *pgx.Conn {
	t.Helper()
	config, err := pgx.ParseConfig(b.url)
	require.NoError(t, err)
	if notices != nil {
		config.OnNotice = func(_ *pgconn.PgConn, n *pgconn.Notice) { notices <- n.Severity + ": " + n.Message }
	}
	conn, err := pgx.ConnectConfig(t.Context(), config)
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	return conn
}
