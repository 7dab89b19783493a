package main

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"

	"barkeep/backfill/consumer"
	"barkeep/backfill/coordinator"
	"barkeep/backfill/coverage"
	"barkeep/backfill/producer"
	"barkeep/backfill/removal"
	"barkeep/internal/actor"
)

// scrapeTimeout bounds what the database may take for a scrape; its part is left out after that.
const scrapeTimeout = 2 * time.Second

// collector reads at each scrape what nobody counts while it happens.
type collector struct {
	pool     *pgxpool.Pool
	coverage *coverage.Store
	actors   *actor.Registry
	root     context.Context //nolint:containedctx // Collect is given none; this is the process's
}

var (
	actorsDesc     = prometheus.NewDesc("barkeep_actors", "Actors by kind and state.", []string{"kind", "state"}, nil)
	undeclaredDesc = prometheus.NewDesc("barkeep_actor_undeclared_steps_total", "Steps of actors that are not declared; other than zero is a bug.", nil, nil)
	segmentsDesc   = prometheus.NewDesc("barkeep_coverage_segments", "Segments in the index of coverage.", nil, nil)
	ageDesc        = prometheus.NewDesc("barkeep_index_age_seconds", "Time since the index of coverage was last confirmed.", nil, nil)
	validDesc      = prometheus.NewDesc("barkeep_index_valid", "1 while the index of coverage may be relied on.", nil, nil)
	jobsDesc       = prometheus.NewDesc("barkeep_jobs", "Jobs in the database by state.", []string{"state"}, nil)
	skewDesc       = prometheus.NewDesc("barkeep_database_clock_skew_seconds", "The database's clock minus this process's, within half a round trip.", nil, nil)
	connsDesc      = prometheus.NewDesc("barkeep_service_connections", "Connections of the service pool by use.", []string{"use"}, nil)
)

// Describe sends every description.
func (*collector) Describe(to chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{actorsDesc, undeclaredDesc, segmentsDesc, ageDesc, validDesc, jobsDesc, skewDesc, connsDesc} {
		to <- d
	}
}

// Collect sends every value that can be had.
func (c *collector) Collect(to chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, value float64, labels ...string) {
		to <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, value, labels...)
	}
	counts := map[[2]string]int{}
	for _, kind := range actor.Kinds() {
		for _, state := range kind.States() {
			counts[[2]string{kind.Name, string(state)}] = 0
		}
	}
	for _, m := range c.actors.Machines() {
		counts[[2]string{m.Kind, string(m.State)}]++
	}
	for at, n := range counts {
		gauge(actorsDesc, float64(n), at[0], at[1])
	}
	to <- prometheus.MustNewConstMetric(undeclaredDesc, prometheus.CounterValue, float64(c.actors.Undeclared()))
	gauge(segmentsDesc, float64(c.coverage.Snapshot().Len()))
	age, valid := c.coverage.Age()
	gauge(ageDesc, age.Seconds())
	gauge(validDesc, map[bool]float64{true: 1}[valid])
	skew := c.coverage.Skew()
	gauge(skewDesc, (skew.Least+skew.Most).Seconds()/2)
	stat := c.pool.Stat()
	gauge(connsDesc, float64(stat.AcquiredConns()), "busy")
	gauge(connsDesc, float64(stat.IdleConns()), "idle")
	c.collectDatabase(gauge)
}

func (c *collector) collectDatabase(gauge func(*prometheus.Desc, float64, ...string)) {
	ctx, cancel := context.WithTimeout(c.root, scrapeTimeout)
	defer cancel()
	rows, err := c.pool.Query(ctx, `select state, count(*) from barkeep.job group by 1`)
	if err != nil {
		return // the scrape shows it by what is missing; readiness says why
	}
	jobs := map[string]float64{"queued": 0, "fetching": 0, "done": 0, "failed": 0, "superseded": 0, "cancelled": 0}
	var (
		state string
		count float64
	)
	if _, err := pgx.ForEachRow(rows, []any{&state, &count}, func() error { jobs[state] = count; return nil }); err != nil {
		return
	}
	for name, n := range jobs {
		gauge(jobsDesc, n, name)
	}
}

// consumerCollector shows the consumer's counters.
type consumerCollector struct{ *consumer.Consumer }

