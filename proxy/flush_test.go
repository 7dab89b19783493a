package proxy

import (
	"testing"

	"github.com/jackc/pgx/v5/pgproto3"
	"github.com/stretchr/testify/require"
)

// PROTOCOL 1: what comes in one read may have a part of a segment before what reads ohlcv, up to a Flush. Once that part is upstream
// the segment is open there: no Sync of the proxy's own may end it, and its answers are the client's.
func TestFlushBeforeWhatReads(t *testing.T) {
	b := start(t, nil)
	_, err := b.connect(t, nil).Exec(t.Context(), "create table flushed (a int)")
	require.NoError(t, err)
	for _, each := range []struct {
		name string
		last []pgproto3.FrontendMessage
		tag  string
	}{
		{"Sync", []pgproto3.FrontendMessage{&pgproto3.Parse{Query: read}, &pgproto3.Bind{}, &pgproto3.Execute{}, &pgproto3.Sync{}}, "SELECT 1\x00"},
		{"Query", []pgproto3.FrontendMessage{&pgproto3.Query{String: read}}, "SELECT 1\x00"},
	} {
		t.Run(each.name, func(t *testing.T) {
			c := dialRaw(t, b.url, false) // its settings are not read yet
			c.send(append([]pgproto3.FrontendMessage{
				&pgproto3.Parse{Query: "insert into flushed values (1)"}, &pgproto3.Bind{}, &pgproto3.Execute{}, &pgproto3.Flush{},
			}, each.last...)...)
			require.Equal(t, "INSERT 0 1\x00", c.until('C'))
			require.Equal(t, each.tag, c.until('C'))
			require.Equal(t, "I", c.until('Z'))
		})
	}
	// A failure behind it takes all of the segment back.
	c := dialRaw(t, b.url, false)
	c.send(&pgproto3.Query{String: "create temp table kept (a int)"})
	c.until('Z')
	c.send(&pgproto3.Parse{Query: "set datestyle = iso"}, &pgproto3.Bind{}, &pgproto3.Execute{},
		&pgproto3.Parse{Query: "insert into kept values (1)"}, &pgproto3.Bind{}, &pgproto3.Execute{}, &pgproto3.Flush{},
		&pgproto3.Parse{Query: read}, &pgproto3.Bind{}, &pgproto3.Execute{}, &pgproto3.Sync{})
	require.Equal(t, "SET\x00", c.until('C'))
	require.Equal(t, "INSERT 0 1\x00", c.until('C'))
	require.Equal(t, "0A000", c.until('E'), "its settings may have changed")
	require.Equal(t, "I", c.until('Z'))
	c.send(&pgproto3.Query{String: "select 1 from kept"})
	require.Equal(t, "SELECT 0\x00", c.until('C'))
}

// An error that the proxy's own Sync finds is the client's, and all that follows is dropped up to the client's Sync, a Query too.
func TestErrorBeforeWhatReads(t *testing.T) {
	b := start(t, nil)
	for name, first := range map[string]pgproto3.FrontendMessage{
		"Bind":     &pgproto3.Bind{PreparedStatement: "missing"},
		"Describe": &pgproto3.Describe{ObjectType: 'S', Name: "missing"},
	} {
		t.Run(name, func(t *testing.T) {
			for _, between := range [][]pgproto3.FrontendMessage{nil, {&pgproto3.Query{String: "select 1"}}} {
				c := dialRaw(t, b.url, false)
				c.send(append(append([]pgproto3.FrontendMessage{first}, between...),
					&pgproto3.Query{String: read}, &pgproto3.Query{String: "create temp table dropped ()"}, &pgproto3.Sync{})...)
				require.Equal(t, "26000", c.until('E'))
				c.until('Z')
				c.send(&pgproto3.Query{String: "select from dropped"})
				require.Equal(t, "42P01", c.until('E'))
				c.until('Z')
			}
		})
	}
}

// The data of a COPY goes upstream before what is pipelined behind it, which may wait for the end of the COPY.
func TestCopyBeforeWhatReads(t *testing.T) {
	b := start(t, nil)
	_, err := b.connect(t, nil).Exec(t.Context(), "create table copied (a int)")
	require.NoError(t, err)
	for name, next := range map[string][]pgproto3.FrontendMessage{
		"segment": {&pgproto3.Parse{Query: read}, &pgproto3.Bind{}, &pgproto3.Execute{}, &pgproto3.Sync{}},
		"Query":   {&pgproto3.Query{String: read}},
	} {
		t.Run(name, func(t *testing.T) {
			c := dialRaw(t, b.url, false)
			c.send(append([]pgproto3.FrontendMessage{
				&pgproto3.Query{String: "copy copied from stdin"}, &pgproto3.CopyData{Data: []byte("1\n")}, &pgproto3.CopyDone{},
			}, next...)...)
			require.Equal(t, "COPY 1\x00", c.until('C'))
			require.Equal(t, "SELECT 1\x00", c.until('C'))
			c.until('Z')
		})
	}
}

// A Bind without all parameters is an error at the upstream: no bars are fetched for it, least of all those of a bound that is not known.
func TestBindWithoutParameters(t *testing.T) {
	b := start(t, nil)
	c := dialRaw(t, b.url, false)
	c.send(&pgproto3.Parse{Name: "s", Query: read + " and ts > $1::timestamptz and 10 < $2::int"}, &pgproto3.Sync{})
	c.until('Z')
	for _, given := range [][][]byte{nil, {[]byte("2024-01-01Z")}} {
		c.send(&pgproto3.Bind{PreparedStatement: "s", Parameters: given}, &pgproto3.Execute{}, &pgproto3.Sync{})
		require.Equal(t, "08P01", c.until('E'))
		require.Equal(t, "I", c.until('Z'))
	}
	require.Empty(t, b.requested())
	c.send(&pgproto3.Bind{PreparedStatement: "s", Parameters: [][]byte{[]byte("2024-01-01Z"), []byte("11")}}, &pgproto3.Execute{}, &pgproto3.Sync{})
	require.Equal(t, "SELECT 1\x00", c.until('C'))
	require.Len(t, b.requested(), 1)
}

// A parameter that is none of its type fails at once, and no bars are fetched for it.
func TestBindOfWhatIsNoTime(t *testing.T) {
	b := start(t, nil)
	b.block = make(chan struct{}) // a hold would not end
	for _, block := range []bool{false, true} {
		c := dialRaw(t, b.url, false)
		after := "I"
		begin := func() {
			if block {
				after = "E"
				c.send(&pgproto3.Query{String: "rollback; begin"})
				c.until('Z')
			}
		}
		begin()
		bind := func(statement string) []pgproto3.FrontendMessage {
			return []pgproto3.FrontendMessage{&pgproto3.Bind{PreparedStatement: statement, Parameters: [][]byte{[]byte("soon")}}, &pgproto3.Execute{}, &pgproto3.Sync{}}
		}
		c.send(append([]pgproto3.FrontendMessage{&pgproto3.Parse{Query: read + " and ts > $1"}}, bind("")...)...)
		require.Equal(t, "22007", c.until('E'))
		require.Equal(t, after, c.until('Z'))
		begin()
		c.send(&pgproto3.Parse{Name: "s", Query: read + " and ts > $1"}, &pgproto3.Sync{})
		c.until('Z')
		c.send(bind("s")...)
		require.Equal(t, "22007", c.until('E'))
		require.Equal(t, after, c.until('Z'))
	}
	require.Empty(t, b.requested())
}
