package main

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"barkeep/backfill/producer"
	"barkeep/backfill/removal"
	"barkeep/internal/embedded"
	"barkeep/internal/listen"
)

// Config is what barkeep is told. It is read from defaults, a YAML file, the environment and flags, in this order of
// precedence from low to high. The `doc` tags are the settings' documentation; the README's table is made from them.
type Config struct {
	Listen      []string          `koanf:"listen" doc:"where clients connect, comma separated or a list: host:port, or /folder or /path of a unix socket (.s.PGSQL.port in a folder)"`
	UnixSocket  UnixSocketConfig  `koanf:"unix_socket"`
	Upstream    UpstreamConfig    `koanf:"upstream"`
	Brokers     []string          `koanf:"brokers" doc:"Kafka brokers, host:port, comma separated; empty: barkeep runs its own"`
	Broker      BrokerConfig      `koanf:"broker"`
	TopicPrefix string            `koanf:"topic_prefix" doc:"what the names of all topics begin with, before barkeep."`
	DataDir     string            `koanf:"data_dir" doc:"folder for the database and the broker that barkeep runs itself"`
	TLS         TLSConfig         `koanf:"tls"`
	Auth        AuthConfig        `koanf:"auth"`
	Sessions    SessionsConfig    `koanf:"sessions"`
	Holds       HoldsConfig       `koanf:"holds"`
	Statement   StatementConfig   `koanf:"statement"`
	Status      StatusConfig      `koanf:"status"`
	Log         LogConfig         `koanf:"log"`
	Shutdown    ShutdownConfig    `koanf:"shutdown"`
	Retention   []string          `koanf:"retention" doc:"how long bars of a timeframe are kept, timeframe=time, comma separated, as 1m=90d,5m=8760h; those that are not named are kept for ever"`
	Producer    ProducerConfig    `koanf:"producer"`
	Removal     RemovalConfig     `koanf:"removal"`
	Sources     map[string]Source `koanf:"sources"`
}

// ProducerConfig is about asking sources.
type ProducerConfig struct {
	Breaker time.Duration `koanf:"breaker" doc:"how long a source that failed for good is not asked, where it does not say itself; who needs it fails at once"`
}

// RemovalConfig is about rows that are taken away.
type RemovalConfig struct {
	Grace time.Duration `koanf:"grace" doc:"how long rows are kept that nothing vouches for any more, for statements that still read them"`
}

// UnixSocketConfig is about the unix sockets of listen.
type UnixSocketConfig struct {
	Permissions octal `koanf:"permissions" doc:"who may connect, in octal as for chmod; 0777: every user of the machine"`
}

// octal is a file mode as it was written. YAML reads 0770 as a number, which decode writes back.
type octal string

// mode returns the permissions.
func (o octal) mode() (fs.FileMode, error) {
	mode, err := strconv.ParseUint(string(o), 8, 9)
	return fs.FileMode(mode), err
}

// UpstreamConfig says where the database is.
type UpstreamConfig struct {
	// URL is a secret where it holds a password.
	URL     string `koanf:"url" doc:"the database that is served, postgres://user:password@host:port/name; its user migrates and writes; empty: barkeep runs its own"`
	URLFile string `koanf:"url_file" doc:"file that holds upstream.url"`
}

// BrokerConfig says how to talk to brokers that are not barkeep's own.
type BrokerConfig struct {
	TLS          bool   `koanf:"tls" doc:"talk TLS to the brokers"`
	CAFile       string `koanf:"ca_file" doc:"authorities of the brokers' certificates, PEM; empty: the system's"`
	Mechanism    string `koanf:"mechanism" doc:"SASL mechanism: empty, PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512"`
	User         string `koanf:"user" doc:"SASL user"`
	Password     string `koanf:"password" doc:"SASL password"`
	PasswordFile string `koanf:"password_file" doc:"file that holds broker.password"`
}

