package topic

import (
	"crypto/sha256"
	"encoding/hex"
	"strings"

	"barkeep/internal/market"
)

// maxNameBytes is the longest name of a topic that Kafka takes.
const maxNameBytes = 249

// Names gives the topics their names; the zero value is the default, without prefix. Prefix is put before each name, so
// that several deployments can share a broker.
type Names struct{ Prefix string }

// Jobs returns the topic of jobs, keyed by symbol.
func (n Names) Jobs() string { return n.Prefix + "barkeep.jobs" }

// Bars returns the topic of pages, orders to roll up and end records, keyed by symbol.
func (n Names) Bars() string { return n.Prefix + "barkeep.bars" }

// Events returns the topic of hints on a job's progress, keyed by job id.
func (n Names) Events() string { return n.Prefix + "barkeep.events" }

// Meta returns the topic that marks whose topics these are.
func (n Names) Meta() string { return n.Prefix + "barkeep.meta" }

// Dead returns the topic of records that could not be used.
func (n Names) Dead() string { return n.Prefix + "barkeep.dead" }

// Series returns the topic of a series' live bars: bytes of the symbol outside [A-Za-z0-9-] become _xx in hexadecimal,
// the month is 1mo (many systems fold case, and 1M and 1m would be one). A name that Kafka would refuse for its length is
// cut and ends in a hash; no escape has the letter h, so it cannot be another symbol's.
func (n Names) Series(s market.Series) string {
	tf := s.Timeframe.String()
	if s.Timeframe == market.Mo1 {
		tf = "1mo"
	}
	symbol := escape(string(s.Symbol))
	if room := maxNameBytes - len(n.Prefix) - len("ohlcv..") - len(tf); len(symbol) > room {
		sum := sha256.Sum256([]byte(s.Symbol))
		hash := "_h" + hex.EncodeToString(sum[:16])
		symbol = symbol[:max(room-len(hash), 0)] + hash
	}
	return n.Prefix + "ohlcv." + symbol + "." + tf
}

// Hint reports whether a topic's records are hints, which may be lost without harm (PIPELINE 17): the events, and the live bars of a series, of which
// the final ones are in Bars too.
func (n Names) Hint(topic string) bool {
	return topic == n.Events() || strings.HasPrefix(topic, n.Prefix+"ohlcv.")
}

// Group returns the id of a consumer group of a part of the deployment (PIPELINE 13).
func (n Names) Group(part, deployment string) string {
	return n.Prefix + "barkeep." + part + "." + deployment
}

func escape(text string) string {
	const digits = "0123456789abcdef"
	var b strings.Builder
	for i := range len(text) {
		switch c := text[i]; {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '-':
			b.WriteByte(c)
		default:
			b.WriteByte('_')
			b.WriteByte(digits[c>>4])
			b.WriteByte(digits[c&15])
		}
	}
	return b.String()
}
