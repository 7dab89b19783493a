package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"barkeep/backfill/topic"
	"barkeep/internal/certtest"
	"barkeep/internal/dbtest"
	"barkeep/internal/embedded"
)

func listening(certificate tls.Certificate) kfake.Opt {
	return kfake.TLS(&tls.Config{Certificates: []tls.Certificate{certificate}, MinVersion: tls.VersionTLS12})
}

// garbling listens where nobody speaks TLS.
func garbling(t *testing.T) (address string) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			_, _ = conn.Write([]byte("nobody speaks TLS here"))
			_ = conn.Close()
		}
	}()
	t.Cleanup(func() { _ = listener.Close(); <-done })
	return listener.Addr().String()
}

// secured are brokers that speak TLS and ask for a user keeper-MECHANISM: one with a good certificate, one whose certificate has expired, and one
// that says so when it refuses a user, as Kafka does (KIP-152). The broker in memory closes the connection without a word.
type secured struct {
	good, expired, refusing string
	silent                  bool
}

var mechanisms = []string{"PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"}

func securedBrokers(t *testing.T, authority *certtest.Authority, secret string) secured {
	t.Helper()
	if s, ok := securedKafka(t, authority, secret); ok {
		return s
	}
	users := []kfake.Opt{kfake.EnableSASL()}
	for _, mechanism := range mechanisms {
		users = append(users, kfake.Superuser(mechanism, "keeper-"+mechanism, secret))
	}
	refusing := dbtest.FakeBroker(t, append(users, listening(authority.Pair(t, "broker")))...)
	refusing.ControlKey(kmsg.SASLAuthenticate.Int16(), func(request kmsg.Request) (kmsg.Response, error, bool) {
		refusing.KeepControl()
		response, _ := request.ResponseKind().(*kmsg.SASLAuthenticateResponse)
		response.ErrorCode = kerr.SaslAuthenticationFailed.Code
		return response, nil, true
	})
	return secured{
		good:     dbtest.FakeBroker(t, append(users, listening(authority.Pair(t, "broker")))...).ListenAddrs()[0],
		expired:  dbtest.FakeBroker(t, append(users, listening(authority.Expired(t, "broker")))...).ListenAddrs()[0],
		refusing: refusing.ListenAddrs()[0], silent: true,
	}
}

// securedKafka is a node of Kafka with listeners of its own for both certificates, where the tests run on Kafka.
func securedKafka(t *testing.T, authority *certtest.Authority, secret string) (s secured, ok bool) {
	t.Helper()
	settings := map[string]string{"sasl.enabled.mechanisms": strings.Join(mechanisms, ",")}
	for name, pair := range map[string]tls.Certificate{"good": authority.Pair(t, "broker"), "expired": authority.Expired(t, "broker")} {
		prefix := "listener.name." + name + "."
		settings[prefix+"ssl.keystore.type"] = "PEM"
		settings[prefix+"ssl.keystore.location"] = keystore(t, pair)
		settings[prefix+"plain.sasl.jaas.config"] = fmt.Sprintf(
			`org.apache.kafka.common.security.plain.PlainLoginModule required user_keeper-PLAIN=%q;`, secret)
		for _, scram := range []string{"256", "512"} {
			settings[prefix+"scram-sha-"+scram+".sasl.jaas.config"] = "org.apache.kafka.common.security.scram.ScramLoginModule required;"
		}
	}
	node, ok := dbtest.Kafka(t, embedded.KafkaConfig{Listeners: map[string]string{"GOOD": "SASL_SSL", "EXPIRED": "SASL_SSL"}, Settings: settings})
	if !ok {
		return secured{}, false
	}
	client, err := kgo.NewClient(kgo.SeedBrokers(node.Broker))
	require.NoError(t, err)
	defer client.Close()
	admin := kadm.NewClient(client)
	altered, err := admin.AlterUserSCRAMs(t.Context(), nil, []kadm.UpsertSCRAM{
		{User: "keeper-SCRAM-SHA-256", Mechanism: kadm.ScramSha256, Iterations: 4096, Password: secret},
		{User: "keeper-SCRAM-SHA-512", Mechanism: kadm.ScramSha512, Iterations: 4096, Password: secret},
	})
	require.NoError(t, err)
	require.NoError(t, altered.Error())
	require.Eventually(t, func() bool { // the controller has them; the broker learns of them afterwards
		known, err := admin.DescribeUserSCRAMs(t.Context())
		return err == nil && len(known) == 2
	}, time.Minute, 20*time.Millisecond)
	return secured{good: node.Listeners["GOOD"], expired: node.Listeners["EXPIRED"], refusing: node.Listeners["GOOD"]}, true
}