// TLSConfig is for the client's leg.
type TLSConfig struct {
	CertFile string `koanf:"cert_file" doc:"certificate shown to clients, PEM; empty: no TLS"`
	KeyFile  string `koanf:"key_file" doc:"its private key, PEM"`
	// MinVersion has the names of PostgreSQL's ssl_min_protocol_version.
	MinVersion   string   `koanf:"min_version" doc:"oldest version of TLS that is spoken: TLSv1.2 or TLSv1.3"`
	Require      bool     `koanf:"require" doc:"refuse clients over TCP that do not speak TLS, as hostssl does"`
	ClientCAFile string   `koanf:"client_ca_file" doc:"authorities of client certificates, PEM; clients over TCP must show one of theirs, whose common name is the user's, and then prove themselves to the database as ever; empty: none is asked for"`
	ClientNames  []string `koanf:"client_names" doc:"further users that a certificate is good for, name=user, comma separated"`
}

func (c TLSConfig) validate(check func(ok bool, format string, args ...any)) {
	check((c.CertFile == "") == (c.KeyFile == ""), "tls.cert_file and tls.key_file: set both or none")
	check(tlsVersions[c.MinVersion] != 0, "tls.min_version: %q is not TLSv1.2 or TLSv1.3", c.MinVersion)
	check(!c.Require || c.CertFile != "", "tls.require: set tls.cert_file and tls.key_file too")
	check(c.ClientCAFile == "" || c.CertFile != "", "tls.client_ca_file: set tls.cert_file and tls.key_file too")
	check(len(c.ClientNames) == 0 || c.ClientCAFile != "", "tls.client_names: set tls.client_ca_file too")
	for _, pair := range c.ClientNames {
		name, user, _ := cutLast(pair, "=")
		check(name != "" && user != "", "tls.client_names: %q is not name=user", pair)
	}
}

// cutLast is strings.Cut at the last separator: a name in a certificate may hold one.
func cutLast(text, separator string) (before, after string, found bool) {
	if i := strings.LastIndex(text, separator); i >= 0 {
		return text[:i], text[i+len(separator):], true
	}
	return text, "", false
}

// AuthConfig is about who may come in.
type AuthConfig struct {
	AllowTrust bool   `koanf:"allow_trust" doc:"admit clients though the database asks them for no proof and they are not on loopback, or it may go by barkeep's own process (peer, ident)"`
	UsersFile  string `koanf:"users_file" doc:"file of SCRAM verifiers, a line for each user, as in PgBouncer's userlist.txt; empty: they are read from the database, where that is allowed"`
}

// SessionsConfig bounds sessions.
type SessionsConfig struct {
	Max          int           `koanf:"max" doc:"client sessions at one time"`
	MaxPerUser   int           `koanf:"max_per_user" doc:"client sessions of one user at one time; 0: as many as there may be"`
	MaxStarting  int           `koanf:"max_starting" doc:"connections that have not logged in yet at one time; beyond it the oldest of the address with the most is refused; 0: as many as sessions.max"`
	LoginTimeout time.Duration `koanf:"login_timeout" doc:"longest time from connecting to being logged in"`
	IdleTimeout  time.Duration `koanf:"idle_timeout" doc:"age at which a session that is idle outside of a transaction is ended; 0: none is"`
}

// HoldsConfig bounds holds.
type HoldsConfig struct {
	Max         int           `koanf:"max" doc:"sessions that are held at one time"`
	MaxPerUser  int           `koanf:"max_per_user" doc:"sessions of one user that are held at one time; 0: as many as may be"`
	MaxJobs     int           `koanf:"max_jobs" doc:"fetches that sessions wait for at one time; a statement that needs more is an error at once"`
	NoticeAfter time.Duration `koanf:"notice_after" doc:"first notice to a client that waits"`
	NoticeEvery time.Duration `koanf:"notice_every" doc:"further notices"`
	Force       time.Duration `koanf:"force" doc:"for tests: each statement, also one that cannot read ohlcv, is held for a random time up to this; 0: none"`
}

// StatementConfig holds the defaults of what a session can set.
type StatementConfig struct {
	Timeout   time.Duration `koanf:"timeout" doc:"longest wait of a statement where the database gives sessions no barkeep.timeout"`
	MaxBars   int64         `koanf:"max_bars" doc:"most missing bars a statement may ask for where the database gives sessions no barkeep.max_bars"`
	Freshness time.Duration `koanf:"freshness" doc:"age up to which a tail is new enough where the database gives sessions no barkeep.freshness; 0: the timeframe, at most 15s"`
}

