package coordinator

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"

	"barkeep/backfill/quota"
	"barkeep/backfill/topic"
	"barkeep/internal/actor"
	"barkeep/internal/market"
)

// Live series. Who wants one has a row in barkeep.live, by series and coordinator, which counts until wanted_until. The invariant:
//
//	A series that a row wants has its topic, or that row's coordinator is about to make it.
//
// A row is written, and a topic removed, under the series' advisory lock alone:
//
//	Follow  lock → row, wanted until now + lease → commit → make the topic
//	remove  lock → delete the series' rows that have not been wanted for Config.LiveGrace → is another left? then nothing → delete
//	        the topic → commit
//
// So no topic is removed while a row may come about: Follow waits for the lock, and makes the topic anew. Between its commit and the topic
// there is no lock; it takes at most followTime, which is less than the lease, and no removal can begin before lease and grace are over.
// A coordinator that stood still for longer than that renews in vain: its row is gone, or is locked by who deletes it and then gone. It
// tells who follows (lost), who calls Follow again. Removal that fails halfway leaves the rows (rolled back), and is tried again; that the topic is
// gone already is no failure. Nothing else makes these topics or removes them, so none stays behind but one whose rows were lost with a crash
// of the database: it is emptied by its retention, and removed after the next interest in its series.
type live struct {
	// following are the series whose rows are renewed. Guarded by the coordinator's mu.
	following map[market.Series]*interest
}

// interest is what one coordinator wants of a series.
type interest struct {
	lost chan struct{} // closed when the row was gone
}

const (
	// followTime bounds the making of a topic. It is less than topic.LiveLease.
	followTime = 10 * time.Second
	// liveLock is the class of the advisory locks of live series; the other half is the hash of topic's name.
	liveLock = "pg_advisory_xact_lock(1818850917, hashtext($1))"
	// removedAtOnce bounds the topics removed in one round.
	removedAtOnce = 16
)

// Known returns nil where the series can be followed: its symbol is bound, or a source lists it, and has the timeframe: what is rolled up from
// stored bars does not form. It waits for lists, 2 × Config.ListWait at most. Errors are those of Ensure.
func (c *Coordinator) Known(ctx context.Context, series market.Series) error {
	ctx, cancel := context.WithTimeoutCause(ctx, 2*c.config.ListWait, errUnlisted)
	defer cancel()
	p := &part{series: series}
	f := &filling{c: c, parts: []*part{p}}
	if err := f.bind(ctx, p); err != nil {
		return err
	}
	if base, found := p.binding.Base(series.Timeframe); !found || base != series.Timeframe {
		return notLive(series, p.binding)
	}
	return nil
}

// MayFollow returns nil where the role may follow these series beside those that it follows already, else the quota.Error that says so. It notes nothing.
func (c *Coordinator) MayFollow(ctx context.Context, askedBy string, series ...market.Series) error {
	limits, err := c.limits(ctx, askedBy)
	if err != nil {
		return err
	}
	series = c.unfollowed(series)
	if limits.LiveSeries == nil || len(series) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeoutCause(ctx, followTime, errNoAnswer)
	defer cancel()
	return pgx.BeginFunc(ctx, c.config.Pool, func(tx pgx.Tx) error { return limits.AdmitLive(ctx, tx, series...) })
}

// Want notes for a role with a quota that it follows the series, or returns the quota.Error that says why it may not. Who calls it has it followed (Follow) at
// once. What is followed already is whose it was.
func (c *Coordinator) Want(ctx context.Context, askedBy string, series market.Series) error {
	limits, err := c.limits(ctx, askedBy)
	if err != nil {
		return err
	}
	if limits.LiveSeries == nil || len(c.unfollowed([]market.Series{series})) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeoutCause(ctx, followTime, errNoAnswer)
	defer cancel()
	return c.want(ctx, series, askedBy, limits)
}

// unfollowed returns those of the series that this coordinator does not follow.
func (c *Coordinator) unfollowed(series []market.Series) []market.Series {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(series), func(s market.Series) bool { return c.live.following[s] != nil })
}

