// Command testenv runs a command with a throw-away database server, found as barkeep itself finds one (the ladder of
// package embedded), and passes its exit code on:
//
//	testenv -fetch-kafka
//	testenv [-plain] [-brokers | -kafka] [-durable] [-databases n] command [argument...]
//
// The command finds the server's address in TEST_DATABASE_URL, its psql on the PATH if there is no other, and in TEST_BROKERS a broker's if -brokers is given
// (without it each test has a broker of its own in memory). With -durable both sync to disk, as in production. A TEST_DATABASE_URL that is already set is left as it is.
// With -databases there are so many servers, and TEST_DATABASE_URLS has the addresses of all, with blanks between them.
// With -kafka the broker is an Apache Kafka, which Maven fetches into the folder BARKEEP_CACHE (else the user's cache); TEST_KAFKA names the folder of its
// archives to tests that start a node of their own. With -fetch-kafka it is fetched, and nothing is started.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"barkeep/backfill/topic"
	"barkeep/internal/embedded"
)

func main() {
	plain := flag.Bool("plain", false, "take a plain PostgreSQL of this machine, do not unpack TimescaleDB")
	brokers := flag.Bool("brokers", false, "start a broker too, and set TEST_BROKERS")
	kafka := flag.Bool("kafka", false, "start an Apache Kafka, and set TEST_BROKERS and TEST_KAFKA")
	databases := flag.Int("databases", 1, "start so many database servers, and set TEST_DATABASE_URLS; not where TEST_DATABASE_URL names one")
	fetch := flag.Bool("fetch-kafka", false, "fetch Apache Kafka, start nothing, run no command")
	durable := flag.Bool("durable", false, "sync to disk as a server of barkeep's own does; without it nothing is synced")
	flag.Parse()
	code, err := run(flag.Args(), options{plain: *plain, brokers: *brokers, kafka: *kafka, durable: *durable, databases: *databases, fetch: *fetch})
	if err != nil {
		_, _ = fmt.Fprintln(os.Stderr, "testenv:", err)
		code = max(code, 1)
	}
	os.Exit(code)
}

// options are the flags.
type options struct {
	plain, brokers, kafka, durable, fetch bool
	databases                             int
}

