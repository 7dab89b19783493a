package coverage

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestRule7_TheLeaseIsOfBothClocks: neither a clock that is set back nor a machine that was suspended makes an index last longer.
func TestRule7_TheLeaseIsOfBothClocks(t *testing.T) {
	t.Parallel()
	const s = time.Second
	for _, each := range []struct {
		name            string
		monotonic, wall time.Duration
		age             time.Duration
		valid           bool
	}{
		{"at once", 0, 0, 0, true},
		{"just within", 5*s - 1, 5*s - 1, 5*s - 1, true},
		{"over", 5 * s, 5 * s, 5 * s, false},
		{"suspended for an hour", s, time.Hour, time.Hour, false},
		{"set back by four seconds", 5 * s, s, 5 * s, false},
		{"set back by an hour", s, -time.Hour, s, false},
		{"set forward by an hour", s, time.Hour, time.Hour, false},
	} {
		age, valid := within(5*s, each.monotonic, each.wall)
		require.Equal(t, each.age, age, each.name)
		require.Equal(t, each.valid, valid, each.name)
	}
}