// keystore writes a certificate with its key to a file, as Kafka takes them (KIP-651).
func keystore(t *testing.T, pair tls.Certificate) (file string) {
	t.Helper()
	key, err := x509.MarshalPKCS8PrivateKey(pair.PrivateKey)
	require.NoError(t, err)
	text := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key})
	for _, certificate := range pair.Certificate {
		text = append(text, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: certificate})...)
	}
	file = filepath.Join(t.TempDir(), "keystore.pem")
	require.NoError(t, os.WriteFile(file, text, 0o600))
	return file
}

// TestBrokerSecurity: each mechanism over TLS, the password from a file; and what is wrong with a setting is said at once, by its name and without
// the password.
func TestBrokerSecurity(t *testing.T) {
	t.Parallel()
	authority, stranger := certtest.NewAuthority(t), certtest.NewAuthority(t)
	const secret = "open sesame"
	file := filepath.Join(t.TempDir(), "password")
	require.NoError(t, os.WriteFile(file, []byte(secret+"\n"), 0o600))
	on := securedBrokers(t, authority, secret)
	// refused is what is said of a user of SCRAM by the good one.
	refused := func(user string) string {
		if on.silent {
			return fmt.Sprintf("the broker closes the connection when the user %q logs in by SCRAM-SHA-256 (broker.user, broker.password", user)
		}
		return fmt.Sprintf("broker.user, broker.password: the broker refuses the user %q or its password by SCRAM-SHA-256", user)
	}
	start := func(broker string, change func(*BrokerConfig)) error {
		cfg := defaultConfig()
		cfg.Brokers = []string{broker}
		cfg.Broker = BrokerConfig{TLS: true, CAFile: authority.File, Mechanism: "SCRAM-SHA-256", User: "keeper-SCRAM-SHA-256", PasswordFile: file}
		change(&cfg.Broker)
		require.NoError(t, cfg.readSecrets())
		require.NoError(t, cfg.Validate())
		opts, err := cfg.Broker.options(cfg.Brokers)
		if err != nil {
			return err
		}
		if err := cfg.Broker.check(t.Context(), opts); err != nil {
			return err
		}
		return cfg.Broker.closed(topic.Ensure(t.Context(), opts, topic.Names{Prefix: strings.ToLower(cfg.Broker.Mechanism) + "."}, "ours"))
	}
	for _, mechanism := range mechanisms {
		require.NoError(t, start(on.good, func(c *BrokerConfig) { c.Mechanism, c.User = mechanism, "keeper-"+mechanism }), mechanism)
	}
	for _, c := range []struct {
		name   string
		broker string
		change func(*BrokerConfig)
		want   string
	}{
		{"password", on.refusing, func(c *BrokerConfig) { c.Password, c.PasswordFile = "close sesame", "" }, `broker.user, broker.password: the broker refuses the user "keeper-SCRAM-SHA-256" or its password by SCRAM-SHA-256`},
		{"password in the clear", on.refusing, func(c *BrokerConfig) {
			c.Mechanism, c.User, c.Password, c.PasswordFile = "PLAIN", "keeper-PLAIN", "close sesame", ""
		}, `broker.user, broker.password: the broker refuses the user "keeper-PLAIN" or its password by PLAIN`},
		{"password, without a word", on.good, func(c *BrokerConfig) { c.Password, c.PasswordFile = "close sesame", "" }, refused("keeper-SCRAM-SHA-256")},
		{"user", on.good, func(c *BrokerConfig) { c.User = "nobody" }, refused("nobody")},
		{"expired", on.expired, func(*BrokerConfig) {}, "broker.tls: the broker's certificate is not valid: x509: certificate has expired or is not yet valid"},
		{"stranger", on.good, func(c *BrokerConfig) { c.CAFile = stranger.File }, "broker.ca_file: the broker's certificate is of no authority that is known"},
		{"no TLS there", garbling(t), func(*BrokerConfig) {}, "broker.tls: the broker does not speak TLS there"},
		{"no file", on.good, func(c *BrokerConfig) { c.CAFile += ".gone" }, "broker.ca_file: "},
		{"no certificate", on.good, func(c *BrokerConfig) { c.CAFile = file }, "holds no certificate"},
	} {
		err := start(c.broker, c.change)
		require.ErrorContains(t, err, c.want, c.name)
		require.NotContains(t, err.Error(), "sesame", c.name)
	}
}

