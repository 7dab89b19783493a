//go:build !linux

package proxy

import "net"

// runsAs is not known here: who peer lets in has to prove itself otherwise.
func runsAs(net.Conn, int) bool { return false }
