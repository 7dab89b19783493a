package schema

import (
	"context"
	"errors"
	"io"
	"net"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5/pgconn"
)

// Lost reports whether err is of the connection or its making and not of what was asked: the same question may be answered
// a moment later, on another connection. A question whose time is up, by a deadline, counts: nobody answered.
func Lost(err error) bool {
	var connect *pgconn.ConnectError
	var network net.Error
	var refused *pgconn.PgError
	switch {
	case err == nil:
		return false
	case errors.As(err, &connect), errors.As(err, &network), errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF),
		errors.Is(err, net.ErrClosed), errors.Is(err, pgconn.ErrConnClosed), errors.Is(err, context.DeadlineExceeded):
		return true
	case errors.As(err, &refused):
		switch refused.Code {
		case pgerrcode.AdminShutdown, pgerrcode.CrashShutdown, pgerrcode.CannotConnectNow:
			return true
		}
		return pgerrcode.IsConnectionException(refused.Code)
	}
	return false
}
