package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"github.com/twmb/franz-go/pkg/kgo"

	"barkeep/backfill/topic"
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
		s.broker, err = embedded.StartBroker(ctx, embedded.BrokerConfig{
			DataDir: cfg.DataDir, Hint: topic.Names{Prefix: cfg.TopicPrefix}.Hint, Logger: log,
		})
		if err != nil {
			return nil, errors.Join(fmt.Errorf("start the broker: %w", err), s.stop(ctx))
		}
		brokers = s.broker.Brokers
	}
	if s.brokerOpts, err = cfg.Broker.options(brokers); err == nil {
		err = cfg.Broker.check(ctx, s.brokerOpts)
	}
	if err != nil {
		return nil, errors.Join(err, s.stop(ctx))
	}
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
