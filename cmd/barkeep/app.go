package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"barkeep/backfill/coverage"
	"barkeep/backfill/source"
	"barkeep/backfill/source/builtin"
	"barkeep/backfill/topic"
	"barkeep/internal/actor"
	"barkeep/internal/certificate"
	"barkeep/internal/listen"
	"barkeep/internal/schema"
	"barkeep/internal/status"
	"barkeep/proxy"
)

// roles says which parts run in this process.
type roles struct{ proxy, producer, consumer bool }

// app is a running barkeep.
type app struct {
	cfg     Config
	roles   roles
	log     *slog.Logger
	group   *group
	servers *servers

	pool       *pgxpool.Pool
	names      topic.Names
	deployment string
	actors     *actor.Registry
	metrics    *prometheus.Registry
	coverage   *coverage.Store

	sources     *source.Registry   // nil without the producer
	certificate *certificate.Store // nil without TLS

	server *proxy.Server // nil without the proxy

	status    status.Config
	listeners []net.Listener // none without the proxy
	page      net.Listener   // nil without a status page
}

// command runs the given parts until a signal ends them.
func command(g *globals, name string, r roles) error {
	cfg, err := g.load()
	if err != nil {
		return err
	}
	if name != "serve" {
		if err := cfg.needServers(name); err != nil {
			return err
		}
	}
	log, level, err := newLogger(cfg.Log, os.Stderr)
	if err != nil {
		return err
	}
	reload := newReloader(cfg, g.load, log)
	defer reload.stop()
	reload.takes = append(reload.takes, func(now *Config) error { return level.UnmarshalText([]byte(now.Log.Level)) })
	life := newLifetimes(context.Background(), cfg.Shutdown.Grace)
	defer life.stop()
	return run(life, cfg, r, log, func(a *app) {
		reload.takes = append(reload.takes, a.take, func(now *Config) error {
			a.tellOverruled(life.intake, now)
			return nil
		})
		a.tellOverruled(life.intake, &cfg)
		a.group.start("reload", reload.run)
		a.greet()
	})
}

// take has the parts take what of the settings they can, and the certificates read again.
func (a *app) take(now *Config) error {
	if a.server != nil {
		a.server.SetLimits(limits(now))
	}
	if a.certificate != nil {
		if err := a.certificate.Reload(); err != nil {
			return fmt.Errorf("tls: %w", err)
		}
	}
	return nil
}

// run starts what r names, calls ready, and returns when intake has ended and everything has stopped.
func run(life lifetimes, cfg Config, r roles, log *slog.Logger, ready func(*app)) (err error) {
	a := &app{cfg: cfg, roles: r, log: log, actors: &actor.Registry{}, metrics: prometheus.NewRegistry()}
	a.metrics.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	a.group = newGroup(life.work, log)
	defer func() { err = errors.Join(err, a.stop(life)) }()
	if err := a.start(life); err != nil {
		if life.intake.Err() != nil {
			return nil // stopped by a signal while it started: not a failure
		}
		return err
	}
	ready(a)
	a.group.wait(life.intake)
	log.InfoContext(life.work, "stopping; a second signal ends it at once", slog.Duration("grace", cfg.Shutdown.Grace))
	return nil
}

// start goes from what others depend on to what depends on others, after one check of each dependency.
func (a *app) start(life lifetimes) error {
	ctx := life.intake
	if err := a.prepare(); err != nil {
		return err
	}
	if err := a.listen(ctx); err != nil {
		return err
	}
	var err error
	if a.servers, err = startServers(ctx, &a.cfg, a.log); err != nil {
		return err
	}
	a.log.InfoContext(ctx, "database", slog.String("server", a.servers.postgres.Description))
	a.group.start("database", a.servers.postgres.Run)
	if err := a.openDatabase(ctx); err != nil {
		return err
	}
	a.names = topic.Names{Prefix: a.cfg.TopicPrefix}
	if err := topic.Ensure(ctx, a.servers.brokerOpts, a.names, a.deployment); err != nil {
		return fmt.Errorf("prepare topics: %w", a.cfg.Broker.closed(err))
	}
	a.coverage = coverage.NewStore(a.pool, coverage.Config{Logger: a.log})
	if err := a.coverage.Load(ctx); err != nil {
		return fmt.Errorf("read coverage: %w", err)
	}
	a.group.start("coverage", a.coverage.Run)
	a.metrics.MustRegister(&collector{pool: a.pool, coverage: a.coverage, actors: a.actors, root: a.group.work})
	a.status = status.Config{
		Title: "barkeep", Version: versionText(), Token: a.cfg.Status.Token, Metrics: a.metrics, Log: a.log,
		Actors: a.actorRows, Coverage: statusCoverage(a.pool), Jobs: statusJobs(a.pool),
		Ready: map[string]func(context.Context) error{"database": a.pool.Ping, "broker": a.pingBroker},
	}
	if err := a.startParts(life); err != nil {
		return err
	}
	if a.page != nil {
		page := a.page
		a.page = nil // the part closes it from here on
		a.group.start("status page", func(ctx context.Context) error { return status.New(a.status).Serve(ctx, page) })
	}
	return nil
}

