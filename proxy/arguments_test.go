package proxy

import (
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgproto3"
	"github.com/stretchr/testify/require"
)

// TestArguments: the parameters of a Bind are what pgproto3 takes them for, whole, cut off and with anything in it.
func TestArguments(t *testing.T) {
	t.Parallel()
	random := rand.New(rand.NewPCG(1, 2))
	for range 300 {
		bind := pgproto3.Bind{PreparedStatement: "p"}
		for range random.IntN(4) {
			bind.ParameterFormatCodes = append(bind.ParameterFormatCodes, int16(random.IntN(2)))
		}
		for range random.IntN(4) {
			var value []byte // NULL
			if n := random.IntN(5); n > 0 {
				value = make([]byte, n-1)
			}
			bind.Parameters = append(bind.Parameters, value)
		}
		for range random.IntN(3) {
			bind.ResultFormatCodes = append(bind.ResultFormatCodes, 1)
		}
		body := encode(&bind)[5:]
		for end := range len(body) + 1 {
			sameArguments(t, body[:end])
		}
		for range 20 {
			body[3+random.IntN(len(body)-3)] = byte(random.IntN(256))
			sameArguments(t, body)
		}
	}
}

// sameArguments compares what of a Bind is understood, if its names are.
func sameArguments(t *testing.T, body []byte) {
	t.Helper()
	_, rest, ok := cstring(body)
	_, rest, ok2 := cstring(rest)
	if !ok || !ok2 {
		return
	}
	var message pgproto3.Bind
	err := message.Decode(body)
	args, ok := arguments(rest)
	require.Equal(t, err == nil, ok, "%x", body)
	if ok {
		require.Equal(t, message.ParameterFormatCodes, args.Formats, "%x", body)
		require.Equal(t, message.Parameters, args.Values, "%x", body)
	}
}

// TestArgsRoom: parameters in a room are as those in memory of their own, until it is free; while it is lent, and after it was left to who
// has them, others do not come near them.
func TestArgsRoom(t *testing.T) {
	t.Parallel()
	behind := func(values ...string) []byte {
		bind := pgproto3.Bind{ParameterFormatCodes: make([]int16, len(values))}
		for _, value := range values {
			bind.Parameters = append(bind.Parameters, []byte(value))
		}
		return encode(&bind)[5+2:]
	}
	var room argsRoom
	first, ok := room.of(behind("a", "bc"))
	require.True(t, ok)
	second, ok := room.of(behind("xyz"))
	require.True(t, ok)
	require.Equal(t, [][]byte{[]byte("a"), []byte("bc")}, first.Values)
	require.Equal(t, [][]byte{[]byte("xyz")}, second.Values)
	kept := first.Values[1]
	room.free()
	require.Equal(t, []byte{0, 0}, kept, "overwritten")
	require.Nil(t, first.Values[0])
	require.Equal(t, [][]byte{[]byte("xyz")}, second.Values, "not the room's")
	third, _ := room.of(behind("d"))
	room.leave()
	fourth, _ := room.of(behind("e"))
	room.free()
	require.Equal(t, [][]byte{[]byte("d")}, third.Values)
	require.Nil(t, fourth.Values[0])
	_, _ = room.of(behind(strings.Repeat("x", maxArgsRoom+1)))
	room.free()
	require.Equal(t, argsRoom{}, room, "too much to keep")
}
