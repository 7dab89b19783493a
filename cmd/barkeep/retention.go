package main

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"barkeep/internal/market"
)

// leastKept is the shortest time for which bars can be kept: the edge moves by the hour.
const leastKept = time.Hour

// retention reads the setting of that name.
func (c *Config) retention() (map[market.Timeframe]time.Duration, error) {
	kept := map[market.Timeframe]time.Duration{}
	for _, pair := range c.Retention {
		name, text, found := strings.Cut(strings.TrimSpace(pair), "=")
		tf, err := market.ParseTimeframe(name)
		if !found || err != nil {
			return nil, fmt.Errorf("retention: %q is not timeframe=time, as 1m=90d", pair)
		}
		if _, twice := kept[tf]; twice {
			return nil, fmt.Errorf("retention: %s is named twice", tf)
		}
		if kept[tf], err = parseDays(text); err != nil || kept[tf] < leastKept {
			return nil, fmt.Errorf("retention: %q of %s is not a time of at least %s, as 90d or 2160h", text, tf, leastKept)
		}
	}
	return kept, nil
}

// parseDays reads a duration that may be in days.
func parseDays(text string) (time.Duration, error) {
	number, days := strings.CutSuffix(text, "d")
	if !days {
		return time.ParseDuration(text)
	}
	n, err := strconv.ParseUint(number, 10, 16)
	return time.Duration(n) * 24 * time.Hour, err
}
