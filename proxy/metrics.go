package proxy

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Metrics are what the proxy counts.
type Metrics struct {
	sessions   prometheus.Gauge
	statements *prometheus.CounterVec
	reasons    *prometheus.CounterVec
	holding    prometheus.Gauge
	covered    prometheus.Counter // of statements
	held       prometheus.Histogram
	notified   prometheus.Counter
}

// NewMetrics returns the proxy's metrics, registered where registerer is not nil.
func NewMetrics(registerer prometheus.Registerer) *Metrics {
	m := &Metrics{
		sessions: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "barkeep_proxy_sessions", Help: "Client sessions now.",
		}),
		statements: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "barkeep_proxy_statements_total", Help: "Statements that may read ohlcv, by outcome.",
		}, []string{"outcome"}),
		reasons: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "barkeep_planner_reasons_total", Help: "Why more was asked for than a statement may read, by reason code.",
		}, []string{"code"}),
		holding: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "barkeep_proxy_holds", Help: "Sessions held now.",
		}),
		held: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "barkeep_proxy_hold_seconds", Help: "How long statements were held.",
			Buckets: prometheus.ExponentialBuckets(0.005, 3, 12),
		}),
		notified: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "barkeep_proxy_notifications_total", Help: "Notifications of live bars written to clients.",
		}),
	}
	m.covered = m.statements.WithLabelValues("covered")
	if registerer != nil {
		registerer.MustRegister(m.sessions, m.statements, m.reasons, m.holding, m.held, m.notified)
	}
	return m
}

func (m *Metrics) outcome(name string) {
	if name == "covered" { // most of them, and the others take their time
		m.covered.Inc()
		return
	}
	m.statements.WithLabelValues(name).Inc()
}

func (m *Metrics) hold(start time.Time) func() {
	m.holding.Inc()
	return func() {
		m.holding.Dec()
		m.held.Observe(time.Since(start).Seconds())
	}
}
