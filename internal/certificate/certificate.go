package certificate

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"
)

// ALPN is the name of PostgreSQL's protocol in TLS, registered with IANA. A client that asks for TLS with its first byte
// must name it (PostgreSQL 17, "SSL Session Encryption"); one that asks for another protocol is refused by the handshake.
const ALPN = "postgresql"

// Config says which files are shown. All are PEM.
type Config struct {
	// CertFile holds the certificate, followed by those that lead to its authority; KeyFile its private key.
	CertFile, KeyFile string
	// ClientCAFile holds the authorities of client certificates; empty asks clients for none.
	ClientCAFile string
	// MinVersion is the oldest version of TLS, as crypto/tls has it; zero is TLS 1.2.
	MinVersion uint16
	// Every is how often the files are compared with what was read; zero is 5 s.
	Every time.Duration
	// Logger gets what becomes of changed files; nil means none.
	Logger *slog.Logger
}

// Store is what was read last. It is safe for concurrent use.
type Store struct {
	cfg     Config
	current atomic.Pointer[tls.Config]

	mu   sync.Mutex // guards what follows, and orders reads
	seen [sha256.Size]byte
}

// Load reads the files. Those that cannot be used are an error.
func Load(cfg Config) (*Store, error) {
	if cfg.Every <= 0 {
		cfg.Every = 5 * time.Second
	}
	if cfg.MinVersion == 0 {
		cfg.MinVersion = tls.VersionTLS12
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	s := &Store{cfg: cfg}
	if err := s.Reload(); err != nil {
		return nil, err
	}
	return s, nil
}

// Current returns what the next handshake is made with. It has one certificate, with its Leaf; nobody may change it.
func (s *Store) Current() *tls.Config { return s.current.Load() }

// Serving returns a configuration that has each handshake made with what is current then.
func (s *Store) Serving() *tls.Config {
	return &tls.Config{
		MinVersion:         s.cfg.MinVersion,
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) { return s.Current(), nil },
	}
}

// Reload reads the files again. On an error what was there before remains.
func (s *Store) Reload() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	files, err := s.read()
	if err != nil {
		return err
	}
	before := s.seen
	s.seen = files.sum()
	if err := s.use(files); err != nil {
		return err
	}
	if s.seen != before && before != [sha256.Size]byte{} {
		s.tell()
	}
	return nil
}

// tell says which certificate is shown from now on.
func (s *Store) tell() {
	leaf := s.Current().Certificates[0].Leaf
	s.cfg.Logger.Info("certificate read", slog.String("subject", leaf.Subject.String()), slog.Time("not_after", leaf.NotAfter))
}

// Run looks after the files until ctx ends.
func (s *Store) Run(ctx context.Context) error {
	ticker := time.NewTicker(s.cfg.Every)
	defer ticker.Stop()
	readable := true
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
		changed, err := s.refresh()
		switch {
		case err != nil && (changed || readable):
			s.cfg.Logger.ErrorContext(ctx, "changed certificate cannot be used; the one before remains", slog.Any("error", err))
		case err == nil && changed:
			s.tell()
		}
		readable = err == nil || changed
	}
}

// refresh uses the files if their content is another than that seen last, and reports whether it is.
func (s *Store) refresh() (changed bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	files, err := s.read()
	if err != nil {
		return false, err
	}
	sum := files.sum()
	if sum == s.seen {
		return false, nil
	}
	s.seen = sum
	return true, s.use(files)
}

// contents are the files as they were read.
type contents struct{ cert, key, authorities []byte }

func (c contents) sum() [sha256.Size]byte {
	return sha256.Sum256(bytes.Join([][]byte{c.cert, c.key, c.authorities}, []byte{0}))
}

func (s *Store) read() (c contents, err error) {
	for _, each := range []struct {
		path string
		into *[]byte
	}{{s.cfg.CertFile, &c.cert}, {s.cfg.KeyFile, &c.key}, {s.cfg.ClientCAFile, &c.authorities}} {
		if each.path == "" {
			continue
		}
		if *each.into, err = os.ReadFile(filepath.Clean(each.path)); err != nil {
			return c, fmt.Errorf("read certificate: %w", err)
		}
	}
	return c, nil
}

// use makes the files' content current. A certificate that is replaced before its key, or the other way about, does not
// pass: the two must fit.
func (s *Store) use(c contents) error {
	pair, err := tls.X509KeyPair(c.cert, c.key)
	if err != nil {
		return fmt.Errorf("use %s with %s: %w", s.cfg.CertFile, s.cfg.KeyFile, err)
	}
	config := &tls.Config{
		Certificates: []tls.Certificate{pair}, MinVersion: s.cfg.MinVersion, NextProtos: []string{ALPN},
		// As PostgreSQL does: a resumed session would be vouched for by files that may have been replaced since.
		SessionTicketsDisabled: true,
	}
	if s.cfg.ClientCAFile != "" {
		config.ClientCAs = x509.NewCertPool()
		if !config.ClientCAs.AppendCertsFromPEM(c.authorities) {
			return fmt.Errorf("use %s: %w", s.cfg.ClientCAFile, errNoAuthority)
		}
		// A client that has none is told so in the protocol, where it can be read.
		config.ClientAuth = tls.VerifyClientCertIfGiven
	}
	s.current.Store(config)
	return nil
}

var errNoAuthority = errors.New("no certificate in it")
