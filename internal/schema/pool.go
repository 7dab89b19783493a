package schema

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

// ConnectConfig is PoolConfig for a single connection.
func ConnectConfig(dsn string) (*pgx.ConnConfig, error) {
	config, err := pgx.ParseConfig(dsn)
	if err != nil {
		return nil, fmt.Errorf("parse the database's address: %w", err)
	}
	serviceSettings(config)
	return config, nil
}

// PoolConfig reads the address of a database and adds the settings that every service connection has, whatever the
// server, the database or the role say: names are looked up in pg_catalog only, times are UTC, and bars may be written
// (which the guard of ohlcv allows to members of the service role). A server in recovery is refused at connect, and
// one that is not the server of the pool's first connection (PIPELINE 24).
func PoolConfig(dsn string) (*pgxpool.Config, error) {
	config, err := pgxpool.ParseConfig(dsn)
	if err != nil {
		return nil, fmt.Errorf("parse the database's address: %w", err)
	}
	serviceSettings(config.ConnConfig)
	config.AfterConnect = (&sameServer{}).check
	config.PingTimeout = pingTimeout
	config.ConnConfig.DialFunc = (&net.Dialer{KeepAliveConfig: keepAlive}).DialContext
	if own := config.ConnConfig.ConnectTimeout; own == 0 || own > connectTimeout {
		config.ConnConfig.ConnectTimeout = connectTimeout
	}
	return config, nil
}

// pingTimeout is how long a connection that was idle may take to say that it is still there; one whose other end is gone
// without a word, as after a failover, does not say so itself.
const pingTimeout = 2 * time.Second

// keepAlive finds out within half a minute that the server which an answer is awaited from is gone: a batch of ingest may
// run for long, so that no other limit would fit.
var keepAlive = net.KeepAliveConfig{Enable: true, Idle: 10 * time.Second, Interval: 5 * time.Second, Count: 3}

// connectTimeout bounds the making of a connection to each host, where the address does not bound it closer.
const connectTimeout = 5 * time.Second

func serviceSettings(config *pgx.ConnConfig) {
	settings := map[string]string{
		"search_path":                   "pg_catalog",
		"timezone":                      "UTC",
		"datestyle":                     "ISO, MDY",
		"intervalstyle":                 "postgres",
		"standard_conforming_strings":   "on",
		"statement_timeout":             "0",
		"synchronous_commit":            "on",
		"default_transaction_isolation": "read committed",
		"default_transaction_read_only": "off",
		"barkeep.maintenance":           "on",
	}
	maps.Copy(config.RuntimeParams, settings)
	if config.ValidateConnect == nil && severalHosts(config) {
		config.ValidateConnect = pgconn.ValidateConnectTargetSessionAttrsPrimary
	}
	if config.RuntimeParams["application_name"] == "" {
		config.RuntimeParams["application_name"] = "barkeep"
	}
}

// severalHosts reports whether the address names more than one server. Whatever it does not say (target_session_attrs), the one
// that is meant is the primary: bars cannot be stored elsewhere.
func severalHosts(config *pgx.ConnConfig) bool {
	return slices.ContainsFunc(config.Fallbacks, func(each *pgconn.FallbackConfig) bool {
		return each.Host != config.Host || each.Port != config.Port
	})
}

// ErrOtherServer is returned, wrapped, for a connection that came to another server than the first of its pool: the same
// address, but other bars and other coverage (PIPELINE 24).
var ErrOtherServer = errors.New("the address leads to another server than before; restart barkeep if that is meant")

// sameServer is the server that a pool's first connection came to.
type sameServer struct {
	mu   sync.Mutex
	id   string
	seen bool
}

// check refuses a standby, and a server other than the first.
func (s *sameServer) check(ctx context.Context, conn *pgx.Conn) error {
	id, err := Identify(ctx, conn)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.seen {
		s.id, s.seen = id, true
	}
	if s.id != id {
		return fmt.Errorf("%w: system identifier %s, not %s", ErrOtherServer, id, s.id)
	}
	return nil
}

// Life is an expression for one life of the database as text: the server's start and the database's OID. It is the same in every
// session, whatever its settings and rights: all sessions of one life have seen the commits of the one before that are left.
//
// Each session begins with it, in a process that has no catalog in its cache: it reads no table. The folder that a database's own
// tables are in is named by its OID, in whatever tablespace (PostgreSQL's documentation, Database File Layout); pg_class always lies
// in that of the database, and negative fields count from the end since PostgreSQL 14.
const Life = `(select pg_catalog.concat_ws(' ', extract(epoch from pg_catalog.pg_postmaster_start_time()),
    pg_catalog.split_part(pg_catalog.pg_relation_filepath('pg_catalog.pg_class'::pg_catalog.regclass), '/', -2)))`

// IdentifyQuery asks a server who it is: whether it is in recovery, and its system identifier, both as text.
const IdentifyQuery = `select pg_catalog.pg_is_in_recovery()::pg_catalog.text, system_identifier::pg_catalog.text from pg_catalog.pg_control_system()`

// Identify returns the server's system identifier, which a primary shares only with its standbys. A server in recovery is
// refused with ErrInRecovery (PIPELINE 24).
func Identify(ctx context.Context, conn *pgx.Conn) (string, error) {
	var recovery, id string
	if err := conn.QueryRow(ctx, IdentifyQuery).Scan(&recovery, &id); err != nil {
		return "", fmt.Errorf("ask the server who it is: %w", err)
	}
	if recovery != "false" {
		return "", ErrInRecovery
	}
	return id, nil
}