// Follow notes that this coordinator wants the series, and returns when its topic is there. Interest is renewed until Unfollow; lost is closed where it could not be in
// time: then the topic may be gone, and Follow is to be called again. A series is followed once at a time; askedBy is the role that asked first, whose quota was
// asked for by Want: a series that others listen to as well does not end with one role's limits.
func (c *Coordinator) Follow(ctx context.Context, series market.Series, askedBy string) (lost <-chan struct{}, err error) {
	machine := c.config.Actors.New(actor.Coordinator(), "live "+series.String())
	defer machine.Close()
	machine.To(actor.Processing)
	if err := c.Known(ctx, series); err != nil {
		machine.Fail()
		return nil, err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, followTime, errNoAnswer)
	defer cancel()
	if err := c.want(ctx, series, askedBy, &quota.Limits{}); err != nil {
		machine.Fail()
		return nil, err
	}
	machine.To(actor.CreatingTopic)
	if err := topic.EnsureSeries(ctx, c.client, c.config.Names, series); err != nil {
		machine.Fail()
		return nil, err // the row runs out, and is wanted again when this is tried again
	}
	machine.To(actor.Notifying)
	each := &interest{lost: make(chan struct{})}
	c.mu.Lock()
	c.live.following[series] = each
	c.mu.Unlock()
	machine.To(actor.Active)
	return each.lost, nil
}

// want writes the row, if the limits of who asks allow one more, and tells producers. A row that counts stays whose it is.
func (c *Coordinator) want(ctx context.Context, series market.Series, askedBy string, limits *quota.Limits) error {
	return c.underLock(ctx, series, func(tx pgx.Tx) error {
		if err := limits.AdmitLive(ctx, tx, series); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, `INSERT INTO barkeep.live (symbol, timeframe, proxy, asked_by, wanted_until)
		    VALUES ($1, $2, $3, $4, clock_timestamp() + make_interval(secs => $5))
		  ON CONFLICT (symbol, timeframe, proxy) DO UPDATE SET wanted_until = excluded.wanted_until, asked_at = clock_timestamp(),
		    asked_by = CASE WHEN live.wanted_until > clock_timestamp() THEN live.asked_by ELSE excluded.asked_by END`,
			string(series.Symbol), series.Timeframe.String(), c.id, askedBy, topic.LiveLease.Seconds())
		if err != nil {
			return fmt.Errorf("want %s: %w", series, err)
		}
		if _, err = tx.Exec(ctx, `SELECT pg_notify($1, '')`, topic.LiveChannel); err != nil {
			return fmt.Errorf("tell who produces %s: %w", series, err)
		}
		return nil
	})
}

// underLock runs work in a transaction that holds the series' lock. COMMIT is synchronous only where the database is: the rows say what is now.
func (c *Coordinator) underLock(ctx context.Context, series market.Series, work func(pgx.Tx) error) error {
	err := pgx.BeginFunc(ctx, c.config.Pool, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, "SELECT "+liveLock, c.config.Names.Series(series)); err != nil {
			return fmt.Errorf("lock: %w", err)
		}
		return work(tx)
	})
	if err != nil {
		return fmt.Errorf("live %s: %w", series, err)
	}
	return nil
}

// Unfollow ends the interest in a series: its row is not renewed, and ends with the next round. The topic stays for Config.LiveGrace.
func (c *Coordinator) Unfollow(series market.Series) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.live.following, series)
}

