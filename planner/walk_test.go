package planner

import (
	"testing"

	pg "github.com/pganalyze/pg_query_go/v6"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// A walk sees what protoreflect shows, message for message.
func TestWalkSeesEveryMessage(t *testing.T) {
	t.Parallel()
	var count func(m protoreflect.Message, into map[proto.Message]int)
	count = func(m protoreflect.Message, into map[proto.Message]int) {
		into[m.Interface()]++
		m.Range(func(field protoreflect.FieldDescriptor, v protoreflect.Value) bool {
			switch {
			case field.Message() == nil:
			case field.IsList():
				for i := range v.List().Len() {
					count(v.List().Get(i).Message(), into)
				}
			default:
				count(v.Message(), into)
			}
			return true
		})
	}
	messages := 0
	for _, c := range goldenCorpus(t) {
		if checkText(c.sql) != nil {
			continue
		}
		tree, err := pg.Parse(c.sql)
		if err != nil {
			continue
		}
		want, got := map[proto.Message]int{}, map[proto.Message]int{}
		count(tree.ProtoReflect(), want)
		walk(tree, func(m proto.Message) bool {
			got[m]++
			return true
		})
		require.Len(t, got, len(want), c.sql)
		for m, n := range want {
			require.Equal(t, n, got[m], c.sql)
		}
		messages += len(want)
	}
	require.Greater(t, messages, 10_000)
}
