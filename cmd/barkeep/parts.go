package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"barkeep/backfill/consumer"
	"barkeep/backfill/coordinator"
	"barkeep/backfill/coverage"
	"barkeep/backfill/directory"
	"barkeep/backfill/ingest"
	"barkeep/backfill/producer"
	"barkeep/backfill/removal"
	"barkeep/backfill/source"
	"barkeep/internal/actor"
	"barkeep/internal/catalog"
	"barkeep/internal/certificate"
	"barkeep/internal/roster"
	"barkeep/internal/status"
	"barkeep/internal/verifier"
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
	kept, err := a.cfg.retention()
	if err != nil {
		return err
	}
	k, err := removal.New(removal.Config{Pool: a.pool, Grace: a.cfg.Removal.Grace, Keep: kept, Actors: a.actors, Logger: a.log})
	if err != nil {
		return fmt.Errorf("make what removes bars: %w", err)
	}
	a.metrics.MustRegister(removalCollector{k})
	a.group.start("removal", k.Run)
	return nil
}

func (a *app) startProducer() error {
	p, err := producer.New(producer.Config{
		Options: a.servers.brokerOpts, Pool: a.pool, Names: a.names, Deployment: a.deployment, Registry: a.sources,
		Coverage: a.coverage, Breaker: a.cfg.Producer.Breaker, Actors: a.actors, Logger: a.log, Observe: observeSources(a.metrics),
	})
	if err != nil {
		return fmt.Errorf("make the producer: %w", err)
	}
	a.metrics.MustRegister(producerCollector{p})
	a.metrics.MustRegister(breakerCollector{p})
	a.group.start("producer", p.Run)
	return nil
}

