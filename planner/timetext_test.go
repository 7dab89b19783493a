package planner

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"barkeep/internal/market"
)

func TestMidnights(t *testing.T) {
	t.Parallel()
	for day := time.Date(999, 12, 1, 0, 0, 0, 0, time.UTC); day.Year() < 10000; day = day.AddDate(0, 0, 1) {
		if got := midnight(day.Year(), int(day.Month()), day.Day()); got != market.FromTime(day) {
			require.Equal(t, market.FromTime(day), got, day)
		}
		if last := time.Date(day.Year(), day.Month()+1, 0, 0, 0, 0, 0, time.UTC).Day(); daysIn(day.Year(), int(day.Month())) != last {
			require.Equal(t, last, daysIn(day.Year(), int(day.Month())), day)
		}
	}
}
