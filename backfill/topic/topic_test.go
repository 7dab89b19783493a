package topic_test

import (
	"math"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"barkeep/backfill/coverage"
	"barkeep/backfill/topic"
	"barkeep/internal/dbtest"
	"barkeep/internal/market"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestRule12_SeriesNames(t *testing.T) {
	t.Parallel()
	n := topic.Names{Prefix: "x."}
	for _, c := range []struct {
		symbol market.Symbol
		tf     market.Timeframe
		want   string
	}{
		{"BTCUSD", market.M1, "x.ohlcv.BTCUSD.1m"},
		{"BTCUSD", market.Mo1, "x.ohlcv.BTCUSD.1mo"},
		{"sim:BTC.USD", market.H1, "x.ohlcv.sim_3aBTC_2eUSD.1h"},
		{"A_B", market.H1, "x.ohlcv.A_5fB.1h"},
		{"é", market.H1, "x.ohlcv._c3_a9.1h"},
	} {
		require.Equal(t, c.want, n.Series(market.Series{Symbol: c.symbol, Timeframe: c.tf}))
	}
	long := func(tail string) string {
		return n.Series(market.Series{Symbol: market.Symbol(strings.Repeat(":", 100) + tail), Timeframe: market.Mo1})
	}
	require.Len(t, long("a"), 249)
	require.NotEqual(t, long("a"), long("b"))
}

func TestRule12_DistinctSymbolsHaveDistinctNames(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		text := rapid.StringOfN(rapid.RuneFrom([]rune("aA_.:-é3h")), 1, 40, 128)
		a, b := text.Draw(t, "a"), text.Draw(t, "b")
		name := func(s string) string {
			return topic.Names{}.Series(market.Series{Symbol: market.Symbol(s), Timeframe: market.M1})
		}
		require.Equal(t, a == b, name(a) == name(b))
	})
}

func drawPage(t *rapid.T) topic.Page {
	instant := rapid.Map(rapid.Int64(), func(v int64) market.Instant { return market.Instant(v) })
	text := rapid.StringN(0, 10, 40)
	span := rapid.Custom(func(t *rapid.T) market.Range {
		return market.Range{Start: instant.Draw(t, "start"), End: instant.Draw(t, "end")}
	})
	p := topic.Page{
		RecordID: text.Draw(t, "id"), Deployment: text.Draw(t, "deployment"), JobID: text.Draw(t, "job"),
		Series: market.Series{Symbol: "sim:X", Timeframe: rapid.SampledFrom(market.Timeframes()).Draw(t, "tf")},
		Asked:  span.Draw(t, "asked"), Source: text.Draw(t, "source"), Generation: rapid.Int64().Draw(t, "generation"),
		FetchedAt: instant.Draw(t, "fetched"),
	}
	for range rapid.IntRange(0, 3).Draw(t, "segments") {
		p.Segments = append(p.Segments, topic.Segment{
			Range: span.Draw(t, "range"), State: coverage.State(rapid.Int16Range(1, 4).Draw(t, "state")),
			Reason: text.Draw(t, "reason"), RetryAt: instant.Draw(t, "retry"), ExpiresAt: instant.Draw(t, "expires"),
		})
	}
	number := rapid.Float64()
	for range rapid.IntRange(0, 20).Draw(t, "bars") {
		p.Bars = append(p.Bars, market.Bar{
			TS: instant.Draw(t, "ts"), Open: number.Draw(t, "o"), High: number.Draw(t, "h"), Low: number.Draw(t, "l"),
			Close: number.Draw(t, "c"), Volume: number.Draw(t, "v"),
		})
	}
	return p
}

func TestPageSurvivesTheWire(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		p := drawPage(t)
		value, err := topic.UnmarshalBars(topic.MarshalPage(p))
		require.NoError(t, err)
		require.Equal(t, topic.BarsValue{Page: &p}, value)
	})
}

