package actor

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// State is the name of a state, as the status page and metrics show it.
type State string

// The states of DESIGN §3, those of who removes bars, and those of a breaker.
const (
	Idle             State = "idle"
	Active           State = "active"
	Error            State = "error"
	Processing       State = "processing_request"
	CheckingCoverage State = "checking_coverage"
	DataFound        State = "data_found"
	DataMissing      State = "data_missing"
	RequestingFetch  State = "requesting_fetch"
	WaitingForData   State = "waiting_for_data"
	ReturningData    State = "returning_data"
	CreatingTopic    State = "creating_topic"
	Notifying        State = "notifying"
	Fetching         State = "fetching"
	PublishingFixed  State = "publishing_fixed"
	PublishingLive   State = "publishing_dynamic"
	ProcessingRecord State = "processing_record"
	Writing          State = "writing"
	Subscribing      State = "subscribing"
	Consuming        State = "consuming"
	Withdrawing      State = "withdrawing"
	Deleting         State = "deleting"
	Closed           State = "closed"
	Open             State = "open"
	HalfOpen         State = "half_open"
)

// Transition is one declared step.
type Transition struct{ From, To State }

// Kind declares a state machine. Any state leads to Error, and Error to Rest, without being listed.
type Kind struct {
	Name string
	// What says in one sentence what the actor is.
	What        string
	Rest        State
	Transitions []Transition
}

// Datastore is a statement that has a gap.
func Datastore() Kind {
	return Kind{Name: "datastore", What: "A statement that has a gap; covered ones have no actor.", Rest: Idle, Transitions: []Transition{
		{Idle, Processing},
		{Processing, CheckingCoverage},
		{CheckingCoverage, DataFound},
		{DataFound, ReturningData},
		{ReturningData, Idle},
		{CheckingCoverage, DataMissing},
		{DataMissing, RequestingFetch},
		{RequestingFetch, WaitingForData},
		{WaitingForData, ReturningData},
	}}
}

// Coordinator is a job or a subscription as its coordinator sees it.
func Coordinator() Kind {
	return Kind{Name: "coordinator", What: "What one statement needs, or a subscription, as its coordinator sees it.", Rest: Active, Transitions: []Transition{
		{Active, Processing},
		{Processing, CreatingTopic},
		{CreatingTopic, Notifying},
		{Processing, Notifying},
		{Notifying, Active},
	}}
}

// Producer is a job, or a live series, as its producer sees it.
func Producer() Kind {
	return Kind{Name: "producer", What: "A job as its producer sees it, which fetches again for each page, or a series that it follows live.", Rest: Idle, Transitions: []Transition{
		{Idle, Fetching},
		{Fetching, PublishingFixed},
		{Fetching, PublishingLive},
		{PublishingFixed, PublishingLive},
		{PublishingFixed, Fetching},
		{PublishingLive, Fetching},
		{PublishingFixed, Idle},
		{PublishingLive, Idle},
		{Fetching, Idle},
	}}
}

// FixedConsumer is a partition of the topic of bars.
func FixedConsumer() Kind {
	return Kind{Name: "consumer_fixed", What: "A partition of the topic of pages.", Rest: Idle, Transitions: []Transition{
		{Idle, ProcessingRecord},
		{ProcessingRecord, Writing},
		{Writing, Idle},
	}}
}

// DynamicConsumer is a live series.
func DynamicConsumer() Kind {
	return Kind{Name: "consumer_dynamic", What: "A live series.", Rest: Idle, Transitions: []Transition{
		{Idle, Subscribing},
		{Subscribing, Consuming},
		{Consuming, Idle},
	}}
}

// Remover takes away what is too old or was forgotten.
func Remover() Kind {
	return Kind{Name: "remover", What: "What takes bars away: first what vouches for them, later the rows.", Rest: Idle, Transitions: []Transition{
		{Idle, Withdrawing},
		{Withdrawing, Deleting},
		{Deleting, Idle},
	}}
}

// Breaker keeps a source that has failed for good from being asked.
func Breaker() Kind {
	return Kind{
		Name: "breaker", What: "What keeps a source that failed for good from being asked; half open, one request tries whether it is back.", Rest: Closed,
		Transitions: []Transition{
			{Closed, Open},
			{Open, HalfOpen},
			{HalfOpen, Closed},
			{HalfOpen, Open},
		},
	}
}

