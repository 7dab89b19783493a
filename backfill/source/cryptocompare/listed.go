package cryptocompare

import (
	"context"

	"barkeep/backfill/source"
	"barkeep/internal/market"
)

// Listed finds the first day, and of it the first hour, that is not zeros (CC10); minutes do not reach back (CC9).
func (s *Source) Listed(ctx context.Context, vendorID string, p source.Priority) (market.Instant, error) {
	return source.Probe(ctx, s, vendorID, p, s.client.Now(), market.D1, market.H1)
}
