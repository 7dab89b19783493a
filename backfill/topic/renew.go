package topic

import (
	"errors"

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
