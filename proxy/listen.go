package proxy

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5/pgproto3"

	"barkeep/internal/market"
	"barkeep/planner"
)

// Live gives the bars of a series as they come.
type Live interface {
	// Known returns nil where the series can be listened to, or why it cannot. It may wait for the sources' lists.
	Known(ctx context.Context, series market.Series) error
	// MayFollow returns nil where the role may follow these series beside those that it follows already, or why it may not.
	MayFollow(ctx context.Context, askedBy string, series ...market.Series) error
	// Want notes that the role follows the series, which it subscribes to next, or returns why it may not.
	Want(ctx context.Context, askedBy string, series market.Series) error
	// Subscribe has bars kept from now on; it never waits. wake is called when there are some, and must not wait.
	Subscribe(series market.Series, askedBy string, wake func()) Subscription
}

// Subscription is what waits for one session of one series.
type Subscription interface {
	// Next takes the payload that is next, and reports whether there was one. It never waits.
	Next() (payload []byte, ok bool)
	Close()
}

// Live bars by LISTEN. What a session listens to is PostgreSQL's own word: LISTEN and its kin go upstream as they came, and when a
// statement that may have changed it is over and no block is open, pg_listening_channels is asked. So LISTEN takes effect at COMMIT,
// and ROLLBACK, savepoints, UNLISTEN and DISCARD ALL do what they do at PostgreSQL. The invariant:
//
//	A notification is written only while what the upstream said last is what the session listens to: not from when a statement
//	that may change it goes upstream (ledger.push) until the next answer to the question.
//
// Notifications go where PostgreSQL puts them: between messages, right before a ReadyForQuery outside of a block, or while the
// session is idle outside of one. See ProcessNotifyInterrupt.
//
// A session that listens has a goroutine more, which writes to the client while it is idle. Where the client does not take what was
// written before, it waits, and what waits in the subscriptions is bounded: nobody else is kept.
type listening struct {
	// due says that the upstream can be asked: the pump sets it, the reader takes it.
	due atomic.Bool
	// wakes has an element when there may be something to write.
	wakes chan struct{}

	// Guarded by the session's mu.
	// channels are those that are served, in the order of their names; subs are theirs.
	channels []string
	subs     map[string]Subscription
	turn     int // whose channel's it is

	// The reader's.
	portal   bool            // a portal may listen that was bound before
	segment  bool            // the open segment may
	approved map[string]bool // channels of which it is known that the session may listen to them
	writing  sync.WaitGroup
	stop     context.CancelFunc // nil until the session has listened to something
}

const (
	livePrefix = "ohlcv."
	// maxChannelBytes is the longest name of a channel, NAMEDATALEN - 1 of PostgreSQL.
	maxChannelBytes = 63
	// maxLive bounds the series that one session listens to.
	maxLive = 1000
	// maxNotifying bounds what is written at one time.
	maxNotifying = 32 << 10
	// listeningSQL asks for one more than can be served.
	listeningSQL = "select c from pg_catalog.pg_listening_channels() c where pg_catalog.starts_with(c, 'ohlcv.') limit 1001"
)

// liveSeries returns the series whose bars are notified on a channel: its name is ohlcv, symbol and timeframe with dots between them; the
// symbol may have dots, too.
func liveSeries(channel string) (market.Series, error) {
	rest := strings.TrimPrefix(channel, livePrefix)
	at := strings.LastIndexByte(rest, '.')
	if at < 0 {
		return market.Series{}, notLive(channel, "its name has no timeframe")
	}
	tf, err := market.ParseTimeframe(rest[at+1:])
	if err != nil {
		return market.Series{}, notLive(channel, err.Error())
	}
	symbol, err := market.ParseSymbol(rest[:at])
	if err != nil {
		return market.Series{}, notLive(channel, err.Error())
	}
	return market.Series{Symbol: symbol, Timeframe: tf}, nil
}

func notLive(channel, why string) *Error {
	return &Error{
		Code: pgerrcode.InvalidParameterValue, Message: fmt.Sprintf("channel %q is no series: %s", channel, why),
		HintText: `Live bars are notified on channels such as "ohlcv.BTCUSD.1m": ohlcv, symbol and timeframe.`,
	}
}

