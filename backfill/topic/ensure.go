package topic

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"barkeep/internal/market"
)

// SymbolPartitions is the partition count of the topics that are keyed by symbol; a change needs a new prefix (PIPELINE 12).
const (
	SymbolPartitions = 32
	eventPartitions  = 8
)

// maxRecordBytes is max.message.bytes: a page may hold twice what it should before the broker refuses it.
const maxRecordBytes = 2 * MaxPageBytes

// setting is how one topic is made.
type setting struct {
	name       string
	partitions int32
	// kept is zero where nothing is removed for its age; compact keeps the last record of each key.
	kept    time.Duration
	compact bool
}

func (n Names) settings() []setting {
	const day = 24 * time.Hour
	return []setting{
		{name: n.Jobs(), partitions: SymbolPartitions, kept: 7 * day},
		{name: n.Bars(), partitions: SymbolPartitions, kept: 3 * day},
		{name: n.Events(), partitions: eventPartitions, kept: time.Hour},
		{name: n.Meta(), partitions: 1, compact: true},
		{name: n.Dead(), partitions: 1, kept: 30 * day},
	}
}

// configs returns every setting that the topic depends on, explicitly: brokers differ in their defaults, and the embedded
// one trims nothing unless told to.
func (s setting) configs(replicas int16) map[string]*string {
	kept := "-1"
	if s.kept > 0 {
		kept = strconv.FormatInt(s.kept.Milliseconds(), 10)
	}
	set := map[string]*string{
		"cleanup.policy":    new("delete"),
		"retention.ms":      &kept,
		"retention.bytes":   new("-1"),
		"segment.bytes":     new(strconv.Itoa(64 << 20)),
		"max.message.bytes": new(strconv.Itoa(maxRecordBytes)),
		"compression.type":  new("producer"),
	}
	switch {
	case s.compact && s.kept > 0:
		set["cleanup.policy"] = new("compact,delete")
		set["segment.ms"] = new(strconv.FormatInt((s.kept / 8).Milliseconds(), 10)) // what is written now is neither compacted nor removed
	case s.compact:
		set["cleanup.policy"] = new("compact")
	}
	if replicas >= 3 {
		set["min.insync.replicas"] = new("2")
	}
	return set
}

// Ensure creates the fixed topics that are missing, with explicit settings (PIPELINE 12), and checks the mark in
// Names.Meta (PIPELINE 13), which it writes into new topics. It returns an error that wraps ErrDeployment where the topics
// are another deployment's, and ErrPartitions where one has another number of partitions. The options say how to reach the
// broker (seed brokers, TLS, SASL); the client made from them is closed on return. Safe to call from several processes
// at once: whoever wrote the first mark owns the topics.
func Ensure(ctx context.Context, opts []kgo.Opt, names Names, deployment string) error {
	client, err := kgo.NewClient(append(slices.Clip(opts), kgo.RequiredAcks(kgo.AllISRAcks()), kgo.ProducerLinger(0))...)
	if err != nil {
		return fmt.Errorf("open broker client: %w", err)
	}
	defer client.Close()
	if err := create(ctx, kadm.NewClient(client), names.settings()); err != nil {
		return fmt.Errorf("create topics: %w", err)
	}
	if err := untilServed(ctx, func(ctx context.Context) error { return served(ctx, client, names.settings()...) }); err != nil {
		return fmt.Errorf("wait for topics: %w", err)
	}
	var owner string
	err = untilServed(ctx, func(ctx context.Context) (err error) { owner, err = readMark(ctx, opts, names); return err })
	if err != nil {
		return fmt.Errorf("read deployment mark: %w", err)
	}
	if owner == "" {
		mark := &kgo.Record{Topic: names.Meta(), Key: []byte(deployment), Value: []byte{version}}
		if err := client.ProduceSync(ctx, mark).FirstErr(); err != nil {
			return fmt.Errorf("write deployment mark: %w", err)
		}
		// Another deployment may have written its mark between our reading and writing: the first in the log counts.
		if owner, err = readMark(ctx, opts, names); err != nil {
			return fmt.Errorf("read deployment mark: %w", err)
		}
	}
	if owner != deployment {
		return fmt.Errorf("%w: %s holds the mark of %s, the database is %s", ErrDeployment, names.Meta(), owner, deployment)
	}
	return nil
}

// EnsureSeries creates the topic of a series' live bars where it is missing, with explicit settings: compacted, kept for two
// days. It returns when the broker that was asked knows of it. Safe to call from several processes at once.
func EnsureSeries(ctx context.Context, client *kgo.Client, names Names, series market.Series) error {
	admin := kadm.NewClient(client)
	meta, err := admin.BrokerMetadata(ctx)
	if err != nil {
		return fmt.Errorf("create topic of %s: ask for the brokers: %w", series, err)
	}
	// The broker is not asked first whether it is there: what the client remembers of a topic that was just removed would do for an answer.
	s := setting{name: names.Series(series), partitions: 1, kept: seriesKept, compact: true}
	replicas := replicasOf(meta)
	_, err = admin.CreateTopic(ctx, s.partitions, replicas, s.configs(replicas), s.name)
	if err != nil && !errors.Is(err, kerr.TopicAlreadyExists) {
		return fmt.Errorf("create topic of %s: %w", series, err)
	}
	if err := untilServed(ctx, func(ctx context.Context) error { return served(ctx, client, s) }); err != nil {
		return fmt.Errorf("wait for topic of %s: %w", series, err)
	}
	return nil
}