// StatusConfig is about the status page.
type StatusConfig struct {
	Listen    string `koanf:"listen" doc:"address and port of the status page, metrics and health; empty: none"`
	Token     string `koanf:"token" doc:"what a reader of the status page must show; needed where it does not listen on loopback"`
	TokenFile string `koanf:"token_file" doc:"file that holds status.token"`
}

// LogConfig is about the log.
type LogConfig struct {
	Level  string `koanf:"level" doc:"debug, info, warn or error"`
	Format string `koanf:"format" doc:"text or json"`
}

// ShutdownConfig is about stopping.
type ShutdownConfig struct {
	Grace time.Duration `koanf:"grace" doc:"time that work in hand is given after the first signal"`
}

// Source configures one source of bars. A value left out is the source's own default.
type Source struct {
	Enabled     *bool         `koanf:"enabled" doc:"false: the source is never asked"`
	URL         string        `koanf:"url" doc:"the vendor's base URL; not of file and sim"`
	StreamURL   string        `koanf:"stream_url" doc:"where the live bars of binance, bitstamp, coinbase, kraken or okx are told, ws or wss; with another url and without this they are polled"`
	Market      string        `koanf:"market" doc:"venue whose bars coindesk gives; empty: coinbase"`
	Key         string        `koanf:"key" doc:"API key, which coindesk and cryptocompare alone take"`
	KeyFile     string        `koanf:"key_file" doc:"file that holds the key"`
	Path        string        `koanf:"path" doc:"folder of the file source"`
	Rate        float64       `koanf:"rate" doc:"requests per second; not of file and sim"`
	Burst       int           `koanf:"burst" doc:"requests that may go at once; both hold over all producers of a database that ask with one key; not of file and sim"`
	FinalityLag time.Duration `koanf:"finality_lag" doc:"age after which a bar no longer changes"`
	AbsenceLag  time.Duration `koanf:"absence_lag" doc:"age after which a missing bar will not come any more"`
	Fallback    []string      `koanf:"fallback" doc:"sources whose bars stand in for those that this one cannot have, in this order, comma separated: a symbol without a prefix is then of several venues; empty: none, and such a statement is an error"`
}

// sourceNames are the sources that can be configured.
var sourceNames = []string{"binance", "bitstamp", "bybit", "coinbase", "coindesk", "cryptocompare", "file", "kraken", "okx", "sim"}

func defaultConfig() Config {
	return Config{
		Listen:     []string{"127.0.0.1:5433"},
		UnixSocket: UnixSocketConfig{Permissions: "0777"},
		DataDir:    defaultDataDir(),
		TLS:        TLSConfig{MinVersion: "TLSv1.2"},
		Sessions:   SessionsConfig{Max: 300, LoginTimeout: time.Minute},
		Holds:      HoldsConfig{Max: 200, MaxJobs: 10_000, NoticeAfter: 500 * time.Millisecond, NoticeEvery: time.Second},
		Statement:  StatementConfig{Timeout: 10 * time.Minute, MaxBars: 20_000_000},
		Status:     StatusConfig{Listen: "127.0.0.1:8433"},
		Log:        LogConfig{Level: "info", Format: "text"},
		Shutdown:   ShutdownConfig{Grace: 30 * time.Second},
		Producer:   ProducerConfig{Breaker: producer.DefaultBreaker},
		Removal:    RemovalConfig{Grace: removal.DefaultGrace},
		Sources:    map[string]Source{},
	}
}

// defaultDataDir is a folder beside barkeep where the user has none.
func defaultDataDir() string {
	dir, err := embedded.DefaultDataDir()
	if err != nil {
		return "barkeep-data"
	}
	return dir
}

// readSecrets replaces every secret that is given as a file by its content.
func (c *Config) readSecrets() error {
	type secret struct {
		key, path string
		into      *string
	}
	secrets := []secret{
		{"upstream.url", c.Upstream.URLFile, &c.Upstream.URL},
		{"broker.password", c.Broker.PasswordFile, &c.Broker.Password},
		{"status.token", c.Status.TokenFile, &c.Status.Token},
	}
	for name, source := range c.Sources {
		s := secret{"sources." + name + ".key", source.KeyFile, &source.Key}
		if err := readSecret(s.key, s.path, s.into); err != nil {
			return err
		}
		c.Sources[name] = source
	}
	for _, s := range secrets {
		if err := readSecret(s.key, s.path, s.into); err != nil {
			return err
		}
	}
	return nil
}