// listens returns the unit of a text that listens to live bars, which must be known to be there first, or has to be refused.
func (s *session) listens(st *statement) []unit {
	if !st.listens || s.server.cfg.Live == nil {
		return nil
	}
	u := unit{stmt: st, forced: true}
	for _, channel := range planner.Listens(st.text) {
		if !strings.HasPrefix(channel, livePrefix) {
			continue
		}
		u.channels = append(u.channels, channel)
		if len(channel) > maxChannelBytes {
			return []unit{{stmt: st, refused: &Error{
				Code: pgerrcode.NameTooLong, Message: fmt.Sprintf("channel %q is longer than %d bytes", channel, maxChannelBytes),
				HintText: "PostgreSQL would cut the name, and it would be another series.",
			}}}
		}
		if _, err := liveSeries(channel); err != nil {
			var refused *Error
			errors.As(err, &refused)
			return []unit{{stmt: st, refused: refused}}
		}
	}
	if len(u.channels) == 0 {
		return nil
	}
	return []unit{u}
}

// mayListen returns nil where the units listen to series that are there, that the session's role may read, and that its quota has room for. Where its
// settings are not known it is asked again when the statement has taken effect.
func (s *session) mayListen(ctx context.Context, units []unit) error {
	fresh := false
	for i := range units {
		for _, channel := range units[i].channels {
			switch {
			case s.stale() || s.live.approved[channel]:
				continue
			case s.reader.trying:
				return errWouldWait
			}
			if err := s.approve(ctx, channel); err != nil {
				return err
			}
			fresh = true
		}
	}
	if !fresh {
		return nil
	}
	return s.roomToListen(ctx)
}

// roomToListen returns nil where the quota of the session's role has room for all that was approved and is not served yet.
func (s *session) roomToListen(ctx context.Context) error {
	s.mu.Lock()
	served := s.live.subs
	s.mu.Unlock()
	var more []market.Series
	for channel := range s.live.approved {
		if series, err := liveSeries(channel); err == nil && served[channel] == nil {
			more = append(more, series)
		}
	}
	err := s.server.cfg.Live.MayFollow(ctx, s.reader.settings.role, more...)
	if err != nil {
		s.live.approved = nil
	}
	return err
}

// approve returns nil where the session may listen to the channel. Its settings are known.
func (s *session) approve(ctx context.Context, channel string) error {
	series, err := liveSeries(channel)
	if err != nil {
		return err
	}
	if err := s.mayRead(ctx, need{all: true}); err != nil {
		return err
	}
	if err := s.server.cfg.Live.Known(ctx, series); err != nil {
		return err
	}
	if s.live.approved == nil {
		s.live.approved = map[string]bool{}
	}
	s.live.approved[channel] = true
	return nil
}

// listeningDue has the upstream asked what the session listens to, as soon as its reader can. The caller holds mu.
func (s *session) listeningDue() {
	if !s.unheard || s.waiting > 0 || s.tx != 'I' {
		return
	}
	s.live.due.Store(true)
	if s.looped == nil {
		_ = s.client.SetReadDeadline(time.Unix(1, 0)) // the reader clears it
		return
	}
	s.looped.take(nil)
}

// take gives the reader to the session's goroutine, unless that has it. The caller holds the session's mu.
func (l *looped) take(err error) {
	if l.away {
		return
	}
	l.away = true
	l.client.WatchRead(false)
	l.turn <- err
}

// roused reports whether the reader was only to look up, and clears what made it do so.
func (s *session) roused(err error) bool {
	var timeout net.Error
	if !errors.Is(err, os.ErrDeadlineExceeded) && (!errors.As(err, &timeout) || !timeout.Timeout()) {
		return false
	}
	return s.client.SetReadDeadline(time.Time{}) == nil
}

// attend asks the upstream what the session listens to, if that is due. Where something is outstanding, its answer makes it due again.
func (s *session) attend(ctx context.Context) error {
	r := &s.reader
	if !s.live.due.Swap(false) || r.open || r.inSegment || r.gated || r.skipping || len(r.batch)+len(r.pending) > 0 {
		return nil
	}
	s.mu.Lock()
	calm := s.unheard && s.quietNow() && s.ignored == 0 && !s.erred && !s.unended
	s.mu.Unlock()
	if !calm {
		return nil
	}
	var out []byte
	for _, message := range []pgproto3.Message{
		&pgproto3.Parse{Name: ownName, Query: listeningSQL},
		&pgproto3.Bind{DestinationPortal: ownName, PreparedStatement: ownName},
		&pgproto3.Execute{Portal: ownName},
		&pgproto3.Close{ObjectType: 'P', Name: ownName},
		&pgproto3.Close{ObjectType: 'S', Name: ownName},
	} {
		out = append(out, encode(message)...)
	}
	reply, err := s.exchange(ctx, out)
	s.live.due.Store(false) // its own answer has said so
	if err != nil {
		return err
	}
	if reply.err != nil || reply.overflow {
		// Nothing is notified until it is known; the next statement's end asks again.
		s.log.WarnContext(ctx, "what a session listens to is not known", slog.Any("error", upstreamError(reply.err)))
		return nil
	}
	channels := make([]string, 0, len(reply.rows))
	for _, row := range reply.rows {
		channels = append(channels, string(row))
	}
	return s.listenTo(ctx, channels)
}

