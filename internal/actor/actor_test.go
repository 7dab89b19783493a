package actor

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestMachineShowsItsState(t *testing.T) {
	t.Parallel()
	var r Registry
	m := r.New(Producer(), "job 1")
	m.To(Fetching)
	m.To(PublishingFixed)
	require.Equal(t, PublishingFixed, r.Machines()[0].State)
	m.Fail()
	require.Equal(t, Idle, m.State())
	require.Zero(t, r.Undeclared())
	m.To(Writing)
	require.Equal(t, int64(1), r.Undeclared())
	m.Close()
	require.Empty(t, r.Machines())
}

func TestEveryStateLeadsBackToRest(t *testing.T) {
	t.Parallel()
	for _, k := range Kinds() {
		require.Contains(t, k.Mermaid(), "[*] --> "+string(k.Rest))
		require.Contains(t, k.DOT(), "error -> "+string(k.Rest))
		for _, s := range k.States() {
			require.True(t, k.Allowed(s, Error))
		}
	}
}
