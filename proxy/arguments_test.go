package proxy

import (
	"math/rand/v2"
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
