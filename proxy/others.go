package proxy

import (
	"context"
	"encoding/binary"
	"log/slog"
	"slices"
)

// Others are the other barkeeps in front of the same database, behind one address perhaps: a client's cancel request may come to
// any of them.
type Others interface {
	// Cancel has the one deal with a cancel request that has the session, and returns when that has. It reports false where
	// none has it: then nobody does but the caller.
	Cancel(ctx context.Context, pid uint32, secret []byte) (dealt bool, err error)
}

// elsewhere has another barkeep deal with a cancel request for a session that this one has not, and reports whether one did.
func (s *Server) elsewhere(ctx context.Context, packet []byte) bool {
	if s.cfg.Others == nil {
		return false
	}
	dealt, err := s.cfg.Others.Cancel(ctx, binary.BigEndian.Uint32(packet[8:]), packet[keyAt:])
	if err != nil {
		s.cfg.Logger.WarnContext(ctx, "cancel request not told to other barkeeps", slog.Any("error", err))
	}
	return dealt
}

// Find returns what deals with a cancel request for the session whose upstream has this process id and whose secret matches, as
// if it had come to this server; nil if there is none. It looks at the secrets of all sessions with that process id.
func (s *Server) Find(pid uint32, matches func(secret []byte) bool) func(ctx context.Context) error {
	s.mu.Lock()
	sessions := slices.Clone(s.keys[pid])
	s.mu.Unlock()
	var target *session
	for _, each := range sessions {
		if matches(each.secret) {
			target = each
		}
	}
	if target == nil {
		return nil
	}
	packet := binary.BigEndian.AppendUint32(nil, uint32(keyAt+len(target.secret))) //nolint:gosec // at most maxKey
	packet = binary.BigEndian.AppendUint32(packet, codeCancel)
	packet = append(binary.BigEndian.AppendUint32(packet, pid), target.secret...)
	return func(ctx context.Context) error {
		ctx, giveUp := context.WithTimeoutCause(ctx, s.patience, errCancelLost)
		defer giveUp()
		return s.cancelAt(ctx, ctx, target, packet)
	}
}

// EndHold ends the hold of the session of this number, if it has one, as a cancel request does.
func (s *Server) EndHold(number uint64) {
	for _, each := range s.list() {
		if each.number == number {
			each.endHold(errCanceled)
		}
	}
}
