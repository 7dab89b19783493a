package planner

import (
	"encoding/binary"
	"strings"
	"sync/atomic"

	lru "github.com/hashicorp/golang-lru/v2"
	pg "github.com/pganalyze/pg_query_go/v6"
)

// Cache keeps templates by text, parameter types and the settings they depend on. It is safe for concurrent use.
type Cache struct {
	templates *lru.Cache[cacheKey, *Template]
	outlines  *lru.Cache[cacheKey, []*sharing]
	texts     atomic.Int64 // bytes of the texts of templates
	shapes    atomic.Int64 // likewise of outlines, each as often as it may have templates
	parser    parser
}

// parser is pg.Parse, or what counts how often it is called.
type parser func(text string) (*pg.ParseResult, error)

// NewCache returns a cache of at most size templates, at least one. Long texts are fewer: a template takes some twenty times the
// memory of its text.
func NewCache(size int) *Cache {
	c := &Cache{parser: pg.Parse}
	c.templates, _ = lru.NewWithEvict(max(size, 1), func(key cacheKey, _ *Template) { c.texts.Add(-int64(len(key.text))) })
	c.outlines, _ = lru.NewWithEvict(max(size/4, 1), func(key cacheKey, _ []*sharing) { c.shapes.Add(-maxSharings * int64(len(key.text))) })
	return c
}

// maxCachedBytes bounds all texts that are kept, and all shapes.
const maxCachedBytes = 8 << 20

// maxCachedText bounds the texts that are kept; longer ones are seldom sent twice.
const maxCachedText = 64 << 10

// Prepare returns the template of text, from the cache where it is there.
func (c *Cache) Prepare(text string, paramOIDs []uint32, env Env) *Template {
	if len(text) > maxCachedText {
		return c.prepare(text, paramOIDs, env)
	}
	key := keyOf(text, paramOIDs, env)
	if t, ok := c.templates.Get(key); ok {
		return t
	}
	t := c.shared(text, paramOIDs, env)
	if _, there, _ := c.templates.PeekOrAdd(key, t); !there {
		c.texts.Add(int64(len(text)))
		for more := true; more && c.texts.Load() > maxCachedBytes; {
			_, _, more = c.templates.RemoveOldest()
		}
	}
	return t
}

func (c *Cache) prepare(text string, paramOIDs []uint32, env Env) *Template {
	t, _ := prepare(text, paramOIDs, env, c.parser)
	return t
}

// maxSharings bounds the templates of one outline.
const maxSharings = 8

// shared returns the template of a text from another of its outline, where there is one.
func (c *Cache) shared(text string, paramOIDs []uint32, env Env) *Template {
	cut, ok := outlineOf(text)
	if !ok {
		return c.prepare(text, paramOIDs, env)
	}
	key := keyOf(cut.skeleton, paramOIDs, env)
	known, _ := c.outlines.Get(key)
	for _, s := range known {
		if t, ok := s.derive(text, cut.literals); ok {
			return t
		}
	}
	t, trees := prepare(text, paramOIDs, env, c.parser)
	if s := share(t, cut, trees); s != nil {
		known = append([]*sharing{s}, known[:min(len(known), maxSharings-1)]...)
		c.keep(key, known)
	}
	return t
}

// keep enters what is shared by the texts of an outline.
func (c *Cache) keep(key cacheKey, known []*sharing) {
	if _, there, _ := c.outlines.PeekOrAdd(key, known); there {
		c.outlines.Add(key, known)
		return
	}
	c.shapes.Add(maxSharings * int64(len(key.text)))
	for more := true; more && c.shapes.Load() > maxCachedBytes; {
		_, _, more = c.outlines.RemoveOldest()
	}
}

// cacheKey is what a template depends on.
type cacheKey struct {
	text, oids, encoding, path string
	version                    uint64
	nonStandard                bool
}

func keyOf(text string, paramOIDs []uint32, env Env) cacheKey {
	key := cacheKey{
		text: text, encoding: strings.ToLower(env.ClientEncoding), path: env.SearchPath, version: env.Catalog.version(),
		nonStandard: env.NonStandardStrings,
	}
	if len(paramOIDs) > 0 {
		oids := make([]byte, 0, 64)
		for _, oid := range paramOIDs {
			oids = binary.LittleEndian.AppendUint32(oids, oid)
		}
		key.oids = string(oids)
	}
	return key
}

func (c *Catalog) version() uint64 {
	if c == nil {
		return 0
	}
	return c.Version
}