// renewLive renews the rows of what is followed and ends the others of this coordinator.
func (c *Coordinator) renewLive(ctx context.Context) error {
	c.mu.Lock()
	before := make(map[market.Series]*interest, len(c.live.following))
	var symbols, timeframes []string
	for series, each := range c.live.following {
		before[series] = each
		symbols, timeframes = append(symbols, string(series.Symbol)), append(timeframes, series.Timeframe.String())
	}
	c.mu.Unlock()
	rows, err := c.config.Pool.Query(ctx, `UPDATE barkeep.live l
	    SET wanted_until = CASE WHEN f.symbol IS NULL THEN least(l.wanted_until, clock_timestamp()) ELSE clock_timestamp() + make_interval(secs => $4) END
	  FROM barkeep.live me LEFT JOIN unnest($2::text[], $3::text[]) AS f (symbol, timeframe) USING (symbol, timeframe)
	  WHERE me.proxy = $1 AND l.proxy = $1 AND l.symbol = me.symbol AND l.timeframe = me.timeframe
	    AND (f.symbol IS NOT NULL OR l.wanted_until > clock_timestamp() AND l.asked_at < clock_timestamp() - make_interval(secs => $5))
	  RETURNING l.symbol, l.timeframe, f.symbol IS NOT NULL`,
		c.id, symbols, timeframes, topic.LiveLease.Seconds(), followTime.Seconds())
	if err != nil {
		return fmt.Errorf("renew live series: %w", err)
	}
	var symbol, timeframe string
	var renewed bool
	if _, err := pgx.ForEachRow(rows, []any{&symbol, &timeframe, &renewed}, func() error {
		if tf, err := market.ParseTimeframe(timeframe); err == nil && renewed {
			delete(before, market.Series{Symbol: market.Symbol(symbol), Timeframe: tf})
		}
		return nil
	}); err != nil {
		return fmt.Errorf("renew live series: %w", err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for series, each := range before { // those without a row
		if c.live.following[series] == each {
			delete(c.live.following, series)
			close(each.lost)
		}
	}
	return nil
}

// removeLive removes the topics of series that nobody has wanted for a while.
func (c *Coordinator) removeLive(ctx context.Context) error {
	rows, err := c.config.Pool.Query(ctx, `SELECT symbol, timeframe FROM barkeep.live GROUP BY 1, 2
	  HAVING max(wanted_until) < clock_timestamp() - make_interval(secs => $1) ORDER BY max(wanted_until) LIMIT $2`,
		c.config.LiveGrace.Seconds(), removedAtOnce)
	if err != nil {
		return fmt.Errorf("look for live series that nobody wants: %w", err)
	}
	var list []market.Series
	var symbol, timeframe string
	if _, err := pgx.ForEachRow(rows, []any{&symbol, &timeframe}, func() error {
		if tf, err := market.ParseTimeframe(timeframe); err == nil { // else a newer barkeep's
			list = append(list, market.Series{Symbol: market.Symbol(symbol), Timeframe: tf})
		}
		return nil
	}); err != nil {
		return fmt.Errorf("look for live series that nobody wants: %w", err)
	}
	for _, series := range list {
		if err := c.remove(ctx, series); err != nil {
			return err
		}
	}
	return nil
}

// remove removes the topic of a series, unless somebody has come to want it.
func (c *Coordinator) remove(ctx context.Context, series market.Series) error {
	return c.underLock(ctx, series, func(tx pgx.Tx) error {
		var left bool
		_, err := tx.Exec(ctx, `DELETE FROM barkeep.live WHERE symbol = $1 AND timeframe = $2
		    AND wanted_until < clock_timestamp() - make_interval(secs => $3)`,
			string(series.Symbol), series.Timeframe.String(), c.config.LiveGrace.Seconds())
		if err != nil {
			return fmt.Errorf("delete interest: %w", err)
		}
		err = tx.QueryRow(ctx, `SELECT exists (SELECT FROM barkeep.live WHERE symbol = $1 AND timeframe = $2)`,
			string(series.Symbol), series.Timeframe.String()).Scan(&left)
		if err != nil {
			return fmt.Errorf("look for interest: %w", err)
		}
		if left {
			return nil
		}
		name := c.config.Names.Series(series)
		if _, err := kadm.NewClient(c.client).DeleteTopic(ctx, name); err != nil && !errors.Is(err, kerr.UnknownTopicOrPartition) {
			return fmt.Errorf("delete topic %s: %w", name, err)
		}
		c.config.Logger.LogAttrs(ctx, slog.LevelDebug, "topic of a live series removed", slog.String("topic", name))
		return nil
	})
}

// endLive ends what this coordinator wants when it stops: nobody renews it any more.
func (c *Coordinator) endLive(ctx context.Context) {
	ctx, cancel := context.WithTimeoutCause(context.WithoutCancel(ctx), time.Second, errNoAnswer)
	defer cancel()
	_, err := c.config.Pool.Exec(ctx, `UPDATE barkeep.live SET wanted_until = least(wanted_until, clock_timestamp()) WHERE proxy = $1`, c.id)
	if err != nil { // it runs out by itself
		c.config.Logger.LogAttrs(ctx, slog.LevelDebug, "interest in live series not ended", slog.Any("error", err))
	}
}