// rights are what the parts need of the broker, as docs/operations.md has them: operations on topics and groups, by the end of the name.
var rights = map[string]map[string][]kmsg.ACLOperation{
	"proxy": {
		"jobs": {kmsg.ACLOperationWrite}, "bars": {kmsg.ACLOperationWrite}, "events": {kmsg.ACLOperationRead}, "meta": {kmsg.ACLOperationRead}, "dead": {kmsg.ACLOperationDescribe},
	},
	"producer": {
		"jobs": {kmsg.ACLOperationRead}, "bars": {kmsg.ACLOperationWrite}, "events": {kmsg.ACLOperationWrite}, "meta": {kmsg.ACLOperationRead}, "dead": {kmsg.ACLOperationDescribe},
		"producer.": {kmsg.ACLOperationRead},
	},
	"consumer": {
		"jobs": {kmsg.ACLOperationDescribe}, "bars": {kmsg.ACLOperationRead}, "events": {kmsg.ACLOperationDescribe}, "meta": {kmsg.ACLOperationRead}, "dead": {kmsg.ACLOperationWrite},
		"ingest.": {kmsg.ACLOperationRead},
	},
}

// grants are the rights of a part as the broker takes them. A name that ends in a dot is that of groups, which end in the deployment's id.
func grants(part string) (list []kfake.ACL) {
	for name, operations := range rights[part] {
		acl := kfake.ACL{Resource: kmsg.ACLResourceTypeTopic, Name: "barkeep." + name, Pattern: kmsg.ACLResourcePatternTypeLiteral, Allow: true}
		if strings.HasSuffix(name, ".") {
			acl.Resource, acl.Pattern = kmsg.ACLResourceTypeGroup, kmsg.ACLResourcePatternTypePrefixed
		}
		for _, operation := range operations {
			acl.Operation = operation
			list = append(list, acl)
		}
	}
	return list
}

