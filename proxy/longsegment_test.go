package proxy

import (
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgproto3"
	"github.com/stretchr/testify/require"
)

// PROTOCOL 1: what is buffered of a segment is bounded. A client that writes on until it hears of an error, and sends its Sync then,
// hears of it, held or not (asyncpg's executemany).
func TestErrorInALongSegment(t *testing.T) {
	for name, each := range map[string]struct {
		force time.Duration
		text  string
	}{
		"passed":  {0, "insert into once values ($1, $2)"},
		"planned": {0, strings.Replace(read, "count(*)", "1/length($1), $2", 1)},
		"forced":  {time.Millisecond, "insert into once values ($1, $2)"},
	} {
		t.Run(name, func(t *testing.T) {
			b := start(t, func(c *Config) { c.ForceHold = each.force })
			c := dialRaw(t, b.url, false)
			c.send(&pgproto3.Query{String: "create temp table once (a text primary key, b text)"})
			require.Equal(t, "I", c.until('Z'))
			c.send(&pgproto3.Parse{Name: "many", Query: each.text, ParameterOIDs: []uint32{25, 25}}, &pgproto3.Sync{})
			require.Equal(t, "I", c.until('Z'))
			row := []pgproto3.FrontendMessage{
				&pgproto3.Bind{PreparedStatement: "many", Parameters: [][]byte{{}, []byte(strings.Repeat("x", 32<<10))}}, &pgproto3.Execute{},
			}
			for range 40 {
				c.send(row...)
			}
			require.NotEmpty(t, c.until('E'))
			c.send(row...)
			c.send(&pgproto3.Sync{})
			require.Equal(t, "I", c.until('Z'))
			c.send(&pgproto3.Query{String: "select count(*) from once"})
			require.Equal(t, "\x00\x01\x00\x00\x00\x010", c.until('D'))
		})
	}
}

// What the client sends while the first part of a long segment is held is not left lying: its Sync may be there.
func TestEndOfALongSegmentDuringItsHold(t *testing.T) {
	b := start(t, func(c *Config) { c.NoticeAfter, c.NoticeEvery = time.Millisecond, time.Millisecond })
	b.block = make(chan struct{})
	c := dialRaw(t, b.url, false)
	c.send(&pgproto3.Parse{Query: strings.Replace(read, "count(*)", "count(*), $1", 1), ParameterOIDs: []uint32{25}})
	row := []byte(strings.Repeat("x", 32<<10))
	for range 1 + maxGated/len(row) {
		c.send(&pgproto3.Bind{Parameters: [][]byte{row}}, &pgproto3.Execute{})
	}
	<-b.began
	c.send(&pgproto3.Sync{})
	for range 20 {
		c.until('N') // barkeep reads between two of them
	}
	close(b.block)
	require.Equal(t, "I", c.until('Z'))
}
