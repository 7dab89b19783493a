package coordinator

import (
	"time"

	"barkeep/internal/market"
)

// reportEvery is how often progress is told.
const reportEvery = 500 * time.Millisecond

// meter measures a filling by the coverage that arrives: events may be lost.
type meter struct {
	report func(market.Progress)
	now    func() time.Time
	began  time.Time
	series market.Series
	total  int64
	left   int64
}

// see notes how many bars are missing now. More pages of a count make the total grow.
func (m *meter) see(series market.Series, missing int64) {
	m.series = series
	if m.total == 0 {
		m.total = missing
	}
	m.left = missing
	m.total = max(m.total, missing)
}

// tell reports, with the time left at the speed so far.
func (m *meter) tell() {
	if m.report == nil || m.total == 0 {
		return
	}
	p := market.Progress{Series: m.series, Done: m.total - m.left, Total: m.total, Left: -1}
	if spent := m.now().Sub(m.began); p.Done > 0 && spent > 0 {
		p.Left = time.Duration(float64(spent) / float64(p.Done) * float64(m.left))
	}
	m.report(p)
}
