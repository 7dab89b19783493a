package embedded

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/gofrs/flock"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

// kafkaVersion is what the tests run on.
const kafkaVersion = "4.1.1"

// kafkaProject has Maven fetch the broker and what it needs to run, with a logger that writes to stderr.
const kafkaProject = `<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>barkeep</groupId><artifactId>kafka</artifactId><version>1</version><packaging>pom</packaging>
  <dependencies>
    <dependency><groupId>org.apache.kafka</groupId><artifactId>kafka_2.13</artifactId><version>` + kafkaVersion + `</version></dependency>
    <dependency><groupId>org.slf4j</groupId><artifactId>slf4j-simple</artifactId><version>1.7.36</version></dependency>
  </dependencies>
</project>
`

// Bounds of what is waited for: a download on a slow line, a start on a busy machine.
const (
	kafkaFetchLimit = 5 * time.Minute
	kafkaStartLimit = 2 * time.Minute
	kafkaTries      = 3
)

// FetchKafka gives the folder of Apache Kafka's archives (jar), which Maven fetches into the cache the first time. An empty cache means the
// user's own. It needs mvn, and Maven Central or a mirror that Maven's settings name.
func FetchKafka(ctx context.Context, cache string, logger *slog.Logger) (libs string, err error) {
	if cache, err = cacheDir(Config{CacheDir: cache}); err != nil {
		return "", err
	}
	libs = filepath.Join(cache, "kafka-"+kafkaVersion)
	if _, err := os.Stat(libs); err == nil {
		return libs, nil
	}
	if err := makeFolder(cache); err != nil {
		return "", fmt.Errorf("make the cache folder: %w", err)
	}
	ctx, cancel := context.WithTimeoutCause(ctx, kafkaFetchLimit, errors.New("the download takes too long"))
	defer cancel()
	lock := flock.New(libs + ".lock")
	if _, err := lock.TryLockContext(ctx, 50*time.Millisecond); err != nil {
		return "", fmt.Errorf("lock the cache folder: %w", err)
	}
	defer func() { _ = lock.Unlock() }()
	if _, err := os.Stat(libs); err == nil {
		return libs, nil
	}
	logger.InfoContext(ctx, "fetching Apache Kafka by Maven, once", slog.String("version", kafkaVersion), slog.String("folder", libs))
	work := libs + ".new"
	if err := errors.Join(os.RemoveAll(work), makeFolder(work)); err != nil {
		return "", fmt.Errorf("clear the cache folder: %w", err)
	}
	defer func() { _ = os.RemoveAll(work) }()
	if err := writeFile(filepath.Join(work, "pom.xml"), []byte(kafkaProject)); err != nil {
		return "", err
	}
	var failures error
	for range kafkaTries {
		if err = copyKafka(ctx, work); err == nil {
			break
		}
		failures = errors.Join(failures, err)
		if ctx.Err() != nil {
			break
		}
	}
	if err != nil {
		return "", fmt.Errorf("fetch Apache Kafka %s by Maven (is Maven Central reached?): %w", kafkaVersion, errors.Join(failures, context.Cause(ctx)))
	}
	if err := os.Rename(filepath.Join(work, "libs"), libs); err != nil {
		return "", fmt.Errorf("keep Kafka's archives: %w", err)
	}
	return libs, nil
}

// copyKafka has Maven put all archives into the subfolder libs; sums that do not match fail it.
func copyKafka(ctx context.Context, folder string) error {
	cmd := exec.CommandContext(ctx, "mvn", "--batch-mode", "--quiet", "--strict-checksums", "--file", filepath.Join(folder, "pom.xml"), //nolint:gosec // our own project
		"dependency:copy-dependencies", "-DincludeScope=runtime", "-DoutputDirectory="+filepath.Join(folder, "libs"))
	cmd.WaitDelay = time.Second
	if text, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("run mvn: %w: %s", err, tail(string(text)))
	}
	return nil
}

// KafkaConfig says what a node of Kafka is, beyond listeners without security for itself and for those who test.
type KafkaConfig struct {
	// Libs is what FetchKafka gave.
	Libs string
	// DataDir is a folder that nobody else uses.
	DataDir string
	// Listeners are more listeners, by name: the security protocol of each, as SASL_SSL.
	Listeners map[string]string
	// Settings are more lines of its properties.
	Settings map[string]string
}

// Kafka is a node of Apache Kafka, controller and broker in one (KRaft), on loopback: a child process for tests. Methods are called by one
// goroutine at a time.
type Kafka struct {
	// Broker is its address without security.
	Broker string
	// Listeners are the addresses of the other listeners by their names.
	Listeners map[string]string

	config KafkaConfig
	java   string
	child  *child
}

// StartKafka makes a new node and waits until it answers. Whoever gets one calls Kill.
func StartKafka(ctx context.Context, config KafkaConfig) (*Kafka, error) {
	java, err := exec.LookPath("java")
	if err != nil {
		return nil, fmt.Errorf("find a Java to run Kafka: %w", err)
	}
	var failures error
	for range kafkaTries {
		k := &Kafka{config: config, java: java}
		if err = errors.Join(os.RemoveAll(k.path("log")), k.format(ctx)); err == nil {
			if err = k.Restart(ctx); err == nil {
				return k, nil
			}
		}
		failures = errors.Join(failures, err)
		if !strings.Contains(lastLines(k.path("kafka.log")), "BindException") { // somebody took a port meanwhile
			break
		}
	}
	return nil, fmt.Errorf("start Kafka: %w", failures)
}

func (k *Kafka) path(name string) string { return filepath.Join(k.config.DataDir, name) }

