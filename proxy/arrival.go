package proxy

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"time"
)

// arrival is a connection from accept until it has logged in. What it costs is bounded by how many there are
// (Limits.MaxStarting), whoever sends what: a goroutine, a packet of startup, a handshake.
//
// Beyond the bound the one gives way that has waited longest, of the address that has the most. To turn the newest away, as
// PostgreSQL and PgBouncer do with those that have logged in, would let a few hundred silent connections lock everybody out
// for as long as a login may take; a client that speaks is through in a few milliseconds. A session that waits for its
// client's proof keeps the place of another for arrivalGrace at most.
type arrival struct {
	session *session
	from    netip.Prefix
	since   time.Time
	leave   context.CancelCauseFunc
}

// arrivalGrace is what a client has to prove itself before it may have to give its place as a session to another. A person who types a
// password does so before the driver connects.
const arrivalGrace = 5 * time.Second

// arrivals are all of them. The Server's mu guards it.
type arrivals struct {
	of  map[netip.Prefix][]*arrival // in the order in which they came
	all int
}

func newArrivals() arrivals { return arrivals{of: map[netip.Prefix][]*arrival{}} }

func (a *arrivals) add(each *arrival) {
	a.of[each.from] = append(a.of[each.from], each)
	a.all++
}

func (a *arrivals) remove(each *arrival) {
	list := a.of[each.from]
	i := slices.Index(list, each)
	if i < 0 {
		return // it has given way
	}
	a.all--
	if len(list) == 1 {
		delete(a.of, each.from)
		return
	}
	a.of[each.from] = slices.Delete(list, i, i+1)
}

// oldestOfMost returns who gives way.
func (a *arrivals) oldestOfMost() *arrival {
	var most []*arrival
	for _, list := range a.of {
		if len(list) > len(most) || len(list) == len(most) && len(list) > 0 && list[0].since.Before(most[0].since) {
			most = list
		}
	}
	return most[0]
}

// arrive counts a connection until leave is called, which may be more than once. The context ends, with its cause, when the
// connection has to give way.
func (s *Server) arrive(ctx context.Context, each *session) (login context.Context, leave func()) {
	login, end := context.WithCancelCause(ctx)
	mine := &arrival{session: each, from: origin(each.client.RemoteAddr()), since: time.Now(), leave: end}
	s.mu.Lock()
	s.arrivals.add(mine)
	var gives *arrival
	if s.arrivals.all > s.limits().MaxStarting {
		gives = s.arrivals.oldestOfMost()
		s.arrivals.remove(gives)
	}
	s.mu.Unlock()
	if gives != nil {
		gives.leave(errTooManySessions)
	}
	return login, func() {
		s.mu.Lock()
		s.arrivals.remove(mine)
		s.mu.Unlock()
		end(nil)
	}
}

// makeRoom ends the session that has been waiting longest for its client's proof, if that is too long, and reports whether
// there is one. The caller holds mu.
func (s *Server) makeRoom() bool {
	var gives *arrival
	for _, list := range s.arrivals.of {
		for _, each := range list {
			_, counts := s.sessions[each.session]
			if counts && !each.session.admitted && (gives == nil || each.since.Before(gives.since)) {
				gives = each
			}
		}
	}
	if gives == nil || time.Since(gives.since) < arrivalGrace {
		return false
	}
	s.arrivals.remove(gives)
	delete(s.sessions, gives.session)
	gives.leave(errTooManySessions)
	return true
}

// endLogins ends the connections that have not logged in.
func (s *Server) endLogins() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, list := range s.arrivals.of {
		for _, each := range list {
			each.leave(errShutdown)
		}
	}
}

// origin is whose connection it is: an IPv4 address, the network of an IPv6 host, or this machine's unix sockets.
func origin(address net.Addr) netip.Prefix {
	tcp, ok := address.(*net.TCPAddr)
	if !ok {
		return netip.Prefix{}
	}
	ip := tcp.AddrPort().Addr().Unmap()
	bits := 64
	if ip.Is4() {
		bits = 32
	}
	prefix, err := ip.WithZone("").Prefix(bits)
	if err != nil {
		return netip.Prefix{}
	}
	return prefix
}

// sentAway tells a client why its login was ended from outside, and returns that as an error.
func (s *session) sentAway(cause error) error {
	var own *Error
	if !errors.As(cause, &own) {
		own = errShutdown
	}
	if err := s.client.SetWriteDeadline(time.Now().Add(time.Second)); err != nil {
		return err
	}
	return s.refuse(own)
}