func readSecret(key, path string, into *string) error {
	if path == "" {
		return nil
	}
	if *into != "" {
		return fmt.Errorf("%s and %s_file are both set; keep one", key, key)
	}
	content, err := os.ReadFile(filepath.Clean(path))
	if err != nil {
		return fmt.Errorf("%s_file: %w", key, err)
	}
	*into = strings.TrimSpace(string(content))
	if *into == "" {
		return fmt.Errorf("%s_file: %s is empty", key, path)
	}
	return nil
}

// Validate returns every value and combination that cannot work, each with the name of its key.
func (c *Config) Validate() error {
	var errs []error
	check := func(ok bool, format string, args ...any) {
		if !ok {
			errs = append(errs, fmt.Errorf(format, args...))
		}
	}
	check(len(c.Listen) > 0, "listen: no address")
	for _, address := range c.Listen {
		if !listen.IsSocket(address) {
			errs = append(errs, validAddress("listen", address))
		}
	}
	_, err := c.UnixSocket.Permissions.mode()
	check(err == nil, "unix_socket.permissions: %q is not octal as in 0770", c.UnixSocket.Permissions)
	c.Upstream.validate(check)
	if c.Status.Listen != "" {
		errs = append(errs, validAddress("status.listen", c.Status.Listen))
		check(c.Status.Token != "" || isLoopback(c.Status.Listen),
			"status.listen: %s is not on loopback; set status.token or status.token_file too", c.Status.Listen)
	}
	check(len(c.TopicPrefix) <= 64 && strings.Trim(c.TopicPrefix, topicRunes) == "",
		"topic_prefix: %q must be at most 64 letters, digits, dots, hyphens or underscores", c.TopicPrefix)
	c.TLS.validate(check)
	check(slices.Contains([]string{"", "PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"}, c.Broker.Mechanism),
		"broker.mechanism: %q is not PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512", c.Broker.Mechanism)
	check((c.Broker.Mechanism == "") == (c.Broker.User == ""), "broker.mechanism and broker.user: set both or none")
	check(c.Broker.Password == "" || c.Broker.Mechanism != "", "broker.password: set broker.mechanism and broker.user too")
	check(len(c.Brokers) > 0 || (c.Broker.Mechanism == "" && !c.Broker.TLS), "broker.tls and broker.mechanism: set brokers too; barkeep's own has neither")
	check(c.Broker.CAFile == "" || c.Broker.TLS, "broker.ca_file: set broker.tls too")
	for _, broker := range c.Brokers {
		errs = append(errs, validAddress("brokers", broker))
	}
	check(c.Sessions.Max > 0, "sessions.max: %d must be positive", c.Sessions.Max)
	check(c.Sessions.MaxStarting >= 0, "sessions.max_starting: %d must not be negative", c.Sessions.MaxStarting)
	check(c.Sessions.MaxPerUser >= 0, "sessions.max_per_user: %d must not be negative", c.Sessions.MaxPerUser)
	check(c.Sessions.LoginTimeout > 0, "sessions.login_timeout: %s must be positive", c.Sessions.LoginTimeout)
	check(c.Sessions.IdleTimeout >= 0, "sessions.idle_timeout: %s must not be negative", c.Sessions.IdleTimeout)
	check(c.Holds.MaxPerUser >= 0, "holds.max_per_user: %d must not be negative", c.Holds.MaxPerUser)
	check(c.Holds.Max > 0, "holds.max: %d must be positive", c.Holds.Max)
	check(c.Holds.MaxJobs > 0, "holds.max_jobs: %d must be positive", c.Holds.MaxJobs)
	check(c.Holds.NoticeAfter > 0, "holds.notice_after: %s must be positive", c.Holds.NoticeAfter)
	check(c.Holds.NoticeEvery > 0, "holds.notice_every: %s must be positive", c.Holds.NoticeEvery)
	check(c.Holds.Force >= 0, "holds.force: %s must not be negative", c.Holds.Force)
	check(c.Statement.Timeout > 0, "statement.timeout: %s must be positive", c.Statement.Timeout)
	check(c.Statement.MaxBars > 0, "statement.max_bars: %d must be positive", c.Statement.MaxBars)
	check(c.Statement.Freshness >= 0, "statement.freshness: %s must not be negative", c.Statement.Freshness)
	check(c.Shutdown.Grace > 0, "shutdown.grace: %s must be positive", c.Shutdown.Grace)
	check(c.Producer.Breaker > 0, "producer.breaker: %s must be positive", c.Producer.Breaker)
	check(c.Removal.Grace > 0, "removal.grace: %s must be positive", c.Removal.Grace)
	_, err = c.retention()
	check(err == nil, "%v", err)
	check(c.Log.Format == "text" || c.Log.Format == "json", "log.format: %q is not text or json", c.Log.Format)
	if err := new(slog.Level).UnmarshalText([]byte(c.Log.Level)); err != nil {
		errs = append(errs, fmt.Errorf("log.level: %q is not debug, info, warn or error", c.Log.Level))
	}
	for name := range c.Sources {
		c.validateSource(name, check)
	}
	return errors.Join(errs...)
}

