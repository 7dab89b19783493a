package proxy

import (
	"encoding/binary"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgproto3"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
)

// Config.ForceHold holds what cannot read ohlcv too, plans nothing of it, and changes no answer.
func TestForceHold(t *testing.T) {
	registry := prometheus.NewRegistry()
	b := start(t, func(c *Config) { c.ForceHold, c.Metrics = 5*time.Millisecond, NewMetrics(registry) })
	holds := func() uint64 {
		families, err := registry.Gather()
		require.NoError(t, err)
		for _, family := range families {
			if family.GetName() == "barkeep_proxy_hold_seconds" {
				return family.GetMetric()[0].GetHistogram().GetSampleCount()
			}
		}
		return 0
	}
	for _, mode := range []pgx.QueryExecMode{pgx.QueryExecModeSimpleProtocol, pgx.QueryExecModeExec, pgx.QueryExecModeCacheStatement} {
		conn := b.connect(t, nil)
		for _, each := range []struct{ sql, state string }{
			{"select 1", ""},
			{"", ""},
			{"select 1; select 2", ""},
			{"selec 1", "42601"},
			{"begin isolation level repeatable read", ""},
			{"set transaction isolation level serializable", ""},
			{"declare c cursor for select 1", ""},
			{"fetch c", ""},
			{"commit", ""},
			{"begin", ""},
			{"set local statement_timeout = '100ms'", ""},
			{"select pg_sleep(1)", "57014"},
			{"select 1", "25P02"},
			{"rollback", ""},
			{"select count(*) from ohlcv where symbol = 'sim:BTCUSD' and timeframe = '1m' and ts = '2024-01-01Z'", ""},
		} {
			before := holds()
			if mode != pgx.QueryExecModeSimpleProtocol && strings.Contains(each.sql, ";") {
				continue
			}
			_, err := conn.Exec(t.Context(), each.sql, mode)
			require.Equal(t, each.state, code(err), each.sql)
			if each.sql != "rollback" && (each.state == "" || each.state == "57014") { // a failed block is never held
				require.Greater(t, holds(), before, "not held: %s", each.sql)
			}
		}
	}
	require.Len(t, b.requested(), 1, "the coordinator is asked for bars that are missing, and no others")
}

// A parameter of a Query is none, forced or not: the upstream's word for it is that of an execution.
func TestParameterInQuery(t *testing.T) {
	for _, force := range []time.Duration{0, time.Millisecond} {
		b := start(t, func(c *Config) { c.ForceHold = force })
		conn := b.connect(t, nil)
		for _, sql := range []string{"select $1", read + " and $1 is null"} {
			_, err := conn.Exec(t.Context(), sql, pgx.QueryExecModeSimpleProtocol)
			require.Equal(t, "42P02", code(err), "%s, %s", sql, force)
		}
	}
}

// A forced hold ends as others do.
func TestForceHoldEnds(t *testing.T) {
	b := start(t, func(c *Config) { c.ForceHold = 24 * time.Hour })
	for _, block := range []bool{false, true} {
		c := dialRaw(t, b.url, false)
		if block {
			// Nothing of it is answered while it is held.
			c.send(&pgproto3.Query{String: "begin"})
			require.Eventually(t, func() bool { return b.server.endOneHold() }, 5*time.Second, time.Millisecond)
			require.Equal(t, "57014", c.until('E'))
			c.until('Z')
		}
		c.send(&pgproto3.Parse{Query: "select 1"}, &pgproto3.Bind{}, &pgproto3.Execute{}, &pgproto3.Sync{})
		require.Eventually(t, func() bool { return b.server.endOneHold() }, 5*time.Second, time.Millisecond)
		require.Equal(t, "57014", c.until('E'))
		require.Equal(t, "I", c.until('Z'))
	}
}

// endOneHold cancels what is held, as a cancel request would.
func (s *Server) endOneHold() bool {
	for _, each := range s.list() {
		each.mu.Lock()
		held := each.held
		each.mu.Unlock()
		if held {
			each.cancelStatement()
			return true
		}
	}
	return false
}

// PROTOCOL 1: a FunctionCall needs no Sync behind it, so that what is held before it cannot wait for one.
func TestFunctionCallBehindSegment(t *testing.T) {
	b := start(t, nil)
	conn := b.connect(t, nil)
	var oid uint32
	require.NoError(t, conn.QueryRow(t.Context(), "select oid from pg_proc where proname = 'int4inc'").Scan(&oid))
	c := dialRaw(t, b.url, false)
	c.send(&pgproto3.Parse{Query: read}, &pgproto3.Bind{}, &pgproto3.Execute{},
		&pgproto3.FunctionCall{Function: oid, ArgFormatCodes: []uint16{1}, Arguments: [][]byte{binary.BigEndian.AppendUint32(nil, 41)}, ResultFormatCode: 1})
	require.Equal(t, "SELECT 1\x00", c.until('C'))
	c.until('V')
	require.Equal(t, "I", c.until('Z'))
}