// listenTo has the session get the bars of the channels, and of no others. One that cannot be served is told of by a WARNING: LISTEN has
// succeeded by then.
func (s *session) listenTo(ctx context.Context, channels []string) error {
	s.mu.Lock()
	before := s.live.subs
	s.mu.Unlock()
	if len(channels) > maxLive {
		s.warn([]string{fmt.Sprintf("a session can listen to %d series at one time; it gets no bars of more", maxLive)})
		channels = channels[:maxLive]
	}
	now := make(map[string]Subscription, len(channels))
	for _, channel := range channels {
		if sub := before[channel]; sub != nil {
			now[channel] = sub
			continue
		}
		sub, err := s.subscribe(ctx, channel)
		var public *Error
		switch {
		case err == nil:
			now[channel] = sub
		case ctx.Err() != nil:
			return err
		default:
			if public = publicError(ctx, s.log, err); public.Fatal {
				return err
			}
			s.warn([]string{fmt.Sprintf("the session gets no bars on channel %q: %s", channel, public.Message)})
		}
	}
	s.live.approved, s.live.portal = nil, false
	s.mu.Lock()
	s.live.subs, s.live.channels = now, slices.Sorted(maps.Keys(now))
	s.unheard = false
	s.mu.Unlock()
	for channel, sub := range before {
		if now[channel] == nil {
			sub.Close()
		}
	}
	if len(now) > 0 {
		s.startNotifying(ctx)
	}
	s.wakeNotifying()
	return nil
}

// subscribe returns the subscription of a channel to which the session listens already.
func (s *session) subscribe(ctx context.Context, channel string) (Subscription, error) {
	series, err := liveSeries(channel)
	if err != nil {
		return nil, err
	}
	if !s.live.approved[channel] {
		if s.stale() {
			if err := s.readSettings(ctx); err != nil {
				return nil, err
			}
		}
		if err := s.approve(ctx, channel); err != nil {
			return nil, err
		}
	}
	role := s.reader.settings.role
	if err := s.server.cfg.Live.Want(ctx, role, series); err != nil {
		return nil, err
	}
	return s.server.cfg.Live.Subscribe(series, role, s.wakeNotifying), nil
}

// startNotifying starts the goroutine that writes to an idle client, once.
func (s *session) startNotifying(ctx context.Context) {
	if s.live.stop != nil {
		return
	}
	ctx, s.live.stop = context.WithCancel(ctx)
	s.live.writing.Go(func() {
		for {
			select {
			case <-ctx.Done():
				return
			case <-s.live.wakes:
			}
			for s.notifyIdle() {
			}
		}
	})
}

// endListening ends all that the session has listened to. Its connections are closed by then.
func (s *session) endListening() {
	if s.live.stop != nil {
		s.live.stop()
		s.live.writing.Wait()
	}
	s.mu.Lock()
	subs := s.live.subs
	s.live.subs, s.live.channels = nil, nil
	s.mu.Unlock()
	for _, sub := range subs {
		sub.Close()
	}
}

// wakeNotifying has notifications written, if it may be.
func (s *session) wakeNotifying() {
	select {
	case s.live.wakes <- struct{}{}:
	default:
	}
}

// notifyIdle writes to the client some of what waits, if the session is idle, and reports whether there may be more.
func (s *session) notifyIdle() bool {
	s.out.Lock()
	defer s.out.Unlock()
	if s.midway || len(s.unsent) > 0 {
		return false // whoever ends that wakes again
	}
	s.mu.Lock()
	var out []byte
	if s.quietNow() && !s.ended {
		out = s.notifications()
	}
	s.mu.Unlock()
	if len(out) == 0 {
		return false
	}
	return s.send(out) == nil
}

// notifications takes some of what waits, as messages. There are none while what the session listens to is not known. The caller holds mu.
func (s *session) notifications() []byte {
	l := &s.live
	if s.unheard {
		return nil
	}
	var out []byte
	for empty := 0; empty < len(l.channels) && len(out) < maxNotifying; {
		l.turn = (l.turn + 1) % len(l.channels)
		channel := l.channels[l.turn]
		payload, ok := l.subs[channel].Next()
		if !ok {
			empty++
			continue
		}
		empty = 0
		// No process of the database has notified: the process id is 0. Programs that pass over what their own session notified see it.
		out = append(out, encode(&pgproto3.NotificationResponse{Channel: channel, Payload: string(bytes.TrimSpace(payload))})...)
		s.server.cfg.Metrics.notified.Inc()
	}
	return out
}
