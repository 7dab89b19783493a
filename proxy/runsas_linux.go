package proxy

import (
	"net"
	"syscall"
)

// runsAs reports whether the process at the other end of a unix socket ran as this user when it connected: SO_PEERCRED, by
// which PostgreSQL knows a peer (getpeereid). Of a connection that is none it is not known.
func runsAs(conn net.Conn, uid int) bool {
	socket, ok := conn.(*net.UnixConn)
	if !ok {
		return false
	}
	raw, err := socket.SyscallConn()
	if err != nil {
		return false
	}
	same := false
	err = raw.Control(func(fd uintptr) {
		peer, err := syscall.GetsockoptUcred(int(fd), syscall.SOL_SOCKET, syscall.SO_PEERCRED)
		same = err == nil && int(peer.Uid) == uid
	})
	return err == nil && same
}