func TestOtherRecordsSurviveTheWire(t *testing.T) {
	t.Parallel()
	series := market.Series{Symbol: "BTCUSD", Timeframe: market.D1}
	j := topic.Job{
		ID: "a", Deployment: "b", Series: series, Range: market.Always, Priority: 1, Source: "s", VendorID: "v", Generation: 7,
		AskedAt: 5, Mixed: true, NewestFirst: true,
	}
	job, err := topic.UnmarshalJob(topic.MarshalJob(j))
	require.NoError(t, err)
	require.Equal(t, j, job)
	e := topic.End{RecordID: "a", Deployment: "b", JobID: "c", Series: series, State: topic.Failed, Code: "58000", Message: "m"}
	value, err := topic.UnmarshalBars(topic.MarshalEnd(e))
	require.NoError(t, err)
	require.Equal(t, topic.BarsValue{End: &e}, value)
	u := topic.RollUp{
		RecordID: "a", Deployment: "b", JobID: "c", Series: series, Base: market.H1, Range: market.Always, AskedAt: 3, Source: "s", Generation: 2,
	}
	value, err = topic.UnmarshalBars(topic.MarshalRollUp(u))
	require.NoError(t, err)
	require.Equal(t, topic.BarsValue{RollUp: &u}, value)
	for _, u.Base = range []market.Timeframe{0, market.D1, market.W1} {
		_, err = topic.UnmarshalBars(topic.MarshalRollUp(u))
		require.ErrorIs(t, err, topic.ErrMalformed, "no base of days")
	}
	u.Base, u.Lender = series.Timeframe, "bitstamp:BTCUSD"
	value, err = topic.UnmarshalBars(topic.MarshalRollUp(u))
	require.NoError(t, err)
	require.Equal(t, topic.BarsValue{RollUp: &u}, value)
	for _, wrong := range []func(u *topic.RollUp){
		func(u *topic.RollUp) { u.Base = market.H1 },
		func(u *topic.RollUp) { u.Lender = u.Series.Symbol },
		func(u *topic.RollUp) { u.Lender = "a\x00b" },
	} {
		u := u
		wrong(&u)
		_, err = topic.UnmarshalBars(topic.MarshalRollUp(u))
		require.ErrorIs(t, err, topic.ErrMalformed)
	}
	v := topic.Event{
		RecordID: "a", Deployment: "b", JobID: "c", Series: series, Kind: topic.Warned, PagesDone: 1, BarsDone: 2, BarsTotal: 3,
		Message: "m", At: 4, StartAt: 5,
	}
	event, err := topic.UnmarshalEvent(topic.MarshalEvent(v))
	require.NoError(t, err)
	require.Equal(t, v, event)
}

func TestRule12_HeadersNameARecord(t *testing.T) {
	t.Parallel()
	p := topic.Page{
		RecordID: "r", Deployment: "d", JobID: "j", Series: market.Series{Symbol: "a:b", Timeframe: market.M1},
		Asked: market.Range{Start: market.NegInf, End: 5},
	}
	require.Equal(t, topic.Headers{
		RecordID: "r", Deployment: "d", JobID: "j", Symbol: "a:b", Timeframe: "1m", Range: p.Asked,
	}, topic.ReadHeaders(topic.Names{}.PageRecord(p)))
	require.Equal(t, topic.Headers{}, topic.ReadHeaders(&kgo.Record{Headers: []kgo.RecordHeader{{Key: "barkeep-start", Value: []byte("x")}}}))
}

func TestRule12_OtherVersionsAreRefused(t *testing.T) {
	t.Parallel()
	value := topic.MarshalJob(topic.Job{Series: market.Series{Symbol: "X", Timeframe: market.M1}})
	for _, version := range []byte{0, 2, 255} {
		value[0] = version
		_, err := topic.UnmarshalJob(value)
		require.ErrorIs(t, err, topic.ErrVersion)
	}
	_, err := topic.UnmarshalJob(nil)
	require.ErrorIs(t, err, topic.ErrMalformed)
}

func FuzzUnmarshalBars(f *testing.F) {
	p := topic.Page{Series: market.Series{Symbol: "X", Timeframe: market.M1}, Bars: []market.Bar{{TS: 1, Open: math.Pi}, {TS: 2}}}
	p.Segments = []topic.Segment{{State: coverage.Final, Range: market.Range{End: 3}}}
	f.Add(topic.MarshalPage(p))
	f.Add(topic.MarshalEnd(topic.End{Series: p.Series, State: topic.Done}))
	f.Add(topic.MarshalRollUp(topic.RollUp{Series: market.Series{Symbol: "X", Timeframe: market.W1}, Base: market.D1}))
	f.Add(topic.MarshalRollUp(topic.RollUp{Series: market.Series{Symbol: "X", Timeframe: market.W1}, Base: market.W1, Lender: "a:X"}))
	f.Fuzz(func(t *testing.T, text []byte) {
		value, err := topic.UnmarshalBars(text)
		set := 0
		for _, one := range []bool{value.Page != nil, value.End != nil, value.RollUp != nil} {
			if one {
				set++
			}
		}
		if (err == nil) != (set == 1) {
			t.Fatalf("error %v with %d values", err, set)
		}
		if value.Page != nil {
			again, err := topic.UnmarshalBars(topic.MarshalPage(*value.Page))
			require.NoError(t, err)
			require.Len(t, again.Page.Bars, len(value.Page.Bars))
		}
		if value.RollUp != nil {
			again, err := topic.UnmarshalBars(topic.MarshalRollUp(*value.RollUp))
			require.NoError(t, err)
			require.Equal(t, value.RollUp, again.RollUp)
		}
	})
}

