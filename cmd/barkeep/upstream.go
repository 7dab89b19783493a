package main

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"slices"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"barkeep/internal/schema"
	"barkeep/internal/verifier"
	"barkeep/proxy"
)

// strangers are parameters of libpq that pgconn takes for settings of the server, which knows none of them (libpq,
// "Parameter Key Words").
var strangers = []string{
	"fallback_application_name", "gssdelegation", "gssencmode", "gsslib", "hostaddr", "keepalives", "keepalives_count", "keepalives_idle",
	"keepalives_interval", "load_balance_hosts", "replication", "requirepeer", "scram_client_key", "scram_server_key", "sslcompression",
	"sslcrl", "sslcrldir", "sslkeylogfile", "ssl_max_protocol_version", "ssl_min_protocol_version", "tcp_user_timeout",
}

// validate returns what of upstream.url cannot be honored, for barkeep's own connections or for sessions. The URL may hold a
// password, and is in no message.
func (c UpstreamConfig) validate(check func(ok bool, format string, args ...any)) {
	if c.URL == "" {
		return
	}
	config, err := pgconn.ParseConfig(c.URL)
	check(err == nil, "upstream.url: not an address as in postgres://user:password@host:port/name")
	if err != nil {
		return
	}
	for _, name := range strangers {
		_, there := config.RuntimeParams[name]
		check(!there, "upstream.url: barkeep does not know the parameter %s; leave it out", name)
	}
	check(config.SSLCertMode != "require", "upstream.url: sslcertmode=require is not for sessions; leave it out")
}

// upstream returns where sessions connect to: where a connection of the service's ends up, by the hosts, target_session_attrs,
// sslmode and sslnegotiation of upstream.url. Which of them that is, is known only afterwards.
func (a *app) upstream(ctx context.Context) (proxy.Upstream, error) {
	config := a.pool.Config().ConnConfig
	finder := &finder{config: config}
	place, err := finder.find(ctx)
	if err != nil {
		return proxy.Upstream{}, err
	}
	up := proxy.Upstream{
		Place: place, Find: finder.find, ConnectTimeout: config.ConnectTimeout,
		Binding: proxy.ChannelBinding(config.ChannelBinding), RequireAuth: config.RequireAuth,
		SystemIdentifier: finder.server, LifeQuery: "select " + schema.Life, IdentifyQuery: schema.IdentifyQuery,
	}
	if place.Network == "unix" {
		up.Binding = proxy.BindingPreferred
	}
	if a.cfg.Upstream.URL != "" { // barkeep's own server judges nobody
		up.JudgesProcess = verifier.NewDatabase(a.pool).JudgesProcess
	}
	return up, nil
}

// finder finds the server, always the same one, as the service's connections do.
type finder struct {
	config *pgx.ConnConfig
	server string // its system identifier, from the first find
}

// find makes a connection and returns where it has come to. It is not called twice at one time.
func (f *finder) find(ctx context.Context) (proxy.Place, error) {
	config := f.config.Copy()
	hosts := map[string][]string{} // the addresses of each
	lookUp, dial := config.LookupFunc, config.DialFunc
	config.LookupFunc = func(ctx context.Context, host string) (addresses []string, err error) {
		addresses, err = lookUp(ctx, host)
		hosts[host] = addresses
		return addresses, err
	}
	var network, address string // dialed last, and so that of the connection
	config.DialFunc = func(ctx context.Context, toNetwork, to string) (net.Conn, error) {
		network, address = toNetwork, to
		return dial(ctx, toNetwork, to)
	}
	conn, err := pgx.ConnectConfig(ctx, config)
	if err != nil {
		return proxy.Place{}, fmt.Errorf("connect to the database: %w", err)
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }() // the session ends with its connection at the latest
	id, err := schema.Identify(ctx, conn)
	switch {
	case err != nil:
		return proxy.Place{}, fmt.Errorf("connect to the database: %w", err)
	case f.server == "":
		f.server = id
	case f.server != id:
		return proxy.Place{}, fmt.Errorf("%w: system identifier %s, not %s", schema.ErrOtherServer, id, f.server)
	}
	secured, _ := conn.PgConn().Conn().(*tls.Conn)
	return proxy.Place{
		Network: network, Address: address, TLS: chosen(&config.Config, network, address, hosts, secured), Direct: config.SSLNegotiation == "direct",
	}, nil
}

// chosen returns the configuration of TLS, one for each host, that led to a connection; nil where that is in the clear.
func chosen(config *pgconn.Config, network, address string, hosts map[string][]string, secured *tls.Conn) (found *tls.Config) {
	if secured == nil {
		return nil
	}
	candidates := append([]*pgconn.FallbackConfig{{Host: config.Host, Port: config.Port, TLSConfig: config.TLSConfig}}, config.Fallbacks...)
	for _, each := range candidates {
		leads := slices.ContainsFunc(hosts[each.Host], func(ip string) bool {
			toNetwork, to := pgconn.NetworkAddress(ip, each.Port)
			return toNetwork == network && to == address
		})
		if each.TLSConfig == nil || !leads {
			continue
		}
		// Two names of one address differ in the name that the certificate must have.
		if found == nil || each.TLSConfig.ServerName == secured.ConnectionState().ServerName && found.ServerName != each.TLSConfig.ServerName {
			found = each.TLSConfig
		}
	}
	return found
}