var (
	recordsDesc = prometheus.NewDesc("barkeep_consumer_records_total", "Records by what became of them.", []string{"outcome"}, nil)
	pagesDesc   = prometheus.NewDesc("barkeep_consumer_pages_total", "Pages committed to the database.", nil, nil)
	barsDesc    = prometheus.NewDesc("barkeep_consumer_bars_total", "Bars committed to the database.", nil, nil)
	lagDesc     = prometheus.NewDesc("barkeep_consumer_lag_records", "Records of the assigned partitions that are not committed yet.", nil, nil)
	revisedDesc = prometheus.NewDesc("barkeep_consumer_revisions_total", "Bars that had been vouched for and that their source says otherwise of, by what it did.", []string{"change"}, nil)
	replaysDesc = prometheus.NewDesc("barkeep_consumer_replays_total", "Logs that were read again from their beginning.", nil, nil)
)

// Describe sends every description.
func (consumerCollector) Describe(to chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{recordsDesc, pagesDesc, barsDesc, lagDesc, revisedDesc, replaysDesc} {
		to <- d
	}
}

// Collect sends every value.
func (c consumerCollector) Collect(to chan<- prometheus.Metric) {
	counter := func(d *prometheus.Desc, value int64, labels ...string) {
		to <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(value), labels...)
	}
	s := c.Stats()
	for outcome, n := range map[string]int64{
		"committed": s.Records, "stale": s.Stale, "superseded": s.Superseded, "ahead": s.Ahead, "foreign": s.Foreign, "dead": s.Dead,
	} {
		counter(recordsDesc, n, outcome)
	}
	counter(pagesDesc, s.Pages)
	counter(barsDesc, s.Bars)
	counter(revisedDesc, s.Revised, "changed")
	counter(revisedDesc, s.Withdrawn, "withdrawn")
	counter(replaysDesc, s.Replays)
	to <- prometheus.MustNewConstMetric(lagDesc, prometheus.GaugeValue, float64(s.Lag))
}

// removalCollector shows what was taken away.
type removalCollector struct{ *removal.Keeper }

var (
	retiredDesc = prometheus.NewDesc("barkeep_removal_retired_total", "Series of which bars were withdrawn for their age.", nil, nil)
	removedDesc = prometheus.NewDesc("barkeep_removal_rows_total", "Rows deleted that nothing vouched for any more.", nil, nil)
)

// Describe sends every description.
func (removalCollector) Describe(to chan<- *prometheus.Desc) {
	to <- retiredDesc
	to <- removedDesc
}

// Collect sends every value.
func (c removalCollector) Collect(to chan<- prometheus.Metric) {
	s := c.Stats()
	to <- prometheus.MustNewConstMetric(retiredDesc, prometheus.CounterValue, float64(s.Retired))
	to <- prometheus.MustNewConstMetric(removedDesc, prometheus.CounterValue, float64(s.Rows))
}

// coordinatorCollector shows the coordinator's counters.
type coordinatorCollector struct{ *coordinator.Coordinator }

var (
	gapsDesc    = prometheus.NewDesc("barkeep_coordinator_gaps_total", "Gaps for which jobs were made.", nil, nil)
	gapBarsDesc = prometheus.NewDesc("barkeep_coordinator_gap_bars_total", "Bars that were missing in those gaps, at most.", nil, nil)
	awaitedDesc = prometheus.NewDesc("barkeep_coordinator_jobs_awaited", "Jobs that a session of this process waits for.", nil, nil)
)

// Describe sends every description.
func (coordinatorCollector) Describe(to chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{gapsDesc, gapBarsDesc, awaitedDesc} {
		to <- d
	}
}

// Collect sends every value.
func (c coordinatorCollector) Collect(to chan<- prometheus.Metric) {
	s := c.Stats()
	to <- prometheus.MustNewConstMetric(gapsDesc, prometheus.CounterValue, float64(s.Gaps))
	to <- prometheus.MustNewConstMetric(gapBarsDesc, prometheus.CounterValue, float64(s.Bars))
	to <- prometheus.MustNewConstMetric(awaitedDesc, prometheus.GaugeValue, float64(s.Awaited))
}

// producerCollector shows the producer's counters of live series.
type producerCollector struct{ *producer.Producer }

