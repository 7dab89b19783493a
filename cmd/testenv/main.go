// Command testenv runs a command with a throw-away database server, found as barkeep itself finds one (the ladder of
// package embedded), and passes its exit code on:
//
//	testenv [-plain] [-brokers | -kafka] [-durable] command [argument...]
//
// The command finds the server's address in TEST_DATABASE_URL, its psql on the PATH if there is no other, and in TEST_BROKERS a broker's if -brokers is given
// (without it each test has a broker of its own in memory). With -durable both sync to disk, as in production. A TEST_DATABASE_URL that is already set is left as it is.
// With -kafka the broker is an Apache Kafka, which Maven fetches into the folder BARKEEP_CACHE (else the user's cache); TEST_KAFKA names the folder of its
// archives to tests that start a node of their own.
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

	"barkeep/internal/embedded"
)

func main() {
	plain := flag.Bool("plain", false, "take a plain PostgreSQL of this machine, do not unpack TimescaleDB")
	brokers := flag.Bool("brokers", false, "start a broker too, and set TEST_BROKERS")
	kafka := flag.Bool("kafka", false, "start an Apache Kafka, and set TEST_BROKERS and TEST_KAFKA")
	durable := flag.Bool("durable", false, "sync to disk as a server of barkeep's own does; without it nothing is synced")
	flag.Parse()
	code, err := run(flag.Args(), *plain, *brokers, *kafka, *durable)
	if err != nil {
		_, _ = fmt.Fprintln(os.Stderr, "testenv:", err)
		code = max(code, 1)
	}
	os.Exit(code)
}

func run(command []string, plain, brokers, kafka, durable bool) (code int, err error) {
	if len(command) == 0 {
		return 2, errors.New("no command is given")
	}
	if brokers && kafka {
		return 2, errors.New("-brokers and -kafka are two brokers")
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
	server, err := embedded.Start(ctx, embedded.Config{
		URL: os.Getenv("TEST_DATABASE_URL"), DataDir: folder, Database: "test", PlainOnly: plain, Throwaway: !durable, Logger: logger,
	})
	if err != nil {
		return 1, fmt.Errorf("start a database: %w", err)
	}
	defer func() { err = errors.Join(err, stopServer(server)) }()
	logger.InfoContext(ctx, "the tests' database", slog.String("server", server.Description), slog.String("url", server.URL))
	environment := append(os.Environ(), "TEST_DATABASE_URL="+server.URL)
	if _, err := exec.LookPath("psql"); err != nil && server.Programs() != "" {
		environment = append(environment, "PATH="+os.Getenv("PATH")+string(os.PathListSeparator)+server.Programs())
	}
	if brokers {
		broker, err := embedded.StartBroker(ctx, embedded.BrokerConfig{DataDir: folder, NoSync: !durable})
		if err != nil {
			return 1, fmt.Errorf("start a broker: %w", err)
		}
		defer func() { err = errors.Join(err, broker.Stop()) }()
		environment = append(environment, "TEST_BROKERS="+strings.Join(broker.Brokers, ","))
	}
	if kafka {
		node, libs, err := startKafka(ctx, folder, logger)
		if err != nil {
			return 1, err
		}
		defer func() { err = errors.Join(err, node.Kill()) }()
		environment = append(environment, "TEST_BROKERS="+node.Broker, "TEST_KAFKA="+libs)
	}
	return execute(ctx, command, environment, os.Stdout, os.Stderr)
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

func stopServer(server *embedded.Postgres) error {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	return server.Stop(ctx)
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
