package planner

import (
	"encoding/binary"
	"strings"

	lru "github.com/hashicorp/golang-lru/v2"
)

// Cache keeps templates by text, parameter types and the settings they depend on. It is safe for concurrent use.
type Cache struct {
	templates *lru.Cache[string, *Template]
	outlines  *lru.Cache[string, []*sharing]
}

// NewCache returns a cache of at most size templates, at least one.
func NewCache(size int) *Cache {
	templates, _ := lru.New[string, *Template](max(size, 1))
	outlines, _ := lru.New[string, []*sharing](max(size/4, 1))
	return &Cache{templates: templates, outlines: outlines}
}

// maxCachedText bounds the texts that are kept; longer ones are seldom sent twice.
const maxCachedText = 64 << 10

// Prepare returns the template of text, from the cache where it is there.
func (c *Cache) Prepare(text string, paramOIDs []uint32, env Env) *Template {
	if len(text) > maxCachedText {
		return Prepare(text, paramOIDs, env)
	}
	key := cacheKey(text, paramOIDs, env)
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
	key := cacheKey(cut.skeleton, paramOIDs, env)
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

func cacheKey(text string, paramOIDs []uint32, env Env) string {
	var b strings.Builder
	var number [8]byte
	b.Grow(len(text) + 32 + 4*len(paramOIDs))
	binary.LittleEndian.PutUint64(number[:], env.Catalog.version())
	b.Write(number[:])
	binary.LittleEndian.PutUint64(number[:], uint64(len(paramOIDs)))
	b.Write(number[:])
	for _, oid := range paramOIDs {
		binary.LittleEndian.PutUint32(number[:4], oid)
		b.Write(number[:4])
	}
	if env.NonStandardStrings {
		b.WriteByte('n')
	}
	b.WriteString(strings.ToLower(env.ClientEncoding))
	b.WriteByte(0)
	b.WriteString(env.SearchPath)
	b.WriteByte(0)
	b.WriteString(text)
	return b.String()
}

func (c *Catalog) version() uint64 {
	if c == nil {
		return 0
	}
	return c.Version
}