var (
	liveSeriesDesc = prometheus.NewDesc("barkeep_live_series_followed", "Series that this producer follows live.", nil, nil)
	liveBarsDesc   = prometheus.NewDesc("barkeep_live_published_total", "Records published to the topics of live series: states of forming bars, and final ones.", []string{"bar"}, nil)
	liveReadDesc   = prometheus.NewDesc("barkeep_live_read_total", "Final bars of live series that were read from the source's history, for want of a feed that told them.", nil, nil)
	liveLateDesc   = prometheus.NewDesc("barkeep_live_dropped_total", "What feeds told twice, too late, or too early.", nil, nil)
	liveFailedDesc = prometheus.NewDesc("barkeep_live_failures_total", "How often following a series failed and was begun again.", nil, nil)
)

// Describe sends every description.
func (producerCollector) Describe(to chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{liveSeriesDesc, liveBarsDesc, liveReadDesc, liveLateDesc, liveFailedDesc} {
		to <- d
	}
}

// Collect sends every value.
func (c producerCollector) Collect(to chan<- prometheus.Metric) {
	counter := func(d *prometheus.Desc, value int64, labels ...string) {
		to <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(value), labels...)
	}
	s := c.Live()
	to <- prometheus.MustNewConstMetric(liveSeriesDesc, prometheus.GaugeValue, float64(s.Following))
	counter(liveBarsDesc, s.Forming, "forming")
	counter(liveBarsDesc, s.Final, "final")
	counter(liveReadDesc, s.Read)
	counter(liveLateDesc, s.Late)
	counter(liveFailedDesc, s.Failed)
}

// breakerCollector shows the breaker of each source.
type breakerCollector struct{ *producer.Producer }

var (
	breakerDesc = prometheus.NewDesc("barkeep_source_breaker_state", "Where the breaker of a source is: 0 closed, 1 half open (one request tries the source), 2 open.", []string{"source"}, nil)
	tripsDesc   = prometheus.NewDesc("barkeep_source_breaker_trips_total", "How often the breaker of a source has opened.", []string{"source"}, nil)
)

// Describe sends every description.
func (breakerCollector) Describe(to chan<- *prometheus.Desc) {
	to <- breakerDesc
	to <- tripsDesc
}

// Collect sends every value.
func (c breakerCollector) Collect(to chan<- prometheus.Metric) {
	for _, b := range c.Breakers() {
		state := map[actor.State]float64{actor.Closed: 0, actor.HalfOpen: 1, actor.Open: 2}[b.State]
		to <- prometheus.MustNewConstMetric(breakerDesc, prometheus.GaugeValue, state, b.Source)
		to <- prometheus.MustNewConstMetric(tripsDesc, prometheus.CounterValue, float64(b.Trips), b.Source)
	}
}

// observeSources returns what counts the requests to sources.
func observeSources(registry prometheus.Registerer) func(producer.Request) {
	buckets := prometheus.ExponentialBuckets(0.001, 3, 11)
	latency := prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name: "barkeep_source_request_seconds", Help: "Time that requests for pages took, by outcome.", Buckets: buckets,
	}, []string{"source", "outcome"})
	waited := prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name: "barkeep_source_rate_limit_wait_seconds", Help: "Time that requests for pages waited for the source's rate limit.", Buckets: buckets,
	}, []string{"source"})
	fetched := prometheus.NewCounterVec(prometheus.CounterOpts{Name: "barkeep_source_bars_total", Help: "Bars that sources answered with."}, []string{"source"})
	skew := prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "barkeep_source_clock_skew_seconds", Help: "The source's clock minus this process's at the last page, as little as explains it.",
	}, []string{"source"})
	registry.MustRegister(latency, waited, fetched, skew)
	return func(r producer.Request) {
		outcome := "ok"
		if r.Err != nil {
			outcome = "error"
		} else {
			skew.WithLabelValues(r.Source).Set(r.Skew.Seconds())
		}
		latency.WithLabelValues(r.Source, outcome).Observe(r.Took.Seconds())
		waited.WithLabelValues(r.Source).Observe(r.Waited.Seconds())
		fetched.WithLabelValues(r.Source).Add(float64(r.Bars))
	}
}
