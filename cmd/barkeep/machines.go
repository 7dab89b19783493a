package main

import (
	"strconv"
	"sync"

	"barkeep/internal/actor"
)

// machines are the actors of a part that reports its states by number. Safe for concurrent use.
type machines struct {
	registry *actor.Registry
	kind     actor.Kind
	prefix   string

	mu   sync.Mutex
	byID map[int32]*actor.Machine // guarded by mu
}

func newMachines(registry *actor.Registry, kind actor.Kind, prefix string) *machines {
	return &machines{registry: registry, kind: kind, prefix: prefix, byID: map[int32]*actor.Machine{}}
}

func (m *machines) to(id int32, state string) {
	m.mu.Lock()
	machine := m.byID[id]
	if machine == nil {
		machine = m.registry.New(m.kind, m.prefix+strconv.Itoa(int(id)))
		m.byID[id] = machine
	}
	m.mu.Unlock()
	// A part does not report the rest between two pieces of work, nor that it abandoned one.
	next := actor.State(state)
	for _, step := range []actor.State{m.kind.Rest, actor.ProcessingRecord} {
		if m.kind.Allowed(machine.State(), next) {
			break
		}
		if !m.kind.Allowed(machine.State(), step) {
			machine.To(actor.Error)
		}
		machine.To(step)
	}
	machine.To(next)
}
