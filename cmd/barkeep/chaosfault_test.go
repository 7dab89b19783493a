package main

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/stretchr/testify/require"

	"barkeep/internal/netfault"
)

const (
	syscallTerm = syscall.SIGTERM
	syscallStop = syscall.SIGSTOP
	syscallCont = syscall.SIGCONT
)

// signal sends one to a process that may have ended.
func (p *process) signal(s os.Signal) { _ = p.cmd.Process.Signal(s) }

// chaosPart is the place of a process of barkeep, with ways of its own to the database and the broker; a process that ends is followed by another.
type chaosPart struct {
	chaos    *chaos
	role     string
	name     string
	site     *site // as this part sees it
	database *netfault.Link
	broker   *brokerLink
	out      *chaosOutput

	mu      sync.Mutex // guards what follows
	process *process
	ended   chan struct{} // closed when it has ended
	ready   bool
	addr    string // of a proxy that is ready
	meant   bool   // it is to end
}

func (c *chaos) newPart(role string) *chaosPart {
	p := &chaosPart{chaos: c, role: role, name: role + strconv.Itoa(len(c.parts))}
	p.database, p.broker, p.out = netfault.New(c.t, c.databaseHost()), newBrokerLink(c.t, c.broker.addr), c.output(p.name)
	own := *c.site
	own.databaseURL, own.brokers, own.out = c.linked(p.database.Addr()), p.broker.Addr(), p.out
	p.site = &own
	p.launch()
	return p
}

// launch starts the process, and has it watched.
func (p *chaosPart) launch() {
	c := p.chaos
	process := p.site.launch(append(p.site.args(p.role), "--set=auth.allow_trust=true", "--set=shutdown.grace=5s",
		"--set=sources.binance.finality_lag=3m", "--set=sources.coinbase.finality_lag=3m")...)
	ended := make(chan struct{})
	p.mu.Lock()
	p.process, p.ended, p.ready, p.addr, p.meant = process, ended, false, "", false
	p.mu.Unlock()
	c.quiet.Go(func() {
		exit := make(chan error, 1)
		go func() { exit <- process.exited() }()
		var err error
		select {
		case addr := <-process.ready:
			p.mu.Lock()
			p.ready, p.addr = true, addr
			p.mu.Unlock()
			err = <-exit
		case err = <-exit:
		}
		p.mu.Lock()
		defer p.mu.Unlock()
		switch {
		case p.meant || c.t.Context().Err() != nil:
		case p.ready:
			c.fail("%s ended by itself: %v", p.name, err)
		default:
			c.count("starts that failed")
		}
		p.ready, p.addr = false, ""
		close(ended)
	})
}

// end has the process end by a signal, and returns what is closed when it has.
func (p *chaosPart) end(s os.Signal) <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.meant, p.addr = true, ""
	p.process.signal(s)
	return p.ended
}

// gone reports whether there is no process.
func (p *chaosPart) gone() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	select {
	case <-p.ended:
		return true
	default:
		return false
	}
}

func (p *chaosPart) isReady() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.ready
}

// proxyAddr draws a proxy that takes sessions, or none.
func (c *chaos) proxyAddr(random *rand.Rand) string {
	var all []string
	for _, p := range c.parts {
		p.mu.Lock()
		if p.role == "proxy" && p.addr != "" {
			all = append(all, p.addr)
		}
		p.mu.Unlock()
	}
	if len(all) == 0 {
		return ""
	}
	return all[random.IntN(len(all))]
}

// chaosFault is something that is done, and undone after a while.
type chaosFault struct {
	name, target string
	// pages bounds those that it can lose.
	pages      int
	begin, end func()
}

// disturb does something now and then, until ctx ends. What is done, and for how long, depends on the seed alone.
func (c *chaos) disturb(ctx context.Context) {
	random := rand.New(rand.NewPCG(c.seed, 1))
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(time.Duration(300+random.IntN(2500)) * time.Millisecond):
		}
		c.revive()                                                                                   //nolint:contextcheck // processes live as long as the test
		faults := []chaosFault{c.drawFault(random)}                                                  //nolint:contextcheck // processes live as long as the test
		if second := c.drawFault(random); random.IntN(4) == 0 && second.target != faults[0].target { //nolint:contextcheck // processes live as long as the test
			faults = append(faults, second)
		}
		lasts := time.Duration(200+random.IntN(3000)) * time.Millisecond
		if random.IntN(6) == 0 {
			lasts = time.Duration(7+random.IntN(6)) * time.Second // beyond the groups' patience
		}
		began := time.Now()
		for _, f := range faults {
			c.count(f.target + ": " + f.name)
			line := fmt.Sprintf("%s %s %s for %v\n", time.Now().UTC().Format(time.RFC3339Nano), f.target, f.name, lasts)
			_, _ = c.said.Write([]byte(line)) // for reading only
			c.mu.Lock()
			c.done = append(c.done, line)
			c.mu.Unlock()
			f.begin()
		}
		<-time.After(lasts)
		for _, f := range faults {
			f.end()
		}
		c.mu.Lock()
		for _, f := range faults {
			if f.pages > 0 {
				c.hits = append(c.hits, hit{f.target + ": " + f.name, f.pages, began, time.Now()})
			}
		}
		c.mu.Unlock()
	}
}