// Kinds returns all kinds that barkeep has.
func Kinds() []Kind {
	return []Kind{Datastore(), Coordinator(), Producer(), FixedConsumer(), DynamicConsumer(), Remover(), Breaker()}
}

// Allowed reports whether the step is declared; a step to the state one is in always is.
func (k Kind) Allowed(from, to State) bool {
	return from == to || to == Error || (from == Error && to == k.Rest) || slices.Contains(k.Transitions, Transition{from, to})
}

// States returns the declared states, the rest state first and Error last.
func (k Kind) States() []State {
	states := []State{k.Rest}
	for _, t := range k.Transitions {
		for _, s := range []State{t.From, t.To} {
			if !slices.Contains(states, s) {
				states = append(states, s)
			}
		}
	}
	return append(states, Error)
}

// Mermaid returns the graph as a Mermaid state diagram.
func (k Kind) Mermaid() string {
	var b strings.Builder
	fmt.Fprintf(&b, "stateDiagram-v2\n    [*] --> %s\n", k.Rest)
	k.each(func(t Transition) { fmt.Fprintf(&b, "    %s --> %s\n", t.From, t.To) })
	return b.String()
}

func (k Kind) each(draw func(Transition)) {
	for _, t := range k.Transitions {
		draw(t)
	}
	for _, s := range k.States() {
		if s != Error {
			draw(Transition{s, Error})
		}
	}
	draw(Transition{Error, k.Rest})
}

// Registry holds the machines that exist. The zero value is ready; the nil Registry takes machines and shows none. Safe
// for concurrent use.
type Registry struct {
	undeclared atomic.Int64

	mu       sync.Mutex
	machines map[*Machine]struct{} // guarded by mu
}

// Machine is one actor. Its methods are safe for concurrent use.
type Machine struct {
	registry *Registry
	kind     Kind
	id       string
	at       atomic.Pointer[position]
}

type position struct {
	state State
	since time.Time
}

// Snapshot is where one machine is.
type Snapshot struct {
	Kind, ID string
	State    State
	Since    time.Time
}

// New returns a machine at rest that the registry shows until Close.
func (r *Registry) New(kind Kind, id string) *Machine {
	m := &Machine{registry: r, kind: kind, id: id}
	m.at.Store(&position{kind.Rest, time.Now()})
	if r != nil {
		r.mu.Lock()
		defer r.mu.Unlock()
		if r.machines == nil {
			r.machines = make(map[*Machine]struct{})
		}
		r.machines[m] = struct{}{}
	}
	return m
}

// Machines returns where each machine is, by kind and id.
func (r *Registry) Machines() []Snapshot {
	if r == nil {
		return nil
	}
	r.mu.Lock()
	all := make([]Snapshot, 0, len(r.machines))
	for m := range r.machines {
		at := m.at.Load()
		all = append(all, Snapshot{m.kind.Name, m.id, at.state, at.since})
	}
	r.mu.Unlock()
	slices.SortFunc(all, func(a, b Snapshot) int {
		return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.ID, b.ID), a.Since.Compare(b.Since))
	})
	return all
}

// Undeclared returns the number of steps taken that no kind declares: other than zero is a bug.
func (r *Registry) Undeclared() int64 {
	if r == nil {
		return 0
	}
	return r.undeclared.Load()
}

// To moves the machine.
func (m *Machine) To(state State) {
	was := m.at.Swap(&position{state, time.Now()})
	if !m.kind.Allowed(was.state, state) && m.registry != nil {
		m.registry.undeclared.Add(1)
	}
}

// Fail moves the machine through Error back to rest.
func (m *Machine) Fail() {
	m.To(Error)
	m.To(m.kind.Rest)
}

// State returns where the machine is.
func (m *Machine) State() State { return m.at.Load().state }

// Close takes the machine out of its registry.
func (m *Machine) Close() {
	if m.registry == nil {
		return
	}
	m.registry.mu.Lock()
	defer m.registry.mu.Unlock()
	delete(m.registry.machines, m)
}
