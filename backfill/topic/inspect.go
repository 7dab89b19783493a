package topic

import (
	"context"
	"fmt"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

// Inspection is how the fixed topics are.
type Inspection struct {
	// Brokers is how many there are, Topics how many of the fixed topics.
	Brokers, Topics int
	// Missing topics are not there, Misshapen ones have another number of partitions, Thin ones fewer copies than Ensure would make.
	Missing, Misshapen, Thin []string
	// Owner is the deployment whose mark is in Names.Meta, empty where there is none.
	Owner string
}

// Inspect looks at the fixed topics and changes nothing. The options say how to reach the broker.
func Inspect(ctx context.Context, opts []kgo.Opt, names Names) (Inspection, error) {
	client, err := kgo.NewClient(opts...)
	if err != nil {
		return Inspection{}, fmt.Errorf("open broker client: %w", err)
	}
	defer client.Close()
	admin := kadm.NewClient(client)
	meta, err := admin.BrokerMetadata(ctx)
	if err != nil {
		return Inspection{}, fmt.Errorf("ask for the brokers: %w", err)
	}
	there, err := admin.ListTopics(ctx)
	if err != nil {
		return Inspection{}, fmt.Errorf("list topics: %w", err)
	}
	found := Inspection{Brokers: len(meta.Brokers)}
	copies := min(3, max(1, len(meta.Brokers)))
	for _, s := range names.settings() {
		topic := there[s.name]
		if topic.Err != nil || len(topic.Partitions) == 0 {
			found.Missing = append(found.Missing, s.name)
			continue
		}
		found.Topics++
		if len(topic.Partitions) != int(s.partitions) {
			found.Misshapen = append(found.Misshapen, s.name)
		}
		if topic.Partitions.NumReplicas() < copies {
			found.Thin = append(found.Thin, s.name)
		}
	}
	if there.Has(names.Meta()) {
		if found.Owner, err = readMark(ctx, opts, names); err != nil {
			return found, fmt.Errorf("read deployment mark: %w", err)
		}
	}
	return found, nil
}