func run(command []string, o options) (code int, err error) {
	if o.fetch {
		if len(command) > 0 {
			return 2, errors.New("-fetch-kafka runs no command")
		}
		return 0, fetchKafka()
	}
	if len(command) == 0 {
		return 2, errors.New("no command is given")
	}
	if o.brokers && o.kafka {
		return 2, errors.New("-brokers and -kafka are two brokers")
	}
	if o.databases < 1 {
		return 2, fmt.Errorf("-databases is %d, at least one is needed", o.databases)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	folder, err := os.MkdirTemp("", "barkeep-testenv-")
	if err != nil {
		return 1, fmt.Errorf("make a folder: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(folder)) }()
	if err := os.Chmod(folder, 0o755); err != nil { //nolint:gosec // the server may run as another user
		return 1, fmt.Errorf("open the folder: %w", err)
	}
	logger := slog.New(slog.NewTextHandler(os.Stderr, nil))
	servers, urls, err := startDatabases(ctx, folder, o, logger)
	defer func() { err = errors.Join(err, stopDatabases(servers)) }()
	if err != nil {
		return 1, err
	}
	environment := append(os.Environ(), "TEST_DATABASE_URL="+urls[0], "TEST_DATABASE_URLS="+strings.Join(urls, " "))
	if _, err := exec.LookPath("psql"); err != nil && servers[0].Programs() != "" {
		environment = append(environment, "PATH="+os.Getenv("PATH")+string(os.PathListSeparator)+servers[0].Programs())
	}
	if o.brokers {
		broker, err := embedded.StartBroker(ctx, embedded.BrokerConfig{DataDir: folder, NoSync: !o.durable, Hint: topic.Names{}.Hint})
		if err != nil {
			return 1, fmt.Errorf("start a broker: %w", err)
		}
		defer func() { err = errors.Join(err, broker.Stop()) }()
		environment = append(environment, "TEST_BROKERS="+strings.Join(broker.Brokers, ","))
	}
	if o.kafka {
		quick, done, err := memoryFolder(folder)
		if err != nil {
			return 1, err
		}
		defer func() { err = errors.Join(err, done()) }()
		node, libs, err := startKafka(ctx, quick, logger)
		if err != nil {
			return 1, err
		}
		defer func() { err = errors.Join(err, node.Kill()) }()
		environment = append(environment, "TEST_BROKERS="+node.Broker, "TEST_KAFKA="+libs)
	}
	return execute(ctx, command, environment, os.Stdout, os.Stderr)
}

// fetchKafka fetches Kafka, until a signal comes.
func fetchKafka() error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	_, err := embedded.FetchKafka(ctx, os.Getenv("BARKEEP_CACHE"), slog.New(slog.NewTextHandler(os.Stderr, nil)))
	return err
}

// startKafka fetches Kafka, where that was not done before, and starts a node.
func startKafka(ctx context.Context, folder string, logger *slog.Logger) (node *embedded.Kafka, libs string, err error) {
	if libs, err = embedded.FetchKafka(ctx, os.Getenv("BARKEEP_CACHE"), logger); err != nil {
		return nil, "", fmt.Errorf("NOTHING WAS TESTED ON KAFKA: %w", err)
	}
	started := time.Now()
	if node, err = embedded.StartKafka(ctx, embedded.KafkaConfig{Libs: libs, DataDir: filepath.Join(folder, "kafka")}); err != nil {
		return nil, "", fmt.Errorf("NOTHING WAS TESTED ON KAFKA: %w", err)
	}
	logger.InfoContext(ctx, "the tests' broker is Apache Kafka", slog.String("address", node.Broker), slog.Duration("started_in", time.Since(started)))
	return node, libs, nil
}

// memoryFolder gives a folder in memory, where there is room, else the one that is given: Kafka syncs a file for each partition that it makes, a thousand
// times a minute in tests, and has no setting for that.
func memoryFolder(folder string) (quick string, done func() error, err error) {
	const memory, room = "/dev/shm", 2 << 30
	done = func() error { return nil }
	var there syscall.Statfs_t
	if err := syscall.Statfs(memory, &there); err != nil || there.Bavail*uint64(there.Bsize) < room { //nolint:gosec // a size is not negative
		return folder, done, nil //nolint:nilerr // a machine without it is served as well, later
	}
	if quick, err = os.MkdirTemp(memory, "barkeep-testenv-"); err != nil {
		return "", done, fmt.Errorf("make a folder: %w", err)
	}
	return quick, func() error { return os.RemoveAll(quick) }, nil
}

// startDatabases starts the servers, of which TEST_DATABASE_URL replaces all by one. On an error those that have started are returned too.
func startDatabases(ctx context.Context, folder string, o options, logger *slog.Logger) (servers []*embedded.Postgres, urls []string, err error) {
	given := os.Getenv("TEST_DATABASE_URL")
	if given != "" {
		o.databases = 1
	}
	for i := range o.databases {
		server, err := embedded.Start(ctx, embedded.Config{
			URL: given, DataDir: filepath.Join(folder, fmt.Sprintf("database%d", i)), Database: "test", PlainOnly: o.plain, Throwaway: !o.durable, Logger: logger,
		})
		if err != nil {
			return servers, urls, fmt.Errorf("start a database: %w", err)
		}
		logger.InfoContext(ctx, "the tests' database", slog.String("server", server.Description), slog.String("url", server.URL))
		servers, urls = append(servers, server), append(urls, server.URL)
	}
	return servers, urls, nil
}

func stopDatabases(servers []*embedded.Postgres) (err error) {
	for _, server := range servers {
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		err = errors.Join(err, server.Stop(ctx))
		cancel()
	}
	return err
}

// execute passes an interrupt on and waits for the command all the same.
func execute(ctx context.Context, command, environment []string, stdout, stderr io.Writer) (int, error) {
	cmd := exec.CommandContext(ctx, command[0], command[1:]...) //nolint:gosec // the command is the caller's own
	cmd.Env, cmd.Stdin, cmd.Stdout, cmd.Stderr = environment, os.Stdin, stdout, stderr
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 20 * time.Second
	err := cmd.Run()
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit):
		return max(exit.ExitCode(), 1), nil
	case err != nil:
		return 127, fmt.Errorf("run %s: %w", command[0], err)
	}
	return 0, nil
}
