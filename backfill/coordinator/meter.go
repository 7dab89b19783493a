package coordinator

import (
	"time"

	"barkeep/internal/market"
)

// reportEvery is how often progress is told.
const reportEvery = 500 * time.Millisecond

// meter measures a filling by the coverage that arrives. What was published does not count: a source that is faster than the
// database would be told as almost done while most of its bars still wait to be stored.
type meter struct {
	report func(market.Progress)
	now    func() time.Time
	began  time.Time
	series market.Series
	total  int64
	left   int64
	told   int64 // the most that was told as done, which coverage that is withdrawn does not take back
	delay  string
}

// see notes how many bars are missing now. More pages of a count make the total grow.
func (m *meter) see(series market.Series, missing int64) {
	m.series = series
	m.left = missing
	m.total = max(m.total, missing)
}

// tell reports, with the time left at the speed so far.
func (m *meter) tell() {
	if m.report == nil || m.total == 0 {
		return
	}
	m.told = min(max(m.told, m.total-m.left), m.total-min(m.left, 1))
	p := market.Progress{Series: m.series, Done: m.told, Total: m.total, Left: -1, Delay: m.delay}
	if spent := m.now().Sub(m.began); p.Done > 0 && spent > 0 {
		p.Left = time.Duration(float64(spent) / float64(p.Done) * float64(p.Total-p.Done))
	}
	m.report(p)
}
