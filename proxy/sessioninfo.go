package proxy

import "time"

// SessionInfo is what the status page says of a session.
type SessionInfo struct {
	// PID is the process id that the database gave it, zero until then.
	PID                    uint32
	User, Database, Client string
	// State is starting, idle, active, in transaction, failed transaction or held.
	State string
	Since time.Time
}

// List returns the sessions in no order. The caller owns the slice.
func (s *Server) List() []SessionInfo {
	sessions := s.list()
	list := make([]SessionInfo, len(sessions))
	for i, each := range sessions {
		list[i] = each.describeNow()
	}
	return list
}

func (s *session) describeNow() SessionInfo {
	s.mu.Lock()
	defer s.mu.Unlock()
	info := s.info
	switch {
	case !s.running:
		info.State = "starting"
	case s.held:
		info.State = "held"
	case s.waiting > 0:
		info.State = "active"
	case s.tx == 'T':
		info.State = "in transaction"
	case s.tx == 'E':
		info.State = "failed transaction"
	default:
		info.State = "idle"
	}
	return info
}