// format chooses the ports, writes the properties and has Kafka make its folder.
func (k *Kafka) format(ctx context.Context) error {
	if err := makeFolder(k.config.DataDir); err != nil {
		return fmt.Errorf("make the data folder: %w", err)
	}
	text, err := k.properties(ctx)
	if err != nil {
		return err
	}
	if err := writeFile(k.path("kafka.properties"), []byte(text)); err != nil {
		return err
	}
	id := make([]byte, 16)
	_, _ = rand.Read(id) // never fails
	id[0] = 'k'          // a leading hyphen would be an option
	_, err = output(ctx, nil, k.config.DataDir, k.java, k.arguments("kafka.tools.StorageTool", "format", "--standalone",
		"--cluster-id", base64.RawURLEncoding.EncodeToString(id), "--config", k.path("kafka.properties"))...)
	return err
}

// arguments are those of Java: a small heap, and a start that counts for more than speed.
func (k *Kafka) arguments(class string, more ...string) []string {
	return append([]string{
		"-Xms256m", "-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
		"-cp", filepath.Join(k.config.Libs, "*"), class,
	}, more...)
}

// properties is the node's configuration: nothing is replicated, no group waits for members, what is removed goes at once, and topics are made
// by those who need them alone. Where there is an authorizer, who comes without a name may do everything.
func (k *Kafka) properties(ctx context.Context) (string, error) {
	protocols := map[string]string{"PLAINTEXT": "PLAINTEXT", "CONTROLLER": "PLAINTEXT"}
	maps.Copy(protocols, k.config.Listeners)
	addresses := map[string]string{}
	var listeners, mapped []string
	for _, name := range slices.Sorted(maps.Keys(protocols)) {
		port, err := quietPort(ctx)
		if err != nil {
			return "", err
		}
		addresses[name] = fmt.Sprintf("127.0.0.1:%d", port)
		listeners = append(listeners, name+"://"+addresses[name])
		mapped = append(mapped, name+":"+protocols[name])
	}
	settings := map[string]string{
		"process.roles":                            "broker,controller",
		"node.id":                                  "1",
		"controller.quorum.bootstrap.servers":      addresses["CONTROLLER"],
		"controller.listener.names":                "CONTROLLER",
		"inter.broker.listener.name":               "PLAINTEXT",
		"listeners":                                strings.Join(listeners, ","),
		"advertised.listeners":                     strings.Join(listeners, ","),
		"listener.security.protocol.map":           strings.Join(mapped, ","),
		"log.dirs":                                 k.path("log"),
		"auto.create.topics.enable":                "false",
		"offsets.topic.replication.factor":         "1",
		"offsets.topic.num.partitions":             "4",
		"transaction.state.log.replication.factor": "1",
		"transaction.state.log.min.isr":            "1",
		"group.initial.rebalance.delay.ms":         "0",
		"log.segment.delete.delay.ms":              "1000",
		"socket.listen.backlog.size":               "1024",   // many tests begin at one time
		"log.index.size.max.bytes":                 "262144", // is mapped whole for each of thousands of partitions
	}
	maps.Copy(settings, k.config.Settings)
	k.Broker = addresses["PLAINTEXT"]
	k.Listeners = addresses
	var text strings.Builder
	for _, key := range slices.Sorted(maps.Keys(settings)) {
		text.WriteString(key + "=" + strings.ReplaceAll(settings[key], "\n", `\n`) + "\n")
	}
	return text.String(), nil
}

// quietPort is a free port that the system gives to no connection by itself, so that it is free again when the node comes back.
func quietPort(ctx context.Context) (int, error) {
	var listen net.ListenConfig
	for range 100 {
		n, err := rand.Int(rand.Reader, big.NewInt(12_000))
		if err != nil {
			return 0, fmt.Errorf("draw a port: %w", err)
		}
		port := 20_000 + int(n.Int64())
		listener, err := listen.Listen(ctx, "tcp4", fmt.Sprintf("127.0.0.1:%d", port))
		if err != nil {
			continue
		}
		if err := listener.Close(); err != nil {
			return 0, fmt.Errorf("give a port back: %w", err)
		}
		return port, nil
	}
	return 0, errors.New("find a free port on the loopback")
}

// Restart starts the node on what Kill left, and waits until it answers.
func (k *Kafka) Restart(ctx context.Context) error {
	var err error
	if k.child, err = spawn(nil, k.config.DataDir, k.path("kafka.log"), k.java, k.arguments("kafka.Kafka", k.path("kafka.properties"))...); err != nil {
		return err
	}
	client, err := kgo.NewClient(kgo.SeedBrokers(k.Broker))
	if err != nil {
		return errors.Join(fmt.Errorf("open broker client: %w", err), k.Kill())
	}
	defer client.Close()
	ctx, cancel := context.WithTimeoutCause(ctx, kafkaStartLimit, errors.New("it does not answer"))
	defer cancel()
	admin := kadm.NewClient(client)
	ready := poll(ctx, kafkaStartLimit, func() bool {
		select {
		case <-k.child.exited:
			return true
		default:
		}
		try, cancel := context.WithTimeout(ctx, 2*time.Second)
		defer cancel()
		meta, err := admin.BrokerMetadata(try)
		return err == nil && len(meta.Brokers) == 1
	})
	select {
	case <-k.child.exited:
		return fmt.Errorf("it has ended: %w: %s", k.child.err, lastLines(k.path("kafka.log")))
	default:
	}
	if !ready {
		return errors.Join(fmt.Errorf("%w: %s", context.Cause(ctx), lastLines(k.path("kafka.log"))), k.Kill())
	}
	return nil
}

// Kill is kill -9. What the node has acknowledged is with the operating system, and there again after Restart.
func (k *Kafka) Kill() error {
	if err := syscall.Kill(k.child.pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
		return fmt.Errorf("kill Kafka (process %d): %w", k.child.pid, err)
	}
	<-k.child.exited
	return nil
}