func sourceConfigs(from map[string]Source) map[string]source.Config {
	configs := make(map[string]source.Config, len(from))
	for name, s := range from {
		configs[name] = source.Config{
			Disabled: s.Enabled != nil && !*s.Enabled, URL: s.URL, StreamURL: s.StreamURL, Path: s.Path, Key: s.Key, Market: s.Market,
			Rate: s.Rate, Burst: s.Burst, FinalityLag: s.FinalityLag, AbsenceLag: s.AbsenceLag,
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
		Fallback: a.cfg.fallbacks(), MaxBars: a.cfg.Statement.MaxBars, MaxJobs: a.cfg.Holds.MaxJobs, Actors: a.actors, Logger: a.log,
	})
	if err != nil {
		return fmt.Errorf("make the coordinator: %w", err)
	}
	if err := coord.Mix(ctx); err != nil {
		coord.Close()
		return err
	}
	a.metrics.MustRegister(coordinatorCollector{coord})
	a.group.start("coordinator", func(ctx context.Context) error {
		defer coord.Close()
		return coord.Run(ctx)
	})
	bars, err := a.startLive(coord)
	if err != nil {
		return err
	}
	up, err := a.upstream(ctx)
	if err != nil {
		return err
	}
	var shown *tls.Config
	if a.certificate != nil {
		shown = a.certificate.Serving()
		a.group.start("certificate", a.certificate.Run)
	}
	verifiers, err := a.verifiers(ctx, up)
	if err != nil {
		return err
	}
	list := &listing{}
	others := roster.New(a.pool, list, a.instanceName(), a.log)
	server := proxy.New(proxy.Config{
		Others: others, Upstream: up, Database: a.pool.Config().ConnConfig.Database, TLS: shown, RequireTLS: a.cfg.TLS.Require,
		RequireCertificate: a.cfg.TLS.ClientCAFile != "", ClientNames: clientNames(a.cfg.TLS.ClientNames),
		AllowTrust: a.cfg.Auth.AllowTrust, Verifiers: verifiers, Coordinator: filler{coord}, Explainer: filler{coord}, Live: bars, Catalog: definitions{names, coord, life.work},
		Limits: limits(&a.cfg), ForceHold: a.cfg.Holds.Force,
		Skew: databaseSkew(a.coverage), Actors: a.actors, Logger: a.log, Metrics: proxy.NewMetrics(a.metrics),
	})
	a.server, list.Server = server, server
	a.group.start("roster", others.Run)
	select {
	case <-others.Entered():
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	a.status.Sessions = func() []status.Session { return sessionRows(server.List()) }
	a.group.start("blocked ingest", func(ctx context.Context) error {
		return ingest.FollowBlocks(ctx, a.pool, a.log, server.EndBlockingHold)
	})
	listeners := a.listeners
	a.group.start("proxy", func(ctx context.Context) error {
		stop := context.AfterFunc(life.work, server.Abandon) //nolint:contextcheck // it starts what has contexts of its own
		defer stop()
		return server.Serve(ctx, listeners...)
	})
	return nil
}

// limits are the settings of the proxy that can be changed while it runs.
func limits(cfg *Config) proxy.Limits {
	return proxy.Limits{
		MaxSessions: cfg.Sessions.Max, MaxUserSessions: cfg.Sessions.MaxPerUser, MaxStarting: cfg.Sessions.MaxStarting, MaxHolds: cfg.Holds.Max, MaxUserHolds: cfg.Holds.MaxPerUser,
		MaxBars: cfg.Statement.MaxBars, Timeout: cfg.Statement.Timeout, Freshness: cfg.Statement.Freshness,
		NoticeAfter: cfg.Holds.NoticeAfter, NoticeEvery: cfg.Holds.NoticeEvery,
		StartupTimeout: cfg.Sessions.LoginTimeout, IdleTimeout: cfg.Sessions.IdleTimeout, Grace: sessionGrace(cfg.Shutdown.Grace),
	}
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

// clientTLS reads what clients are shown that ask for TLS; nil where nothing is configured.
func clientTLS(cfg TLSConfig, log *slog.Logger) (*certificate.Store, error) {
	if cfg.CertFile == "" {
		return nil, nil //nolint:nilnil // no TLS is not an error
	}
	store, err := certificate.Load(certificate.Config{
		CertFile: cfg.CertFile, KeyFile: cfg.KeyFile, ClientCAFile: cfg.ClientCAFile, MinVersion: tlsVersions[cfg.MinVersion], Logger: log,
	})
	if err != nil {
		return nil, fmt.Errorf("tls: %w", err)
	}
	return store, nil
}

// tlsVersions are the values of tls.min_version, as PostgreSQL's ssl_min_protocol_version has them.
var tlsVersions = map[string]uint16{"TLSv1.2": tls.VersionTLS12, "TLSv1.3": tls.VersionTLS13}

// clientNames reads tls.client_names, which Validate has looked at.
func clientNames(pairs []string) map[string][]string {
	names := map[string][]string{}
	for _, pair := range pairs {
		if name, user, ok := cutLast(pair, "="); ok {
			names[name] = append(names[name], user)
		}
	}
	return names
}

// verifiers returns what users prove themselves against. A users file that cannot be used is an error; where the database does
// not let verifiers be read, the log says so: only some clients need them.
func (a *app) verifiers(ctx context.Context, up proxy.Upstream) (proxy.Verifiers, error) {
	if a.cfg.Auth.UsersFile != "" {
		file := verifier.File(a.cfg.Auth.UsersFile)
		_, err := file.Secret(ctx, "")
		return file, err
	}
	database := verifier.NewDatabase(a.pool)
	_, err := database.Secret(ctx, "")
	switch {
	case err == nil:
	case !errors.Is(err, verifier.ErrUnreadable):
		return nil, err
	case a.certificate != nil || up.Binding == proxy.BindingRequired:
		a.log.WarnContext(ctx, "SCRAM can only be relayed", slog.Any("error", err))
	}
	return database, nil
}

// observer returns what turns a part's reports into actors.
func (a *app) observer(kind actor.Kind, prefix string) func(id int32, state string) {
	machines := newMachines(a.actors, kind, prefix)
	return machines.to
}
