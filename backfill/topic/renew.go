package topic

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
)

// Replaced reports whether err says that a topic is another one than the client knows: it was deleted and made anew.
func Replaced(err error) bool { return errors.Is(err, kerr.UnknownTopicID) }

// Renew has client take up the topic as it is now, to publish to, where err says that it was replaced, and reports whether
// it did. A client keeps to the topic that it first saw: without this it would fail for as long as it lives. What it holds
// for the topic fails with an error, and is to be published again.
func Renew(client *kgo.Client, name string, err error) bool {
	if !Replaced(err) {
		return false
	}
	client.PurgeTopicsFromProducing(name)
	return true
}

// lastWithin bounds how long Last waits for a record that the log says it has.
const lastWithin = 10 * time.Second

// Last returns the last record of partition 0 of a topic, nil where it is empty, and the offset behind it. The options and brokers
// say how to reach the broker; the client made from them is closed on return.
func Last(ctx context.Context, opts []kgo.Opt, brokers []string, name string) (r *kgo.Record, end int64, err error) {
	ctx, cancel := context.WithTimeout(ctx, lastWithin)
	defer cancel()
	opts = slices.Clone(opts)
	if len(brokers) > 0 {
		opts = append(opts, kgo.SeedBrokers(brokers...))
	}
	finder, err := kgo.NewClient(opts...)
	if err != nil {
		return nil, 0, fmt.Errorf("open broker client: %w", err)
	}
	defer finder.Close()
	admin := kadm.NewClient(finder)
	ends, err := admin.ListEndOffsets(ctx, name)
	if err != nil {
		return nil, 0, fmt.Errorf("find its end: %w", err)
	}
	starts, err := admin.ListStartOffsets(ctx, name)
	if err != nil {
		return nil, 0, fmt.Errorf("find its start: %w", err)
	}
	last, found := ends.Lookup(name, 0)
	first, alsoFound := starts.Lookup(name, 0)
	if err := errors.Join(last.Err, first.Err, ends.Error(), starts.Error()); err != nil || !found || !alsoFound {
		return nil, 0, fmt.Errorf("find its end: %w", errors.Join(err, kerr.UnknownTopicOrPartition))
	}
	if last.Offset <= first.Offset {
		return nil, last.Offset, nil
	}
	reader, err := kgo.NewClient(append(opts, kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{name: {0: kgo.NewOffset().At(last.Offset - 1)}}))...)
	if err != nil {
		return nil, 0, fmt.Errorf("open broker client: %w", err)
	}
	defer reader.Close()
	for {
		fetches := reader.PollFetches(ctx)
		if err := errors.Join(ctx.Err(), fetches.Err()); err != nil {
			return nil, 0, fmt.Errorf("poll: %w", err)
		}
		for _, record := range fetches.Records() {
			r, end = record, record.Offset+1
		}
		if r != nil {
			return r, end, nil
		}
	}
}
