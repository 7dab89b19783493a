package main

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"strconv"
	"strings"
	"time"

	"barkeep/backfill/consumer"
	"barkeep/backfill/coordinator"
	"barkeep/backfill/coverage"
	"barkeep/backfill/directory"
	"barkeep/backfill/ingest"
	"barkeep/backfill/producer"
	"barkeep/backfill/source"
	"barkeep/internal/actor"
	"barkeep/internal/catalog"
	"barkeep/internal/schema"
	"barkeep/internal/status"
	"barkeep/proxy"
)

// startParts starts what the roles name, in the reverse of the order in which they stop: who writes before who fetches
// before who asks.
func (a *app) startParts(life lifetimes) error {
	if a.roles.consumer {
		if err := a.startConsumer(); err != nil {
			return err
		}
	}
	if a.roles.producer {
		if err := a.startProducer(); err != nil {
			return err
		}
	}
	if a.roles.proxy {
		return a.startProxy(life)
	}
	return nil
}

func (a *app) startConsumer() error {
	c, err := consumer.New(consumer.Config{
		Brokers: a.servers.brokerOpts, Pool: a.pool, Names: a.names, Deployment: a.deployment, Logger: a.log,
		Observe: a.observer(actor.FixedConsumer(), "partition "),
	})
	if err != nil {
		return fmt.Errorf("make the consumer: %w", err)
	}
	a.metrics.MustRegister(consumerCollector{c})
	a.group.start("consumer", c.Run)
	return nil
}

func (a *app) startProducer() error {
	p, err := producer.New(producer.Config{
		Options: a.servers.brokerOpts, Pool: a.pool, Names: a.names, Deployment: a.deployment, Registry: a.sources,
		Coverage: a.coverage, Actors: a.actors, Logger: a.log, Observe: observeSources(a.metrics),
	})
	if err != nil {
		return fmt.Errorf("make the producer: %w", err)
	}
	a.group.start("producer", p.Run)
	return nil
}

func sourceConfigs(from map[string]Source) map[string]source.Config {
	configs := make(map[string]source.Config, len(from))
	for name, s := range from {
		configs[name] = source.Config{
			Disabled: s.Enabled != nil && !*s.Enabled, URL: s.URL, Path: s.Path, Key: s.Key, Rate: s.Rate, Burst: s.Burst,
			FinalityLag: s.FinalityLag, AbsenceLag: s.AbsenceLag,
		}
	}
	return configs
}

func (a *app) startProxy(life lifetimes) error {
	ctx := life.intake
	names := catalog.New(a.pool, a.log, directory.ListingSQL)
	if err := names.Refresh(ctx); err != nil {
		return err
	}
	a.group.start("catalog", names.Run)
	coord, err := coordinator.New(coordinator.Config{
		Options: a.servers.brokerOpts, Pool: a.pool, Names: a.names, Deployment: a.deployment, Coverage: a.coverage,
		MaxBars: a.cfg.Statement.MaxBars, Actors: a.actors, Logger: a.log,
	})
	if err != nil {
		return fmt.Errorf("make the coordinator: %w", err)
	}
	a.metrics.MustRegister(coordinatorCollector{coord})
	a.group.start("coordinator", func(ctx context.Context) error {
		defer coord.Close()
		return coord.Run(ctx)
	})
	up, err := a.upstream(ctx)
	if err != nil {
		return err
	}
	server := proxy.New(proxy.Config{
		Upstream: up, Database: a.pool.Config().ConnConfig.Database, TLS: a.certificate,
		AllowTrust: a.cfg.Auth.AllowTrust, Coordinator: filler{coord}, Explainer: filler{coord}, Catalog: definitions{names, coord, life.work},
		MaxSessions: a.cfg.Sessions.Max, MaxHolds: a.cfg.Holds.Max, MaxBars: a.cfg.Statement.MaxBars, Timeout: a.cfg.Statement.Timeout, Freshness: a.cfg.Statement.Freshness,
		NoticeAfter: a.cfg.Holds.NoticeAfter, NoticeEvery: a.cfg.Holds.NoticeEvery, Grace: sessionGrace(a.cfg.Shutdown.Grace),
		Skew: databaseSkew(a.coverage), Actors: a.actors, Logger: a.log, Metrics: proxy.NewMetrics(a.metrics),
	})
	a.status.Sessions = func() []status.Session { return sessionRows(server.List()) }
	a.group.start("blocked ingest", func(ctx context.Context) error {
		return ingest.FollowBlocks(ctx, a.pool, a.log, server.EndBlockingHold)
	})
	listener := a.listener
	a.group.start("proxy", func(ctx context.Context) error { return server.Serve(ctx, listener) })
	return nil
}

// databaseSkew is the distance of the database's clock as the proxy asks for it.
func databaseSkew(store *coverage.Store) func() (least, most time.Duration) {
	return func() (least, most time.Duration) {
		skew := store.Skew()
		return skew.Least, skew.Most
	}
}

// sessionGrace leaves a part of the grace to those who stop after the sessions.
func sessionGrace(grace time.Duration) time.Duration { return grace * 5 / 6 }

func clientTLS(cfg TLSConfig) (*tls.Config, error) {
	if cfg.CertFile == "" {
		return nil, nil //nolint:nilnil // no TLS is not an error
	}
	certificate, err := tls.LoadX509KeyPair(cfg.CertFile, cfg.KeyFile)
	if err != nil {
		return nil, fmt.Errorf("tls.cert_file, tls.key_file: %w", err)
	}
	return &tls.Config{Certificates: []tls.Certificate{certificate}, MinVersion: tls.VersionTLS12}, nil
}

// upstream returns where sessions connect to: where the service's own connections ended up, which with sslmode=prefer
// is known only afterwards.
func (a *app) upstream(ctx context.Context) (proxy.Upstream, error) {
	conn, err := a.pool.Acquire(ctx)
	if err != nil {
		return proxy.Upstream{}, fmt.Errorf("connect to the database: %w", err)
	}
	defer conn.Release()
	id, err := schema.Identify(ctx, conn.Conn())
	if err != nil {
		return proxy.Upstream{}, err
	}
	cfg := &conn.Conn().Config().Config
	port := strconv.Itoa(int(cfg.Port))
	up := proxy.Upstream{SystemIdentifier: id, LifeQuery: "select " + schema.Life, IdentifyQuery: schema.IdentifyQuery}
	if strings.HasPrefix(cfg.Host, "/") {
		up.Network, up.Address = "unix", cfg.Host+"/.s.PGSQL."+port
		return up, nil
	}
	up.Network, up.Address = "tcp", net.JoinHostPort(cfg.Host, port)
	if _, encrypted := conn.Conn().PgConn().Conn().(*tls.Conn); encrypted {
		up.TLS = cfg.TLSConfig
	}
	return up, nil
}

// observer returns what turns a part's reports into actors.
func (a *app) observer(kind actor.Kind, prefix string) func(id int32, state string) {
	machines := newMachines(a.actors, kind, prefix)
	return machines.to
}
