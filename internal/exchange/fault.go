package exchange

import (
	"math/rand/v2"
	"net/http"
	"strings"
	"time"

	"barkeep/internal/market"
)

// Fault is one thing that goes wrong. Its zero value is nothing.
type Fault struct {
	// Path has to be part of the request's path; empty fits all.
	Path string
	// Times is how many requests it hits; zero means every one from now on.
	Times int
	// Skip lets that many fitting requests pass first.
	Skip int

	// Delay holds the answer back.
	Delay time.Duration
	// Status answers with this HTTP status and no body; RetryAfter goes with it, in whole seconds.
	Status     int
	RetryAfter time.Duration
	// Body answers with this text and status 200.
	Body string
	// Clock moves the exchange's Date header.
	Clock time.Duration
	// Cut ends the body in its middle; SlowEvery sends 64 bytes at a time, so far apart.
	Cut       bool
	SlowEvery time.Duration
	// Garble makes one number unreadable.
	Garble bool
	// Outside replaces all rows by rows a thousand bars later, Extra adds as many before and after the range.
	Outside bool
	Extra   int
	// Duplicate sends every third row twice, first with another close; Shuffle mixes the order.
	Duplicate, Shuffle bool
	// OffGrid moves one row by a second.
	OffGrid bool
	// Impossible makes one row's low greater than its high.
	Impossible bool
	// Late leaves out that many of the last rows of a page, Hole that many of the middle, Empty all.
	Late, Hole int
	Empty      bool
	// Behind is how many of the newest bars are not there yet, the one that forms among them.
	Behind int
}

// Script appends faults. Each request takes the first that fits it.
func (s *Server) Script(faults ...Fault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, f := range faults {
		s.faults = append(s.faults, &f)
	}
}

// Heal drops all faults.
func (s *Server) Heal() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults = nil
}

// next takes the fault that is scripted for a request; nil is none.
func (s *Server) next(r *http.Request) *Fault {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, f := range s.faults {
		if !strings.Contains(r.URL.Path, f.Path) {
			continue
		}
		if f.Skip > 0 {
			f.Skip--
			continue
		}
		hit := *f
		if f.Times > 0 {
			f.Times--
			if f.Times == 0 {
				s.faults = append(s.faults[:i:i], s.faults[i+1:]...)
			}
		}
		return &hit
	}
	return nil
}

// spoilsRows reports whether a page has to be rendered for f alone.
func (f *Fault) spoilsRows() bool {
	return f.Outside || f.Extra > 0 || f.Duplicate || f.Shuffle || f.OffGrid || f.Impossible || f.Late > 0 || f.Hole > 0 || f.Empty || f.Behind > 0
}

// rows applies f to the rows of a page.
func (f *Fault) rows(bars []market.Bar, tf market.Timeframe) []market.Bar {
	if f.Empty {
		return nil
	}
	bars = bars[:max(len(bars)-f.Late, 0)]
	if len(bars) == 0 {
		return bars
	}
	if from := len(bars) / 2; f.Hole > 0 && from+f.Hole < len(bars) {
		bars = append(bars[:from], bars[from+f.Hole:]...)
	}
	if f.Outside {
		for i := range bars {
			bars[i].TS = tf.Add(bars[i].TS, 1000)
		}
	}
	for n := range int64(f.Extra) {
		before, after := bars[0], bars[len(bars)-1]
		before.TS, after.TS = tf.Add(before.TS, -n-1), tf.Add(after.TS, n+1)
		bars = append(append([]market.Bar{before}, bars...), after)
	}
	if f.OffGrid {
		bars[len(bars)/2].TS += market.Instant(time.Second / time.Microsecond)
	}
	if f.Impossible {
		bars[len(bars)/2].Low = bars[len(bars)/2].High + 1
	}
	if f.Shuffle {
		rand.Shuffle(len(bars), func(i, j int) { bars[i], bars[j] = bars[j], bars[i] })
	}
	if f.Duplicate {
		bars = repeat(bars)
	}
	return bars
}

// repeat sends every third row twice: the last one is right (BS3).
func repeat(bars []market.Bar) []market.Bar {
	var twice []market.Bar
	for i, b := range bars {
		if i%3 == 0 {
			wrong := b
			wrong.Close = b.Low
			twice = append(twice, wrong)
		}
		twice = append(twice, b)
	}
	return twice
}
