package proxy

import (
	"errors"
	"maps"
	"net"
	"slices"
	"testing"

	"github.com/jackc/pgx/v5/pgproto3"
	"github.com/stretchr/testify/require"

	"barkeep/internal/netloop"
)

// loopedSession is a session in memory whose messages are looked at as in a loop's callback. exchange has the client send something and
// the upstream answer it.
func loopedSession(tb testing.TB) (exchange func(sent, answer []byte)) {
	tb.Helper()
	s, _, _ := memorySession(tb)
	s.client = &memoryConn{in: deafReader{}, write: func([]byte) {}}
	loop, err := netloop.New()
	require.NoError(tb, err)
	tb.Cleanup(func() { require.NoError(tb, loop.Close()) })
	listener, err := new(net.ListenConfig).Listen(tb.Context(), "unix", tb.TempDir()+"/upstream")
	require.NoError(tb, err)
	defer listener.Close()
	near, err := new(net.Dialer).DialContext(tb.Context(), "unix", listener.Addr().String())
	require.NoError(tb, err)
	far, err := listener.Accept()
	require.NoError(tb, err)
	tb.Cleanup(func() { _ = far.Close() })
	upstream, err := loop.Take(near)
	require.NoError(tb, err)
	tb.Cleanup(func() { _ = upstream.Close() })
	r, into, inLoop := &s.reader, make([]byte, bufferSize), &looped{upstream: upstream}
	return func(sent, answer []byte) {
		r.room(nil)
		r.end += copy(r.buf[r.end:], sent)
		s.looped, r.trying = inLoop, true
		err := s.advance(tb.Context())
		if err == nil {
			err = s.payOwed()
		}
		r.trying, s.looped = false, nil
		if errors.Is(err, errWouldWait) {
			require.NoError(tb, s.advance(tb.Context()))
			r.rest(nil)
			return
		}
		require.NoError(tb, err)
		if _, err := far.Read(into); err != nil {
			tb.Fatal(err)
		}
		r.rest(nil)
		s.roomUpstream(nil)
		s.have += copy(s.upBuf[s.have:], answer)
		require.NoError(tb, s.pumpOnce())
	}
}

const (
	coveredText = "select ts, open, high, low, close, volume from ohlcv where symbol = 'binance:AAAUSDT' and timeframe = '1m' " +
		"and ts >= '2023-06-01 10:00Z' and ts < '2023-06-01 11:00Z' order by ts"
	coveredPrepared = "select ts, open, high, low, close, volume from ohlcv where symbol = $1 and timeframe = '1m' and ts >= $2 and ts < $3 order by ts"
)

// repeated are statements that a client sends again and again, by name: each call is one of them with its answer.
func repeated(tb testing.TB) map[string]func() {
	tb.Helper()
	ready := encode(&pgproto3.ReadyForQuery{TxStatus: 'I'})
	done := append(encode(&pgproto3.CommandComplete{CommandTag: []byte("SELECT 1")}), ready...)
	bound := append(encode(&pgproto3.BindComplete{}), done...)
	hour := [][]byte{[]byte("binance:AAAUSDT"), []byte("2023-06-01 10:00Z"), []byte("2023-06-01 11:00Z")}
	list := map[string]func(){}
	for _, each := range []struct {
		name, text string
		bind       *pgproto3.Bind
	}{
		{"select 1, simple", "select 1", nil},
		{"select 1, prepared", "select 1", &pgproto3.Bind{PreparedStatement: "P_0"}},
		{"covered, simple", coveredText, nil},
		{"covered, prepared", coveredPrepared, &pgproto3.Bind{PreparedStatement: "P_0", Parameters: hour}},
	} {
		exchange := loopedSession(tb)
		sent, answer := encode(&pgproto3.Query{String: each.text}), done
		exchange(encode(&pgproto3.Query{String: coveredText}), done) // settings are asked for, outside of the loop, and bars filled
		if each.bind != nil {
			exchange(slices.Concat(encode(&pgproto3.Parse{Name: "P_0", Query: each.text}), encode(&pgproto3.Sync{})),
				slices.Concat(encode(&pgproto3.ParseComplete{}), ready))
			sent, answer = slices.Concat(encode(each.bind), encode(&pgproto3.Describe{ObjectType: 'P'}), encode(&pgproto3.Execute{}), encode(&pgproto3.Sync{})), bound
		}
		list[each.name] = func() { exchange(sent, answer) }
		for range 3 { // what comes twice is kept
			exchange(sent, answer)
		}
	}
	return list
}

// TestNoAllocationPerStatement: a statement that comes again costs no memory.
func TestNoAllocationPerStatement(t *testing.T) {
	most := 0.0
	if raceEnabled { // a sync.Pool forgets some of what it was given
		most = 2
	}
	for name, once := range repeated(t) {
		require.LessOrEqual(t, testing.AllocsPerRun(200, once), most, name)
	}
}

// BenchmarkStatement is all that barkeep does for a statement in a loop's callbacks but for three of the four system calls.
func BenchmarkStatement(b *testing.B) {
	list := repeated(b)
	for _, name := range slices.Sorted(maps.Keys(list)) {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				list[name]()
			}
		})
	}
}
