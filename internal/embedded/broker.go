package embedded

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/gofrs/flock"
	"github.com/google/uuid"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// BrokerConfig says where the broker of this process keeps its log.
type BrokerConfig struct {
	// DataDir is the data folder; the broker's log is kept in its subfolder broker.
	DataDir string
	// NoSync leaves the writing to disk to the operating system: for tests. Else what is acknowledged is synced a moment later, many records at
	// a time: see flusher.
	NoSync bool
	// Hint reports whether the records of a topic are hints, which are never synced; nil means that none are.
	Hint func(topic string) bool
	// Logger gets the broker's errors and warnings; nil means none.
	Logger *slog.Logger
}

// Broker is a broker with the Kafka protocol in this process: one node, on loopback.
type Broker struct {
	// Brokers are its addresses.
	Brokers []string

	cluster *kfake.Cluster
	lock    *flock.Flock
	flusher *flusher // nil where nothing is synced
}

// brokerRecord is broker.json. Offsets in the database are kept by the cluster's id, so it is made once.
type brokerRecord struct {
	Port      int    `json:"port"`
	ClusterID string `json:"cluster_id"`
}

// StartBroker starts the broker on its log, as it was left. Whoever gets one calls Stop.
func StartBroker(ctx context.Context, config BrokerConfig) (*Broker, error) {
	if config.DataDir == "" {
		return nil, errors.New("no data folder is given for the broker")
	}
	folder, lock, err := lockFolder(config.DataDir, "broker")
	if err != nil {
		return nil, err
	}
	cluster, err := startCluster(ctx, config, folder)
	if err != nil {
		return nil, errors.Join(err, lock.Unlock())
	}
	b := &Broker{Brokers: cluster.ListenAddrs(), cluster: cluster, lock: lock}
	if !config.NoSync {
		b.flusher = newFlusher(filepath.Join(folder, "log"), config)
		b.startFlusher(context.WithoutCancel(ctx))
	}
	return b, nil
}

// startFlusher has each request that writes end in a round of syncing.
func (b *Broker) startFlusher(ctx context.Context) {
	for _, writes := range []kmsg.Key{kmsg.Produce, kmsg.OffsetCommit} {
		b.cluster.ControlKey(int16(writes), func(kmsg.Request) (kmsg.Response, error, bool) {
			b.flusher.wrote()
			return nil, nil, false
		})
	}
	b.flusher.done.Go(func() { b.flusher.run(ctx) })
}

// Stop writes what is left to write and closes the broker.
func (b *Broker) Stop() error {
	b.cluster.Close()
	if b.flusher != nil {
		b.flusher.stop()
		if _, err := b.flusher.round(); err != nil {
			return errors.Join(err, b.lock.Unlock())
		}
	}
	if err := b.lock.Unlock(); err != nil {
		return fmt.Errorf("unlock the broker's folder: %w", err)
	}
	return nil
}

func startCluster(ctx context.Context, config BrokerConfig, folder string) (*kfake.Cluster, error) {
	record, err := readBroker(ctx, config, filepath.Join(folder, "broker.json"))
	if err != nil {
		return nil, err
	}
	options := []kfake.Opt{
		kfake.NumBrokers(1), kfake.Ports(record.Port), kfake.ClusterID(record.ClusterID), kfake.DataDir(filepath.Join(folder, "log")),
		kfake.DefaultNumPartitions(1),
		// Topics set their own retention; these hold for one that does not, and say how often it is looked after. Meanwhile the broker answers
		// nobody: it rewrites each compacted topic that has changed, and syncs it. Done each minute, that was the 99th percentile of live bars.
		kfake.BrokerConfigs(map[string]string{
			"log.retention.ms":           "259200000",
			"log.retention.bytes":        "4294967296",
			"log.cleaner.backoff.ms":     "600000",
			"default.replication.factor": "1",
			"min.insync.replicas":        "1",
		}),
	}
	if config.Logger != nil {
		options = append(options, kfake.WithLogger(brokerLogger{config.Logger}))
	}
	cluster, err := kfake.NewCluster(options...)
	if err != nil {
		return nil, fmt.Errorf("start the broker on %s: %w", folder, err)
	}
	return cluster, nil
}

// readBroker reads broker.json, or makes it; a port that somebody else took is replaced.
func readBroker(ctx context.Context, config BrokerConfig, path string) (brokerRecord, error) {
	var record brokerRecord
	text, err := readFile(path)
	switch {
	case errors.Is(err, os.ErrNotExist):
		record.ClusterID = "barkeep-" + uuid.NewString()
	case err != nil:
		return record, fmt.Errorf("read the broker's port: %w", err)
	default:
		if err := json.Unmarshal(text, &record); err != nil {
			return record, fmt.Errorf("read %s: %w", path, err)
		}
	}
	port, err := freePort(ctx, record.Port)
	if err != nil {
		return record, err
	}
	if port == record.Port {
		return record, nil
	}
	if record.Port != 0 && config.Logger != nil {
		config.Logger.WarnContext(ctx, "the broker's port is taken by somebody else; it gets another", slog.Int("was", record.Port), slog.Int("is", port))
	}
	record.Port = port
	if text, err = json.MarshalIndent(record, "", "  "); err != nil {
		return record, fmt.Errorf("write the broker's port: %w", err)
	}
	return record, writeFile(path, append(text, '\n'))
}

// brokerLogger passes on what is worth it.
type brokerLogger struct{ logger *slog.Logger }

// Logf logs errors and warnings of the broker.
func (l brokerLogger) Logf(level kfake.LogLevel, format string, args ...any) {
	switch level {
	case kfake.LogLevelError:
		l.logger.Error("broker", slog.String("text", fmt.Sprintf(format, args...)))
	case kfake.LogLevelWarn:
		l.logger.Warn("broker", slog.String("text", fmt.Sprintf(format, args...)))
	default:
	}
}