const seriesKept = 48 * time.Hour

// replicasOf returns the replication of topics on these brokers (PIPELINE 12).
func replicasOf(meta kadm.Metadata) int16 { return int16(min(3, max(1, len(meta.Brokers)))) }

func create(ctx context.Context, admin *kadm.Client, settings []setting) error {
	meta, err := admin.BrokerMetadata(ctx)
	if err != nil {
		return fmt.Errorf("ask for the brokers: %w", err)
	}
	replicas := replicasOf(meta)
	wanted := make([]string, len(settings))
	for i, s := range settings {
		wanted[i] = s.name
	}
	there, err := admin.ListTopics(ctx, wanted...)
	if err != nil {
		return fmt.Errorf("list topics: %w", err)
	}
	for _, s := range settings {
		if topic := there[s.name]; topic.Err == nil && len(topic.Partitions) > 0 {
			if len(topic.Partitions) != int(s.partitions) {
				return fmt.Errorf("topic %s has %d partitions, not %d: %w", s.name, len(topic.Partitions), s.partitions, ErrPartitions)
			}
			continue
		}
		_, err := admin.CreateTopic(ctx, s.partitions, replicas, s.configs(replicas), s.name)
		if err != nil && !errors.Is(err, kerr.TopicAlreadyExists) {
			return fmt.Errorf("topic %s: %w", s.name, err)
		}
	}
	return nil
}

// settleLimit bounds how long brokers may take to know of a topic that was made; settlePause is between two looks.
const (
	settleLimit = 30 * time.Second
	settlePause = 20 * time.Millisecond
)

// untilServed asks until the brokers serve what was made. Kafka answers CreateTopics when its controller has committed the topic; the broker that leads a
// partition learns of it afterwards, and until then answers UNKNOWN_TOPIC_OR_PARTITION, which is retriable.
func untilServed(ctx context.Context, ask func(context.Context) error) error {
	limit := time.NewTimer(settleLimit) // of answers that say no; one that is slow to come is waited for
	defer limit.Stop()
	tick := time.NewTicker(settlePause)
	defer tick.Stop()
	for {
		err := ask(ctx)
		if err == nil || !retriable(err) {
			return err
		}
		select {
		case <-tick.C:
		case <-limit.C:
			return fmt.Errorf("the brokers do not serve the topics: %w", err)
		case <-ctx.Done():
			return errors.Join(context.Cause(ctx), err)
		}
	}
}

// retriable looks into what is joined and wrapped.
func retriable(err error) bool {
	var answer *kerr.Error
	return errors.As(err, &answer) && answer.Retriable
}

// served returns nil where a broker knows of the topics and their leaders, with the partitions that they were made with. It is asked itself, for the
// client remembers for a while what it was told.
func served(ctx context.Context, client *kgo.Client, settings ...setting) error {
	request := kmsg.NewPtrMetadataRequest()
	partitions := map[string]int{}
	for _, s := range settings {
		topic := kmsg.NewMetadataRequestTopic()
		topic.Topic = &s.name
		request.Topics = append(request.Topics, topic)
		partitions[s.name] = int(s.partitions)
	}
	response, err := request.RequestWith(ctx, client)
	if err != nil {
		return fmt.Errorf("ask for them: %w", err)
	}
	for _, t := range response.Topics {
		if err := kerr.ErrorForCode(t.ErrorCode); err != nil {
			return fmt.Errorf("topic %s: %w", *t.Topic, err)
		}
		if len(t.Partitions) != partitions[*t.Topic] {
			return fmt.Errorf("topic %s has %d partitions, not %d: %w", *t.Topic, len(t.Partitions), partitions[*t.Topic], ErrPartitions)
		}
		for _, p := range t.Partitions {
			if err := kerr.ErrorForCode(p.ErrorCode); err != nil {
				return fmt.Errorf("topic %s, partition %d: %w", *t.Topic, p.Partition, err)
			}
		}
	}
	return nil
}

// readMark returns the deployment that the first record of the meta topic names, "" where there is none.
func readMark(ctx context.Context, opts []kgo.Opt, names Names) (string, error) {
	client, err := kgo.NewClient(append(slices.Clip(opts), kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{
		names.Meta(): {0: kgo.NewOffset().AtStart()},
	}))...)
	if err != nil {
		return "", fmt.Errorf("open broker client: %w", err)
	}
	defer client.Close()
	ends, err := kadm.NewClient(client).ListEndOffsets(ctx, names.Meta())
	if err != nil {
		return "", fmt.Errorf("find its end: %w", err)
	}
	end, found := ends.Lookup(names.Meta(), 0)
	if !found || end.Err != nil {
		return "", fmt.Errorf("find its end: %w", errors.Join(end.Err, ends.Error()))
	}
	if end.Offset == 0 {
		return "", nil
	}
	for {
		fetches := client.PollFetches(ctx)
		if err := ctx.Err(); err != nil {
			return "", fmt.Errorf("poll: %w", err)
		}
		if err := fetches.Err(); err != nil {
			return "", fmt.Errorf("poll: %w", err)
		}
		for _, r := range fetches.Records() {
			return string(r.Key), nil
		}
	}
}
