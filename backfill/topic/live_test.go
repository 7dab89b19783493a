package topic_test

import (
	"encoding/json"
	"maps"
	"math"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"pgregory.net/rapid"

	"barkeep/backfill/topic"
	"barkeep/internal/dbtest"
	"barkeep/internal/market"
)

func TestLiveBarIsJSONThatAnyToolReads(t *testing.T) {
	t.Parallel()
	r, err := topic.Names{}.LiveRecord(topic.Live{
		Deployment: "d", Series: market.Series{Symbol: "sim:BTCUSD", Timeframe: market.M1}, Final: true, Seq: 7,
		Bar: market.Bar{TS: market.Instant(1704067260e6), Open: 1.5, High: 2, Low: 1, Close: 1.25, Volume: 1e-8},
	})
	require.NoError(t, err)
	require.Equal(t, "ohlcv.sim_3aBTCUSD.1m", r.Topic)
	require.Equal(t, "2024-01-01T00:01:00Z", string(r.Key))
	require.JSONEq(t, `{"symbol":"sim:BTCUSD","timeframe":"1m","ts":"2024-01-01T00:01:00Z","open":1.5,"high":2,"low":1,"close":1.25,`+
		`"volume":1e-8,"final":true,"seq":7}`, string(r.Value))
	require.Equal(t, topic.Headers{Deployment: "d", Symbol: "sim:BTCUSD", Timeframe: "1m"}, topic.ReadHeaders(r))
}

func TestLiveBarSurvivesTheWire(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		price := rapid.Float64Range(0, math.MaxFloat64)
		tf := rapid.SampledFrom(market.Timeframes()).Draw(t, "tf")
		o, c := price.Draw(t, "o"), price.Draw(t, "c")
		l := topic.Live{
			Deployment: "d", Due: market.Instant(rapid.Int64().Draw(t, "due")), Seq: rapid.Int64Min(1).Draw(t, "seq"), Final: rapid.Bool().Draw(t, "final"),
			Series: market.Series{
				Symbol:    market.Symbol(rapid.StringOfN(rapid.RuneFrom([]rune("aZ9-_é\"\\<&𝄞 ")), 1, 64, market.MaxSymbolBytes).Draw(t, "symbol")),
				Timeframe: tf,
			},
			Bar: market.Bar{
				TS:   tf.Floor(market.Instant(rapid.Int64Range(-6e16, 2e17).Draw(t, "ts"))),
				Open: o, Close: c, High: max(o, c), Low: min(o, c), Volume: price.Draw(t, "v"),
			},
		}
		r, err := topic.Names{}.LiveRecord(l)
		require.NoError(t, err)
		require.Less(t, len(r.Value), topic.MaxLiveBytes)
		read, err := topic.ReadLive(r, "d")
		require.NoError(t, err)
		require.Equal(t, l, read)
	})
}

func TestLiveBarThatCannotBeIsRefused(t *testing.T) {
	t.Parallel()
	good := map[string]any{
		"symbol": "X", "timeframe": "1m", "ts": "2024-01-01T00:01:00Z", "open": 1, "high": 2, "low": 1, "close": 2, "volume": 0, "final": true,
		"seq": 1, "of a later writer": nil,
	}
	with := func(key string, value any) []byte {
		all := maps.Clone(good)
		if all[key] = value; value == nil {
			delete(all, key)
		}
		text, err := json.Marshal(all)
		require.NoError(t, err)
		return text
	}
	_, err := topic.UnmarshalLive(with("", nil))
	require.NoError(t, err)
	for key := range good {
		if strings.Contains(key, " ") {
			continue
		}
		_, err := topic.UnmarshalLive(with(key, nil))
		require.ErrorIs(t, err, topic.ErrMalformed, "no %s", key)
		require.ErrorContains(t, err, key)
	}
	for key, value := range map[string]any{
		"symbol": ":", "timeframe": "1x", "ts": "2024-01-01T00:01:30Z", "open": "1", "high": 0.5, "volume": -1, "final": 1, "seq": 0,
		"more": strings.Repeat("x", topic.MaxLiveBytes),
	} {
		_, err := topic.UnmarshalLive(with(key, value))
		require.ErrorIs(t, err, topic.ErrMalformed, key)
	}
	_, err = topic.UnmarshalLive(nil)
	require.ErrorIs(t, err, topic.ErrMalformed)
	series := market.Series{Symbol: "X", Timeframe: market.M1}
	for _, bar := range []market.Bar{{Open: math.NaN()}, {Volume: math.Inf(1)}, {TS: market.PosInf}} {
		_, err := topic.MarshalLive(topic.Live{Series: series, Bar: bar, Seq: 1})
		require.ErrorIs(t, err, topic.ErrMalformed)
	}
}

// TestRule13_ForeignLiveBarsAreRefused, and those of another version or under another key.
func TestRule13_ForeignLiveBarsAreRefused(t *testing.T) {
	t.Parallel()
	record := func() *kgo.Record {
		r, err := topic.Names{}.LiveRecord(topic.Live{Deployment: "one", Series: market.Series{Symbol: "X", Timeframe: market.M1}, Seq: 1})
		require.NoError(t, err)
		return r
	}
	_, err := topic.ReadLive(record(), "one")
	require.NoError(t, err)
	_, err = topic.ReadLive(record(), "two")
	require.ErrorIs(t, err, topic.ErrDeployment)
	r := record()
	r.Headers[0].Value = []byte("2")
	_, err = topic.ReadLive(r, "one")
	require.ErrorIs(t, err, topic.ErrVersion)
	r = record()
	r.Key = []byte("1970-01-01T00:01:00Z")
	_, err = topic.ReadLive(r, "one")
	require.ErrorIs(t, err, topic.ErrMalformed)
}

func TestRule12_SeriesTopicIsCompactedAndKeptForTwoDays(t *testing.T) {
	t.Parallel()
	client, err := kgo.NewClient(kgo.SeedBrokers(dbtest.Broker(t)...))
	require.NoError(t, err)
	defer client.Close()
	admin := kadm.NewClient(client)
	names := topic.Names{Prefix: dbtest.TopicPrefix(t)}
	series := market.Series{Symbol: "sim:X", Timeframe: market.Mo1}
	for range 2 {
		require.NoError(t, topic.EnsureSeries(t.Context(), client, names, series))
	}
	configs, err := admin.DescribeTopicConfigs(t.Context(), names.Series(series))
	require.NoError(t, err)
	config, err := configs.On(names.Series(series), nil)
	require.NoError(t, err)
	values := map[string]string{}
	for _, c := range config.Configs {
		values[c.Key] = c.MaybeValue()
	}
	require.Equal(t, "172800000", values["retention.ms"])
	require.Equal(t, "compact,delete", values["cleanup.policy"])
}
