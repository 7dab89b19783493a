package planner

import (
	"encoding/binary"
	"strings"

	lru "github.com/hashicorp/golang-lru/v2"
)

// Cache keeps templates by text, parameter types and the settings they depend on. It is safe for concurrent use.
type Cache struct {
	templates *lru.Cache[cacheKey, *Template]
	outlines  *lru.Cache[cacheKey, []*sharing]
}

// NewCache returns a cache of at most size templates, at least one.
func NewCache(size int) *Cache {
	templates, _ := lru.New[cacheKey, *Template](max(size, 1))
	outlines, _ := lru.New[cacheKey, []*sharing](max(size/4, 1))
	return &Cache{templates: templates, outlines: outlines}
}

// maxCachedText bounds the texts that are kept; longer ones are seldom sent twice.
const maxCachedText = 64 << 10

// Prepare returns the template of text, from the cache where it is there.
func (c *Cache) Prepare(text string, paramOIDs []uint32, env Env) *Template {
	if len(text) > maxCachedText {
		return Prepare(text, paramOIDs, env)
	}
	key := keyOf(text, paramOIDs, env)
	if t, ok := c.templates.Get(key); ok {
		return t
	}
	t := c.shared(text, paramOIDs, env)
	c.templates.Add(key, t)
	return t
}

// maxSharings bounds the templates of one outline.
const maxSharings = 8

// shared returns the template of a text from another of its outline, where there is one.
func (c *Cache) shared(text string, paramOIDs []uint32, env Env) *Template {
	cut, ok := outlineOf(text)
	if !ok {
		return Prepare(text, paramOIDs, env)
	}
	key := keyOf(cut.skeleton, paramOIDs, env)
	known, _ := c.outlines.Get(key)
	for _, s := range known {
		if t, ok := s.derive(text, cut.literals); ok {
			return t
		}
	}
	t, trees := prepare(text, paramOIDs, env)
	if s := share(t, cut, trees); s != nil {
		known = append([]*sharing{s}, known[:min(len(known), maxSharings-1)]...)
		c.outlines.Add(key, known)
	}
	return t
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
