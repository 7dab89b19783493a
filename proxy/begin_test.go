package proxy

import (
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgproto3"
	"github.com/stretchr/testify/require"
)

// PROTOCOL 5: what fails behind the BEGIN of its own segment leaves a failed block, as PostgreSQL does, and nothing of it is committed.
func TestFailedBehindItsBegin(t *testing.T) {
	b := start(t, nil)
	segment := func(texts ...string) (out []pgproto3.FrontendMessage) {
		for _, text := range texts {
			out = append(out, &pgproto3.Parse{Query: text}, &pgproto3.Bind{}, &pgproto3.Execute{})
		}
		return append(out, &pgproto3.Sync{})
	}
	query := func(text string) []pgproto3.FrontendMessage {
		return []pgproto3.FrontendMessage{&pgproto3.Query{String: text}}
	}
	for name, each := range map[string]struct {
		messages []pgproto3.FrontendMessage
		tx       string
	}{
		"segment":              {segment("BEGIN", read), "E"},
		"read only":            {segment("BEGIN READ ONLY", read), "E"}, // pgjdbc's setReadOnly
		"with a level":         {segment("begin isolation level serializable", read), "E"},
		"level, between":       {segment("/* orm */ start transaction read only, isolation level repeatable read", "select 1", read), "E"},
		"select between":       {segment("begin", "select 1", read), "E"},
		"no block":             {segment("select 1", read), "I"},
		"Query":                {query("BEGIN;" + read), "E"},
		"Query of three":       {query("begin isolation level serializable; select 1; " + read + "; commit"), "E"},
		"Query, ended":         {query("begin; select 1; commit; " + read), "I"},
		"Query without BEGIN":  {query("select 1; " + read), "I"},
		"begin after a COMMIT": {query("commit; begin; " + read), "I"}, // PostgreSQL says E; the client hears of an error all the same
	} {
		t.Run(name, func(t *testing.T) {
			b.forget(make(chan struct{}))
			c := dialRaw(t, b.url, false)
			c.send(each.messages...)
			require.Eventually(t, b.server.endOneHold, 10*time.Second, time.Millisecond)
			require.Equal(t, "57014", c.until('E'))
			require.Equal(t, each.tx, c.until('Z'))
			c.send(&pgproto3.Query{String: "select 1"})
			if each.tx == "E" {
				require.Equal(t, "25P02", c.until('E'))
			}
			require.Equal(t, each.tx, c.until('Z'))
			c.send(&pgproto3.Query{String: "rollback"})
			require.Equal(t, "I", c.until('Z'))
			c.send(&pgproto3.Query{String: "select 1"})
			require.Equal(t, "SELECT 1\x00", c.until('C'))
		})
	}
}