func TestRule12_TopicsAreMadeWithExplicitSettings(t *testing.T) {
	t.Parallel()
	opts := []kgo.Opt{kgo.SeedBrokers(dbtest.Broker(t)...)}
	names := topic.Names{Prefix: dbtest.TopicPrefix(t)}
	require.NoError(t, topic.Ensure(t.Context(), opts, names, "one"))
	require.NoError(t, topic.Ensure(t.Context(), opts, names, "one"), "again")
	client, err := kgo.NewClient(opts...)
	require.NoError(t, err)
	defer client.Close()
	admin := kadm.NewClient(client)
	details, err := admin.ListTopics(t.Context(), names.Jobs(), names.Bars(), names.Events(), names.Meta(), names.Dead())
	require.NoError(t, err)
	for name, want := range map[string]int{names.Jobs(): 32, names.Bars(): 32, names.Events(): 8, names.Meta(): 1, names.Dead(): 1} {
		require.Len(t, details[name].Partitions, want, name)
	}
	configs, err := admin.DescribeTopicConfigs(t.Context(), names.Bars())
	require.NoError(t, err)
	config, err := configs.On(names.Bars(), nil)
	require.NoError(t, err)
	values := map[string]string{}
	for _, c := range config.Configs {
		values[c.Key] = c.MaybeValue()
	}
	require.Equal(t, "259200000", values["retention.ms"])
	require.Equal(t, "delete", values["cleanup.policy"])
}

// TestRule12_ReplicatedWhereThereAreBrokers: three replicas of which two must have a record, and never more than there are brokers.
func TestRule12_ReplicatedWhereThereAreBrokers(t *testing.T) {
	t.Parallel()
	for brokers, want := range map[int]struct {
		replicas int
		insync   string
	}{1: {1, "1"}, 2: {2, "1"}, 3: {3, "2"}, 4: {3, "2"}} {
		cluster := dbtest.FakeBroker(t, kfake.NumBrokers(brokers))
		opts := []kgo.Opt{kgo.SeedBrokers(cluster.ListenAddrs()...)}
		require.NoError(t, topic.Ensure(t.Context(), opts, topic.Names{}, "one"))
		client, err := kgo.NewClient(opts...)
		require.NoError(t, err)
		admin := kadm.NewClient(client)
		names := topic.Names{}
		all := []string{names.Jobs(), names.Bars(), names.Events(), names.Meta(), names.Dead()}
		details, err := admin.ListTopics(t.Context(), all...)
		require.NoError(t, err)
		configs, err := admin.DescribeTopicConfigs(t.Context(), all...)
		require.NoError(t, err)
		for _, name := range all {
			require.Len(t, details[name].Partitions[0].Replicas, want.replicas, name)
			config, err := configs.On(name, nil)
			require.NoError(t, err)
			for _, c := range config.Configs {
				if c.Key == "min.insync.replicas" {
					require.Equal(t, want.insync, c.MaybeValue(), "%s with %d brokers", name, brokers)
				}
			}
		}
		client.Close()
	}
}

func TestRule13_AnotherDeploymentsTopicsAreRefused(t *testing.T) {
	t.Parallel()
	opts := []kgo.Opt{kgo.SeedBrokers(dbtest.Broker(t)...)}
	names := topic.Names{Prefix: dbtest.TopicPrefix(t)}
	require.NoError(t, topic.Ensure(t.Context(), opts, names, "one"))
	require.ErrorIs(t, topic.Ensure(t.Context(), opts, names, "two"), topic.ErrDeployment)
	require.NoError(t, topic.Ensure(t.Context(), opts, names, "one"))
}

func TestRule12_PartitionCountsNeverChange(t *testing.T) {
	t.Parallel()
	opts := []kgo.Opt{kgo.SeedBrokers(dbtest.Broker(t)...)}
	names := topic.Names{Prefix: dbtest.TopicPrefix(t)}
	client, err := kgo.NewClient(opts...)
	require.NoError(t, err)
	defer client.Close()
	_, err = kadm.NewClient(client).CreateTopic(t.Context(), 5, 1, nil, names.Bars())
	require.NoError(t, err)
	require.ErrorIs(t, topic.Ensure(t.Context(), opts, names, "one"), topic.ErrPartitions)
}

func BenchmarkPage(b *testing.B) {
	p := topic.Page{Series: market.Series{Symbol: "X", Timeframe: market.M1}}
	for i := range topic.MaxPageBars {
		p.Bars = append(p.Bars, market.Bar{TS: market.Instant(i * 6e7), Open: 1, High: 2, Low: 3, Close: float64(i)})
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := topic.UnmarshalBars(topic.MarshalPage(p)); err != nil {
			b.Fatal(err)
		}
	}
}

// TestRule14_LargestPageFits: the most bars, with the widest numbers and irregular times, stay below 512 KiB.
func TestRule14_LargestPageFits(t *testing.T) {
	t.Parallel()
	p := topic.Page{
		RecordID: strings.Repeat("r", 36), Deployment: strings.Repeat("d", 36), JobID: strings.Repeat("j", 36), Source: "cryptocompare",
		Series: market.Series{Symbol: market.Symbol(strings.Repeat("S", 64)), Timeframe: market.Mo1}, Asked: market.Always,
		FetchedAt: market.PosInf - 1, Generation: math.MaxInt64,
	}
	for i := range market.Instant(topic.MaxPageBars) {
		p.Bars = append(p.Bars, market.Bar{TS: i * i * 90_000_000_000, Open: math.Pi, High: math.MaxFloat64, Low: math.SmallestNonzeroFloat64})
	}
	p.Segments = []topic.Segment{{Range: market.Always, State: coverage.Final, Reason: strings.Repeat("x", 300)}}
	require.LessOrEqual(t, len(topic.MarshalPage(p)), topic.MaxPageBytes)
}
