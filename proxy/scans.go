package proxy

import (
	"slices"
	"sync"
	"sync/atomic"
	"weak"

	"barkeep/planner"
)

// The texts that are kept take at most 16 MiB.
const (
	maxScans       = 4096
	maxScannedText = 4 << 10
)

// scans keeps the scans of texts that come again. It is safe for concurrent use.
//
// It keeps no catalog, but its version: one may be large, and there are many where definitions change often.
//
// It has two generations: what is found in the older one comes to the newer one, which is the older one as soon as it is full. So a text
// that comes again and again is never lost, and to look it up changes nothing.
type scans struct {
	mu           sync.RWMutex // guards what follows
	newer, older map[string]*scanned
}

// scanned is a text with what a scan has said of it, which is never changed.
type scanned struct {
	text string
	scan
	templates lastTemplate
}

// lastTemplate finds the template that a text had last, without a look into the cache of templates. It keeps none: what the cache has
// dropped is gone with the next collection. It is safe for concurrent use.
type lastTemplate struct{ kept atomic.Pointer[templateOf] }

type templateOf struct {
	templateKey
	oids     []uint32
	template weak.Pointer[planner.Template]
}

// templateKey is what a template hangs on besides its text and the types of its parameters (PLANNER 6).
type templateKey struct {
	version        uint64 // of the catalog
	path, encoding string
	nonStandard    bool
}

// of returns the template, or nil.
func (l *lastTemplate) of(key *templateKey, oids []uint32) *planner.Template {
	if l == nil {
		return nil
	}
	kept := l.kept.Load()
	if kept == nil || kept.templateKey != *key || !slices.Equal(kept.oids, oids) {
		return nil
	}
	return kept.template.Value()
}

func (l *lastTemplate) keep(key templateKey, oids []uint32, template *planner.Template) {
	if l != nil {
		l.kept.Store(&templateOf{templateKey: key, oids: slices.Clone(oids), template: weak.Make(template)})
	}
}

// of returns the scan of a text under the catalog, with the text in memory of its own: it is the same for all who ask.
func (s *scans) of(text []byte, known *planner.Catalog) *scanned {
	s.mu.RLock()
	kept := s.newer[string(text)]
	s.mu.RUnlock()
	if kept != nil && kept.version == versionOf(known) {
		return kept
	}
	return s.find(text, known)
}

// find is of for what is not among the newer ones.
func (s *scans) find(text []byte, known *planner.Catalog) *scanned {
	s.mu.RLock()
	kept := s.older[string(text)]
	s.mu.RUnlock()
	if kept == nil || kept.version != versionOf(known) {
		own := string(text)
		kept = &scanned{text: own, scan: scanText(own, known)}
		kept.idle = kept.scan == scan{version: kept.version}
		kept.parameters, kept.late = parametersIn(own), isLate(own)
	}
	if len(text) <= maxScannedText {
		s.keep(kept)
	}
	return kept
}

func (s *scans) keep(kept *scanned) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.newer == nil || len(s.newer) >= maxScans/2 {
		s.newer, s.older = make(map[string]*scanned), s.newer
	}
	s.newer[kept.text] = kept
}