// validateSource checks the settings of one source.
func (c *Config) validateSource(name string, check func(ok bool, format string, args ...any)) {
	source := c.Sources[name]
	check(slices.Contains(sourceNames, name), "sources.%s: no such source; there are %s", name, strings.Join(sourceNames, ", "))
	check(source.Rate >= 0, "sources.%s.rate: %v must not be negative", name, source.Rate)
	check(source.Burst >= 0, "sources.%s.burst: %d must not be negative", name, source.Burst)
	check(source.FinalityLag >= 0, "sources.%s.finality_lag: %s must not be negative", name, source.FinalityLag)
	check(source.AbsenceLag >= 0, "sources.%s.absence_lag: %s must not be negative", name, source.AbsenceLag)
	c.validateFallback(name, check)
	check(source.Path == "" || name == "file", "sources.%s.path: only the file source has a path", name)
	keyed := name == "coindesk" || name == "cryptocompare"
	check((source.Key == "" && source.KeyFile == "") || keyed, "sources.%s.key: only coindesk and cryptocompare take a key", name)
	check(source.Market == "" || name == "coindesk", "sources.%s.market: only coindesk has several", name)
	check(!strings.ContainsAny(source.Market, "/: "), "sources.%s.market: %q is not a name", name, source.Market)
	asked := name != "file" && name != "sim"
	check(source.URL == "" || asked, "sources.%s.url: only vendors have one", name)
	check((source.Rate == 0 && source.Burst == 0) || asked, "sources.%s.rate and burst: only vendors have them", name)
}

// validateFallback checks what may stand in for a source.
func (c *Config) validateFallback(name string, check func(ok bool, format string, args ...any)) {
	list := c.Sources[name].Fallback
	for i, other := range list {
		enabled := c.Sources[other].Enabled
		check(slices.Contains(sourceNames, other), "sources.%s.fallback: there is no source %q; there are %s", name, other, strings.Join(sourceNames, ", "))
		check(other != name, "sources.%s.fallback: a source does not stand in for itself", name)
		check(!slices.Contains(list[:i], other), "sources.%s.fallback: %s is named twice", name, other)
		check(enabled == nil || *enabled, "sources.%s.fallback: %s is not enabled", name, other)
	}
}

// fallbacks are the sources that may stand in for others, by name.
func (c *Config) fallbacks() map[string][]string {
	all := map[string][]string{}
	for name, source := range c.Sources {
		if len(source.Fallback) > 0 {
			all[name] = source.Fallback
		}
	}
	return all
}

// needServers returns an error where a command that runs one part alone is not told where the others are.
func (c *Config) needServers(command string) error {
	var errs []error
	if c.Upstream.URL == "" {
		errs = append(errs, fmt.Errorf("upstream.url: barkeep %s needs a database (barkeep serve runs its own)", command))
	}
	if len(c.Brokers) == 0 && command != "migrate" {
		errs = append(errs, fmt.Errorf("brokers: barkeep %s needs a broker (barkeep serve runs its own)", command))
	}
	return errors.Join(errs...)
}

const topicRunes = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-"

func validAddress(key, address string) error {
	if _, port, err := net.SplitHostPort(address); err != nil || port == "" {
		return fmt.Errorf("%s: %q is not host:port", key, address)
	}
	return nil
}

func isLoopback(address string) bool {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return false
	}
	if host == "localhost" {
		return true
	}
	ip := net.ParseIP(host)
	return ip != nil && ip.IsLoopback()
}