// prepare makes what can fail for a wrong setting, before anything is started.
func (a *app) prepare() (err error) {
	if a.roles.producer {
		if a.sources, err = builtin.New(sourceConfigs(a.cfg.Sources)); err != nil {
			return err
		}
	}
	if a.roles.proxy {
		a.certificate, err = clientTLS(a.cfg.TLS, a.log)
	}
	return err
}

// listen takes the addresses first: a second barkeep on one address fails before it starts anything.
func (a *app) listen(ctx context.Context) (err error) {
	var config net.ListenConfig
	if a.roles.proxy {
		permissions, err := a.cfg.UnixSocket.Permissions.mode()
		if err != nil {
			return fmt.Errorf("unix_socket.permissions: %w", err)
		}
		if a.listeners, err = listen.All(ctx, a.cfg.Listen, permissions); err != nil {
			return fmt.Errorf("listen: %w", err)
		}
	}
	if a.cfg.Status.Listen != "" {
		if a.page, err = config.Listen(ctx, "tcp", a.cfg.Status.Listen); err != nil {
			return fmt.Errorf("status.listen: %w", err)
		}
		a.cfg.Status.Listen = a.page.Addr().String()
	}
	return nil
}

func (a *app) openDatabase(ctx context.Context) error {
	if err := migrate(ctx, a.servers.postgres.SocketURL); err != nil {
		return err
	}
	config, err := schema.PoolConfig(a.servers.postgres.SocketURL)
	if err != nil {
		return fmt.Errorf("upstream.url: %w", err)
	}
	config.MaxConns = max(config.MaxConns, serviceConns)
	if a.pool, err = pgxpool.NewWithConfig(ctx, config); err != nil {
		return fmt.Errorf("open the database: %w", err)
	}
	if err := a.pool.QueryRow(ctx, `select id::text from barkeep.deployment`).Scan(&a.deployment); err != nil {
		return fmt.Errorf("read the deployment's id: %w", err)
	}
	return nil
}

// serviceConns is the least number of connections of the service pool: ingest, coverage, catalog and jobs at one time.
const serviceConns = 16

func (a *app) pingBroker(ctx context.Context) error {
	client, err := kgo.NewClient(a.servers.brokerOpts...)
	if err != nil {
		return fmt.Errorf("open broker client: %w", err)
	}
	defer client.Close()
	if _, err := kadm.NewClient(client).BrokerMetadata(ctx); err != nil {
		return fmt.Errorf("ask the broker: %w", err)
	}
	return nil
}

func (a *app) actorRows() []status.Actor {
	machines := a.actors.Machines()
	rows := make([]status.Actor, len(machines))
	for i, m := range machines {
		rows[i] = status.Actor{Kind: m.Kind, ID: m.ID, State: string(m.State), Since: m.Since}
	}
	return rows
}

// stop ends everything, from the outside in.
func (a *app) stop(life lifetimes) error {
	errs := []error{a.group.stop()}
	for _, each := range a.listeners {
		_ = each.Close() // closed already, where the proxy ran
	}
	if a.page != nil {
		_ = a.page.Close() // not served yet
	}
	if a.pool != nil {
		a.pool.Close()
	}
	if a.servers != nil {
		errs = append(errs, a.servers.stop(life.work))
	}
	return errors.Join(errs...)
}

// greet tells the user how to begin.
func (a *app) greet() {
	if !a.roles.proxy {
		a.log.InfoContext(a.group.work, "barkeep runs", slog.String("status", a.cfg.Status.Listen))
		return
	}
	addresses := make([]string, len(a.listeners))
	for i, each := range a.listeners {
		addresses[i] = each.Addr().String()
	}
	statusText := ""
	if a.cfg.Status.Listen != "" {
		statusText = ", status on " + a.cfg.Status.Listen
	}
	user, database := a.user(), a.pool.Config().ConnConfig.Database
	_, _ = fmt.Fprintf(os.Stdout, "barkeep listens on %s%s; try:\n    psql '%s' -c \"select * from ohlcv where "+
		"symbol='sim:BTCUSD' and timeframe='1m' and ts >= '2024-01-01Z' and ts < '2024-01-02Z'\"\n", strings.Join(addresses, ", "), statusText, example(a.listeners[0].Addr(), user, database))
}

// example is how a client of this machine connects.
func example(address net.Addr, user, database string) string {
	if address.Network() != "unix" {
		return "postgres://" + user + "@" + reachable(address.String()) + "/" + database
	}
	folder, socket := filepath.Split(address.String())
	port, _ := strings.CutPrefix(socket, ".s.PGSQL.")
	return fmt.Sprintf("host=%s port=%s user=%s dbname=%s", filepath.Clean(folder), port, user, database)
}

// reachable replaces the address of all interfaces, to which one cannot connect everywhere, by loopback's.
func reachable(address string) string {
	host, port, err := net.SplitHostPort(address)
	if ip := net.ParseIP(host); err != nil || ip == nil || !ip.IsUnspecified() {
		return address
	}
	return net.JoinHostPort("127.0.0.1", port)
}

func (a *app) user() string { return a.pool.Config().ConnConfig.User }