// guarded starts a broker that asks for users and rights, and returns its address: those of admin (PLAIN), of a user for each part (SCRAM), who
// has what grants says, and of nobody, who has none. It is Kafka with its own authorizer where the tests run on Kafka.
func guarded(t *testing.T) string {
	t.Helper()
	parts := slices.Sorted(maps.Keys(rights))
	node, ok := dbtest.Kafka(t, embedded.KafkaConfig{
		Listeners: map[string]string{"USERS": "SASL_PLAINTEXT"},
		Settings: map[string]string{
			"authorizer.class.name":                              "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
			"super.users":                                        "User:ANONYMOUS;User:admin",
			"sasl.enabled.mechanisms":                            "PLAIN,SCRAM-SHA-512",
			"listener.name.users.plain.sasl.jaas.config":         `org.apache.kafka.common.security.plain.PlainLoginModule required user_admin="secret" user_nobody="secret";`,
			"listener.name.users.scram-sha-512.sasl.jaas.config": "org.apache.kafka.common.security.scram.ScramLoginModule required;",
		},
	})
	if !ok {
		users := []kfake.Opt{kfake.EnableSASL(), kfake.EnableACLs(), kfake.Superuser("PLAIN", "admin", "secret"), kfake.User("PLAIN", "nobody", "secret")}
		for _, part := range parts {
			users = append(users, kfake.User("SCRAM-SHA-512", part, "secret", grants(part)...))
		}
		return dbtest.FakeBroker(t, users...).ListenAddrs()[0]
	}
	client, err := kgo.NewClient(kgo.SeedBrokers(node.Broker))
	require.NoError(t, err)
	defer client.Close()
	admin := kadm.NewClient(client)
	create := kmsg.NewPtrCreateACLsRequest()
	var users []kadm.UpsertSCRAM
	for _, part := range parts {
		users = append(users, kadm.UpsertSCRAM{User: part, Mechanism: kadm.ScramSha512, Iterations: 4096, Password: "secret"})
		for _, acl := range grants(part) {
			c := kmsg.NewCreateACLsRequestCreation()
			c.ResourceType, c.ResourceName, c.ResourcePatternType = acl.Resource, acl.Name, acl.Pattern
			c.Principal, c.Host, c.Operation, c.PermissionType = "User:"+part, "*", acl.Operation, kmsg.ACLPermissionTypeAllow
			create.Creations = append(create.Creations, c)
		}
	}
	altered, err := admin.AlterUserSCRAMs(t.Context(), nil, users)
	require.NoError(t, err)
	require.NoError(t, altered.Error())
	created, err := create.RequestWith(t.Context(), client)
	require.NoError(t, err)
	for _, result := range created.Results {
		require.NoError(t, kerr.ErrorForCode(result.ErrorCode))
	}
	// The controller has them; the broker learns of them afterwards.
	every := kmsg.NewPtrDescribeACLsRequest()
	every.ResourceType, every.ResourcePatternType = kmsg.ACLResourceTypeAny, kmsg.ACLResourcePatternTypeAny
	every.Operation, every.PermissionType = kmsg.ACLOperationAny, kmsg.ACLPermissionTypeAny
	require.Eventually(t, func() bool {
		known, err := admin.DescribeUserSCRAMs(t.Context())
		if err != nil || len(known) != len(users) {
			return false
		}
		there, err := every.RequestWith(t.Context(), client)
		n := 0
		if err == nil {
			for _, resource := range there.Resources {
				n += len(resource.ACLs)
			}
		}
		return n == len(create.Creations)
	}, time.Minute, 20*time.Millisecond)
	return node.Listeners["USERS"]
}

// TestBrokerRights: each part works with the rights that the documentation names, as a user of its own, on topics that somebody else has made.
func TestBrokerRights(t *testing.T) {
	t.Parallel()
	broker := guarded(t)
	s := siteOn(t, broker)
	var deployment string
	require.NoError(t, s.db.Pool.QueryRow(t.Context(), "select id::text from barkeep.deployment").Scan(&deployment))
	admin, err := BrokerConfig{Mechanism: "PLAIN", User: "admin", Password: "secret"}.options([]string{broker})
	require.NoError(t, err)
	require.NoError(t, topic.Ensure(t.Context(), admin, topic.Names{}, deployment))
	as := func(user string) []string {
		return []string{"--set=broker.mechanism=SCRAM-SHA-512", "--set=broker.user=" + user, "--set=broker.password=secret"}
	}
	proxy := s.start("proxy", as("proxy")...)
	s.start("producer", as("producer")...)
	s.start("consumer", as("consumer")...)
	r := minutes("2024-01-01T00:00:00Z", 2)
	s.right(r, s.asking(s.connect(proxy), r))
	s.holds(r)
}

// TestBrokerRightsAreLacking: a part that may not do what it has to does not start as if it could.
func TestBrokerRightsAreLacking(t *testing.T) {
	t.Parallel()
	cfg := defaultConfig()
	cfg.Listen, cfg.Status.Listen = []string{"127.0.0.1:0"}, ""
	cfg.Upstream.URL, cfg.Brokers = dbtest.New(t).URL, []string{guarded(t)}
	cfg.Broker = BrokerConfig{Mechanism: "PLAIN", User: "nobody", Password: "secret"}
	life := newLifetimes(context.Background(), cfg.Shutdown.Grace)
	defer life.stop()
	err := run(life, cfg, roles{consumer: true}, slog.New(slog.DiscardHandler), func(*app) { t.Error("it has started") })
	require.ErrorContains(t, err, "AUTHORIZATION_FAILED")
}
