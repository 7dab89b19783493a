package proxy

import (
	"strconv"
	"strings"
	"time"

	"barkeep/internal/market"
)

// SessionInfo is what the status page and the view of all sessions say of a session.
type SessionInfo struct {
	// Number is the session's own, from 1 and never given again by this server; PID the process id that the database gave it, zero until then.
	Number                              uint64
	PID                                 uint32
	User, Database, Client, Application string
	// State is starting, idle, active, idle in transaction, idle in transaction (aborted) or held.
	State string
	// Since is when the session began, Changed when it came into its state.
	Since, Changed time.Time
	// WaitsFor says for a held session what it waits for, Bars about how many bars are missing of that.
	WaitsFor string
	Bars     int64
	// Live are the channels of live bars that the session gets.
	Live []string
}

// waits are what a hold waits for.
type waits struct {
	since        time.Time
	requirements []market.Requirement
	bars         int64
}

// maxNamed bounds the series that are named of what a session waits for.
const maxNamed = 5

// text names the series.
func (w waits) text() string {
	var names []string
	for i, each := range w.requirements {
		if i == maxNamed {
			names = append(names, "and "+strconv.Itoa(len(w.requirements)-i)+" more")
			break
		}
		bounds := each.Ranges.Bounds()
		names = append(names, string(each.Series.Symbol)+" "+each.Series.Timeframe.String()+" "+bounds.String())
	}
	return strings.Join(names, ", ")
}

// waitsFor notes what the session is about to wait for.
func (h *hold) waitsFor(request Request, bars int64) {
	s := h.session
	s.mu.Lock()
	defer s.mu.Unlock()
	since := s.waits.since
	if h.started.IsZero() {
		since = time.Now()
	}
	s.waits = waits{since: since, requirements: request.Requirements, bars: bars}
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
	info.Application, info.Changed = s.params["application_name"], s.changed
	info.Live = s.live.channels // replaced, never changed
	switch {
	case !s.running:
		info.State, info.Changed = "starting", info.Since
	case s.held:
		info.State, info.Changed = "held", s.waits.since
		info.WaitsFor, info.Bars = s.waits.text(), s.waits.bars
	case s.waiting > 0:
		info.State = "active"
	case s.tx == 'T':
		info.State = "idle in transaction"
	case s.tx == 'E':
		info.State = "idle in transaction (aborted)"
	default:
		info.State = "idle"
	}
	return info
}
