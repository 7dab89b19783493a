package source

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/jackc/pgerrcode"
)

// Config configures one source. A zero value leaves the source's own default.
type Config struct {
	// Disabled takes the source out of the registry.
	Disabled bool
	// URL is the vendor's base URL; Path is the folder of the file source.
	URL, Path string
	// StreamURL is where the vendor's live feed is, ws:// or wss://. Where it is empty and URL is set there is no feed.
	StreamURL string
	// Key is a secret; where it is empty it is read from KeyFile.
	Key, KeyFile string
	// Market is the venue whose bars are asked for, where a source has those of several: CoinDesk.
	Market string
	// Rate is in requests per second, Burst in requests.
	Rate  float64
	Burst int
	// FinalityLag and AbsenceLag hold for all timeframes.
	FinalityLag, AbsenceLag time.Duration
	// Now tells the time; nil means time.Now.
	Now func() time.Time
}

// Validate returns an error that names the setting which cannot be.
func (c *Config) Validate() error {
	switch {
	case c.Rate < 0:
		return errors.New("rate: must not be negative")
	case c.Burst < 0:
		return errors.New("burst: must not be negative")
	case c.StreamURL != "" && !strings.HasPrefix(c.StreamURL, "ws://") && !strings.HasPrefix(c.StreamURL, "wss://"):
		return errors.New("stream_url: not a ws or wss URL")
	case c.FinalityLag < 0 || c.AbsenceLag < 0:
		return errors.New("finality_lag, absence_lag: must not be negative")
	}
	return nil
}

// withKey returns c with its key read.
func withKey(c Config) (Config, error) {
	if c.Key != "" || c.KeyFile == "" {
		return c, nil
	}
	text, err := os.ReadFile(filepath.Clean(c.KeyFile))
	if err != nil {
		return c, fmt.Errorf("key_file: %w", err)
	}
	c.Key = strings.TrimSpace(string(text))
	return c, nil
}

// Maker makes one source. Make returns a nil Source where the configuration leaves the source out: no path for the file
// source, no key where a key is needed.
type Maker struct {
	Name string
	Make func(Config) (Source, error)
}

// Registry holds the configured sources in order of preference. It does not change and is safe for concurrent use.
type Registry struct {
	order    []Source
	byName   map[string]Source
	disabled []string
}

// NewRegistry makes the sources of makers, whose order is the order of preference, each with the configuration of its name.
// A configuration without a maker is an error.
func NewRegistry(configs map[string]Config, makers ...Maker) (*Registry, error) {
	r := &Registry{byName: map[string]Source{}}
	known := map[string]bool{}
	for _, m := range makers {
		known[m.Name] = true
		config := configs[m.Name]
		if config.Disabled {
			r.disabled = append(r.disabled, m.Name)
			continue
		}
		if err := config.Validate(); err != nil {
			return nil, fmt.Errorf("sources.%s.%w", m.Name, err)
		}
		config, err := withKey(config)
		if err != nil {
			return nil, fmt.Errorf("sources.%s.%w", m.Name, err)
		}
		s, err := m.Make(config)
		if err != nil {
			return nil, fmt.Errorf("sources.%s.%w", m.Name, err)
		}
		if s != nil {
			r.order = append(r.order, s)
			r.byName[m.Name] = s
		}
	}
	for name := range configs {
		if !known[name] {
			return nil, fmt.Errorf("sources.%s: %w", name, ErrUnknownSource)
		}
	}
	return r, nil
}

// RegistryOf returns a registry of the given sources, in order of preference.
func RegistryOf(sources ...Source) *Registry {
	r := &Registry{order: sources, byName: map[string]Source{}}
	for _, s := range sources {
		r.byName[s.Name()] = s
	}
	return r
}

// All returns the sources in order of preference. The caller must not change the slice.
func (r *Registry) All() []Source { return r.order }

// Disabled returns the names of the sources that the configuration takes out. The caller must not change the slice.
func (r *Registry) Disabled() []string { return r.disabled }

// Get returns the source of that name, or an *Error that wraps ErrUnknownSource and names those there are.
func (r *Registry) Get(name string) (Source, error) {
	if s, found := r.byName[name]; found {
		return s, nil
	}
	return nil, &Error{
		Source: name, Code: pgerrcode.InvalidParameterValue,
		Err: fmt.Errorf("%w: configured are %s", ErrUnknownSource, strings.Join(r.Names(), ", ")),
	}
}

// Names returns the names in order of preference.
func (r *Registry) Names() []string {
	names := make([]string, len(r.order))
	for i, s := range r.order {
		names[i] = s.Name()
	}
	return names
}
