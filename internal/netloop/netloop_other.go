//go:build !linux || 386 || s390x

package netloop

import (
	"context"
	"errors"
	"net"
	"time"
)

// Loop is not available on this system.
type Loop struct{}

// New returns errors.ErrUnsupported.
func New() (*Loop, error) { return nil, errors.ErrUnsupported }

// Close does nothing.
func (*Loop) Close() error { return nil }

// Run returns errors.ErrUnsupported.
func (*Loop) Run(context.Context) error { return errors.ErrUnsupported }

// Take returns errors.ErrUnsupported.
func (*Loop) Take(net.Conn) (*Conn, error) { return nil, errors.ErrUnsupported }

// Conn is not available on this system.
type Conn struct{ net.Conn }

// Handle does nothing.
func (*Conn) Handle(_, _ func()) {}

// WatchRead does nothing.
func (*Conn) WatchRead(bool) {}

// WatchWrite does nothing.
func (*Conn) WatchWrite(bool) {}

// Woken returns no time.
func (*Conn) Woken() time.Time { return time.Time{} }

// TryRead returns errors.ErrUnsupported.
func (*Conn) TryRead([]byte) (int, error) { return 0, errors.ErrUnsupported }

// TryWrite returns errors.ErrUnsupported.
func (*Conn) TryWrite([]byte) (int, error) { return 0, errors.ErrUnsupported }