// revive follows processes that could not start with others.
func (c *chaos) revive() {
	for _, p := range c.parts {
		if p.gone() {
			p.launch()
		}
	}
}

func (c *chaos) drawFault(random *rand.Rand) chaosFault {
	n, kind := random.IntN(len(c.parts)+3), random.IntN(8)
	switch {
	case n < len(c.parts):
		return c.parts[n].fault(kind)
	case n == len(c.parts):
		return c.databaseFault(kind)
	}
	return c.brokerFault(kind)
}

func (p *chaosPart) fault(kind int) chaosFault {
	f := chaosFault{target: p.name}
	if p.role == "producer" {
		f.pages = inHand
	}
	switch kind {
	case 0, 1:
		f.name, f.begin = "killed", func() { <-p.end(os.Kill) }
		f.end = p.launch
	case 2, 3:
		f.name, f.begin, f.end = "stopped", func() { p.process.signal(syscallStop) }, func() { p.process.signal(syscallCont) }
	case 4:
		f.name, f.begin, f.end = "cut off from the broker", p.broker.Down, p.broker.Up
	case 5:
		f.name, f.begin, f.end = "cut off from the database", p.database.Down, p.database.Up
	case 6:
		f.name, f.begin = "unheard of", func() { p.broker.Stall(); p.database.Stall() }
		f.end = func() { p.broker.Up(); p.database.Up() }
	default:
		f.name = "restarted"
		var ended <-chan struct{}
		f.begin = func() { ended = p.end(syscallTerm) }
		f.end = func() {
			select {
			case <-ended:
			case <-time.After(chaosStop):
				p.chaos.fail("%s does not stop", p.name)
				<-p.end(os.Kill)
			}
			p.launch()
		}
	}
	return f
}

// chaosStop is how long a process may take to stop, whose grace is five seconds, on a busy machine.
const chaosStop = 30 * time.Second

// producersInAll is how many producers a fault of the broker or the database hits.
const producersInAll = 3

func (c *chaos) databaseFault(kind int) chaosFault {
	f := chaosFault{target: "database", pages: producersInAll * inHand}
	switch kind {
	case 0, 1, 2:
		f.name, f.begin = "killed", func() { c.killUpstream(); c.stopUpstream() }
		f.end = c.startUpstream
	case 3, 4:
		f.name, f.begin, f.end = "restarted", c.stopUpstream, c.startUpstream
	default:
		f.name = "unheard of"
		f.begin = func() {
			for _, p := range c.parts {
				p.database.Stall()
			}
		}
		f.end = func() {
			for _, p := range c.parts {
				p.database.Up()
			}
		}
	}
	return f
}

// killUpstream kills the server's first process; its sessions end when they notice.
func (c *chaos) killUpstream() {
	text, err := os.ReadFile(filepath.Join(c.folder, "postgres", "data", "postmaster.pid"))
	require.NoError(c.t, err)
	first, _, _ := bytes.Cut(text, []byte{'\n'})
	pid, err := strconv.Atoi(string(bytes.TrimSpace(first)))
	require.NoError(c.t, err)
	require.NoError(c.t, syscall.Kill(pid, syscall.SIGKILL))
	<-c.upstream.Exited()
}

func (c *chaos) brokerFault(kind int) chaosFault {
	f := chaosFault{target: "broker", pages: producersInAll * inHand}
	switch kind {
	case 0, 1, 2:
		f.name, f.begin, f.end = "killed", func() { c.broker.kill() }, c.startBroker
	case 3:
		f.name, f.begin, f.end = "restarted", c.stopBroker, c.startBroker
	case 4, 5:
		f.name, f.begin, f.end = "stopped", func() { c.broker.signal(syscallStop) }, func() { c.broker.signal(syscallCont) }
	default:
		f.name, f.begin, f.end = "killed, and its log lost", func() { c.broker.kill() }, c.loseLog
	}
	return f
}

// heal ends what is done to the exchange, and waits until all parts are up.
func (c *chaos) heal() {
	c.mu.Lock()
	c.calm = true
	c.mu.Unlock()
	c.allReady()
}

func (c *chaos) allReady() {
	c.t.Helper()
	require.Eventually(c.t, func() bool {
		c.revive()
		for _, p := range c.parts {
			if !p.isReady() {
				return false
			}
		}
		return true
	}, chaosPatience, 500*time.Millisecond, "a part does not come up")
}

// autopsy has the parts say what they are at, and end, where it is kept what they print.
func (c *chaos) autopsy() {
	if os.Getenv("CHAOS_LOGS") == "" {
		return
	}
	for _, p := range c.parts {
		p.end(syscall.SIGQUIT)
	}
}
