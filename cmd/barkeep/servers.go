package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/sasl"
	"github.com/twmb/franz-go/pkg/sasl/plain"
	"github.com/twmb/franz-go/pkg/sasl/scram"

	"barkeep/internal/embedded"
)

// servers are the database and the broker, configured or barkeep's own.
type servers struct {
	postgres *embedded.Postgres
	broker   *embedded.Broker // nil where brokers are configured
	// brokerOpts say how to reach the broker.
	brokerOpts []kgo.Opt
}

// startServers starts what is not configured.
func startServers(ctx context.Context, cfg *Config, log *slog.Logger) (*servers, error) {
	s := &servers{}
	var err error
	s.postgres, err = embedded.Start(ctx, embedded.Config{URL: cfg.Upstream.URL, DataDir: cfg.DataDir, Database: embeddedDatabase, Logger: log})
	if err != nil {
		return nil, fmt.Errorf("start the database: %w", err)
	}
	brokers := cfg.Brokers
	if len(brokers) == 0 {
		s.broker, err = embedded.StartBroker(ctx, embedded.BrokerConfig{DataDir: cfg.DataDir, Logger: log})
		if err != nil {
			return nil, errors.Join(fmt.Errorf("start the broker: %w", err), s.stop(ctx))
		}
		brokers = s.broker.Brokers
	}
	s.brokerOpts = brokerOptions(cfg.Broker, brokers)
	return s, nil
}

// embeddedDatabase is the database that barkeep's own PostgreSQL serves.
const embeddedDatabase = "barkeep"

// stop ends what startServers started.
func (s *servers) stop(ctx context.Context) error {
	var errs []error
	if s.broker != nil {
		errs = append(errs, s.broker.Stop())
	}
	if s.postgres != nil {
		errs = append(errs, s.postgres.Stop(ctx))
	}
	return errors.Join(errs...)
}

func brokerOptions(cfg BrokerConfig, brokers []string) []kgo.Opt {
	opts := []kgo.Opt{kgo.SeedBrokers(brokers...), kgo.ClientID("barkeep")}
	if cfg.TLS {
		opts = append(opts, kgo.DialTLSConfig(&tls.Config{MinVersion: tls.VersionTLS12}))
	}
	var mechanism sasl.Mechanism
	switch cfg.Mechanism {
	case "PLAIN":
		mechanism = plain.Auth{User: cfg.User, Pass: cfg.Password}.AsMechanism()
	case "SCRAM-SHA-256":
		mechanism = scram.Auth{User: cfg.User, Pass: cfg.Password}.AsSha256Mechanism()
	case "SCRAM-SHA-512":
		mechanism = scram.Auth{User: cfg.User, Pass: cfg.Password}.AsSha512Mechanism()
	default:
		return opts
	}
	return append(opts, kgo.SASL(mechanism))
}
