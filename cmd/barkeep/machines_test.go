package main

import (
	"testing"

	"github.com/stretchr/testify/require"

	"barkeep/internal/actor"
)

func TestMachinesTakeDeclaredSteps(t *testing.T) {
	t.Parallel()
	registry := &actor.Registry{}
	m := newMachines(registry, actor.FixedConsumer(), "partition ")
	for _, state := range []string{"idle", "processing_record", "writing", "processing_record", "writing", "error", "writing", "idle", "error", "processing_record", "idle", "idle"} {
		m.to(3, state)
	}
	require.Zero(t, registry.Undeclared())
	require.Equal(t, "partition 3", registry.Machines()[0].ID)
}
