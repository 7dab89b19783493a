package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/sasl"
	"github.com/twmb/franz-go/pkg/sasl/plain"
	"github.com/twmb/franz-go/pkg/sasl/scram"
)

// options says how the brokers are reached.
func (c BrokerConfig) options(brokers []string) ([]kgo.Opt, error) {
	opts := []kgo.Opt{kgo.SeedBrokers(brokers...), kgo.ClientID("barkeep")}
	if c.TLS {
		authorities, err := c.authorities()
		if err != nil {
			return nil, err
		}
		opts = append(opts, kgo.DialTLSConfig(&tls.Config{MinVersion: tls.VersionTLS12, RootCAs: authorities}))
	}
	var mechanism sasl.Mechanism
	switch c.Mechanism {
	case "PLAIN":
		mechanism = plain.Auth{User: c.User, Pass: c.Password}.AsMechanism()
	case "SCRAM-SHA-256":
		mechanism = scram.Auth{User: c.User, Pass: c.Password}.AsSha256Mechanism()
	case "SCRAM-SHA-512":
		mechanism = scram.Auth{User: c.User, Pass: c.Password}.AsSha512Mechanism()
	default:
		return opts, nil
	}
	return append(opts, kgo.SASL(mechanism)), nil
}

// authorities returns those of CAFile; nil are the system's.
func (c BrokerConfig) authorities() (*x509.CertPool, error) {
	if c.CAFile == "" {
		return nil, nil //nolint:nilnil // nil is a pool to crypto/tls
	}
	text, err := os.ReadFile(filepath.Clean(c.CAFile))
	if err != nil {
		return nil, fmt.Errorf("broker.ca_file: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(text) {
		return nil, fmt.Errorf("broker.ca_file: %s holds no certificate", c.CAFile)
	}
	return pool, nil
}

// checkTime bounds the check, and one that takes longer says nothing.
const checkTime = 10 * time.Second

// check returns an error for what only another setting mends, at once: the broker's client would try it again and again. Whether a broker is there is
// not its business.
func (c BrokerConfig) check(ctx context.Context, opts []kgo.Opt) error {
	if !c.TLS && c.Mechanism == "" {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, checkTime)
	defer cancel()
	client, err := kgo.NewClient(opts...)
	if err != nil {
		return fmt.Errorf("open broker client: %w", err)
	}
	defer client.Close()
	return c.explain(client.Ping(ctx))
}

// explain names the setting that an error is about; nil where it is about none.
func (c BrokerConfig) explain(err error) error {
	var invalid x509.CertificateInvalidError
	var unknown x509.UnknownAuthorityError
	var other x509.HostnameError
	var garbled tls.RecordHeaderError
	switch {
	case errors.As(err, &invalid):
		return fmt.Errorf("broker.tls: the broker's certificate is not valid: %w", invalid)
	case errors.As(err, &unknown):
		return fmt.Errorf("broker.ca_file: the broker's certificate is of no authority that is known: %w", unknown)
	case errors.As(err, &other):
		return fmt.Errorf("brokers: the broker's certificate is for another name: %w", other)
	case errors.As(err, &garbled):
		return fmt.Errorf("broker.tls: the broker does not speak TLS there: %w", garbled)
	case errors.Is(err, kerr.SaslAuthenticationFailed):
		return fmt.Errorf("broker.user, broker.password: the broker refuses the user %q or its password by %s", c.User, c.Mechanism)
	case errors.Is(err, kerr.UnsupportedSaslMechanism), errors.Is(err, kerr.IllegalSaslState):
		return fmt.Errorf("broker.mechanism: the broker does not offer %s: %w", c.Mechanism, err)
	}
	return nil
}

// closed adds what may be the reason where the broker closes connections instead of saying why.
func (c BrokerConfig) closed(err error) error {
	if c.Mechanism != "" && (errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)) {
		return fmt.Errorf("the broker closes the connection when the user %q logs in by %s (broker.user, broker.password, broker.mechanism, broker.tls): %w", c.User, c.Mechanism, err)
	}
	return err
}
