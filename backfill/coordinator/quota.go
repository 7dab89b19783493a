package coordinator

import (
	"context"
	"sync"
	"time"

	"barkeep/backfill/quota"
)

// quotaAge is how long limits are believed that were read: a change takes effect within it.
const quotaAge = 5 * time.Second

// quotasKept bounds the roles whose limits are remembered.
const quotasKept = 1000

// quotas are the limits that were read lately. What is used is never remembered.
type quotas struct {
	mu    sync.Mutex
	known map[string]knownQuota // guarded by mu
}

type knownQuota struct {
	limits quota.Limits
	until  time.Time
}

// limits returns those of a role; the empty one, which is nobody's, has none.
func (c *Coordinator) limits(ctx context.Context, role string) (*quota.Limits, error) {
	if role == "" {
		return &quota.Limits{}, nil
	}
	q, now := &c.quotas, c.config.Now()
	q.mu.Lock()
	found := q.known[role]
	q.mu.Unlock()
	if now.Before(found.until) {
		return &found.limits, nil
	}
	limits, err := quota.Of(ctx, c.config.Pool, role)
	if err != nil {
		return nil, err
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.known == nil || len(q.known) >= quotasKept {
		q.known = map[string]knownQuota{}
	}
	q.known[role] = knownQuota{limits, now.Add(quotaAge)}
	return &limits, nil
}
