package schema_test

import (
	"net"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"barkeep/internal/dbtest"
)

// TestServiceConnectionsAreKeptAlive: the kernel is told to look after a connection long before its own two hours.
func TestServiceConnectionsAreKeptAlive(t *testing.T) {
	db := dbtest.New(t)
	conn, err := db.Pool.Acquire(t.Context())
	require.NoError(t, err)
	defer conn.Release()
	over, ok := conn.Conn().PgConn().Conn().(*net.TCPConn)
	if !ok {
		t.Skip("the database is reached otherwise than by TCP")
	}
	raw, err := over.SyscallConn()
	require.NoError(t, err)
	var idle, count int
	var failure error
	require.NoError(t, raw.Control(func(fd uintptr) {
		if idle, failure = syscall.GetsockoptInt(int(fd), syscall.IPPROTO_TCP, syscall.TCP_KEEPIDLE); failure == nil {
			count, failure = syscall.GetsockoptInt(int(fd), syscall.IPPROTO_TCP, syscall.TCP_KEEPCNT)
		}
	}))
	require.NoError(t, failure)
	require.Equal(t, 10, idle)
	require.Equal(t, 3, count)
}
