package main

import (
	"context"
	"fmt"

	"github.com/prometheus/client_golang/prometheus"

	"barkeep/backfill/coordinator"
	"barkeep/backfill/live"
	"barkeep/internal/market"
	"barkeep/proxy"
)

// liveBars is the coordinator and the readers as the proxy asks for live bars.
type liveBars struct {
	*coordinator.Coordinator
	hub *live.Hub
}

// Subscribe has bars kept for a session from now on.
func (l liveBars) Subscribe(series market.Series, askedBy string, wake func()) proxy.Subscription {
	return l.hub.Subscribe(series, askedBy, wake)
}

// startLive starts the readers of live bars.
func (a *app) startLive(coord *coordinator.Coordinator) (liveBars, error) {
	hub, err := live.New(live.Config{
		Options: a.servers.brokerOpts, Names: a.names, Deployment: a.deployment, Follower: coord, Actors: a.actors, Logger: a.log,
	})
	if err != nil {
		return liveBars{}, fmt.Errorf("make the readers of live bars: %w", err)
	}
	a.metrics.MustRegister(liveCollector{hub})
	a.group.start("live bars", func(ctx context.Context) error {
		defer hub.Close()
		return hub.Run(ctx)
	})
	return liveBars{coord, hub}, nil
}

// liveCollector shows the counters of live bars.
type liveCollector struct{ hub *live.Hub }

var (
	hubRecordsDesc   = prometheus.NewDesc("barkeep_live_records_total", "Records of live bars by what became of them.", []string{"outcome"}, nil)
	hubMissedDesc    = prometheus.NewDesc("barkeep_live_missed_total", "Live bars that a listener did not take in time, and was told so.", nil, nil)
	hubSeriesDesc    = prometheus.NewDesc("barkeep_live_series", "Series whose live bars are read.", nil, nil)
	hubListenersDesc = prometheus.NewDesc("barkeep_live_listeners", "Sessions that listen, counted once for each series.", nil, nil)
)

// Describe sends every description.
func (liveCollector) Describe(to chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{hubRecordsDesc, hubMissedDesc, hubSeriesDesc, hubListenersDesc} {
		to <- d
	}
}

// Collect sends every value.
func (c liveCollector) Collect(to chan<- prometheus.Metric) {
	s := c.hub.Stats()
	for outcome, n := range map[string]int64{"passed": s.Passed, "repeated": s.Repeated, "unreadable": s.Unreadable} {
		to <- prometheus.MustNewConstMetric(hubRecordsDesc, prometheus.CounterValue, float64(n), outcome)
	}
	to <- prometheus.MustNewConstMetric(hubMissedDesc, prometheus.CounterValue, float64(s.Missed))
	to <- prometheus.MustNewConstMetric(hubSeriesDesc, prometheus.GaugeValue, float64(s.Series))
	to <- prometheus.MustNewConstMetric(hubListenersDesc, prometheus.GaugeValue, float64(s.Listeners))
}
