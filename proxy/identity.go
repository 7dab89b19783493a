package proxy

import (
	"context"
	"fmt"
	"log/slog"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5/pgproto3"
)

var (
	errStandby = &Error{
		Code: pgerrcode.CannotConnectNow, Message: "the database is in recovery: bars cannot be stored there", Fatal: true,
		HintText: "Connect barkeep to the primary.",
	}
	errOtherServer = &Error{
		Code: pgerrcode.CannotConnectNow, Message: "the database is another server than the one whose bars barkeep keeps", Fatal: true,
		HintText: "Restart barkeep if the database was replaced on purpose.",
	}
)

// identify asks the upstream who it is, before the client may speak: what is known of bars holds for one server
// (PIPELINE 24), and for one life of its database (PIPELINE 19). It returns errStandby or errOtherServer. A role that may not
// ask is let in: the service's own connections are checked too.
func (s *session) identify(ctx context.Context) error {
	up := &s.server.cfg.Upstream
	if !s.planned || up.SystemIdentifier == "" {
		return nil
	}
	if _, err := s.upstream.Write(encode(&pgproto3.Query{String: up.LifeQuery + "; " + up.IdentifyQuery})); err != nil {
		return fmt.Errorf("write to upstream: %w", err)
	}
	var row pgproto3.DataRow
	for {
		message, err := s.nextUpstream()
		if err != nil {
			return err
		}
		switch message[0] {
		case 'D':
			if err := row.Decode(message[5:]); err != nil {
				return fmt.Errorf("read who the upstream is: %w", err)
			}
			if err := s.identified(ctx, row.Values); err != nil {
				return err
			}
		case 'E':
			s.log.WarnContext(ctx, "a session's server cannot be identified", slog.Any("error", upstreamError(message)))
		case 'S':
			s.parameterStatus(message[5:])
			s.greeting = append(s.greeting, message...)
		case 'Z':
			s.tx = message[5]
			return nil
		}
	}
}

// identified deals with the answers: the row of the life, then that of the identity.
func (s *session) identified(ctx context.Context, row [][]byte) error {
	switch {
	case len(row) == 1:
		s.life = string(row[0])
	case len(row) != 2:
		return fmt.Errorf("read who the upstream is: %d columns", len(row))
	case string(row[0]) != "false":
		return s.misled(ctx, errStandby)
	case string(row[1]) != s.server.cfg.Upstream.SystemIdentifier:
		return s.misled(ctx, errOtherServer)
	}
	return nil
}

// misled refuses a session whose upstream is not the one that is meant, and looks for that: the client, who has proven itself to this one,
// finds it when it comes again.
func (s *session) misled(ctx context.Context, reason *Error) error {
	if s.server.cfg.Upstream.Find != nil {
		if _, err := s.server.lookAgain(ctx, s.place); err != nil {
			s.log.WarnContext(ctx, "database not found", slog.Any("error", err))
		}
	}
	return s.refuse(reason)
}
