package proxy

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"barkeep/internal/verifier"
)

var (
	clientLegs = map[string][]string{
		"plaintext": {"sslmode=disable"}, "TLS": {"sslmode=verify-full"}, "direct TLS": {"sslmode=verify-full", "sslnegotiation=direct"},
	}
	upstreamLegs = []string{"unix", "plaintext", "TLS"}
	bindings     = []string{"disable", "prefer", "require"}
)

// method is what the upstream asks for. With "SCRAM-PLUS" barkeep's own login has to be bound to the upstream's certificate.
type method struct{ name, user string }

var methods = []method{{"trust", "trusted"}, {"password", "cleared"}, {"md5", "hashed"}, {"SCRAM", "scrammed"}, {"SCRAM-PLUS", "scrammed"}}

// TestAuthMatrix is every cell of client leg × upstream leg × method × channel_binding, by pgx and by psql. Where the upstream
// need not be bound, the result is that of the same client straight at PostgreSQL, success or error; where it must be and
// cannot, the error is ours.
func TestAuthMatrix(t *testing.T) {
	u := startAuthUpstream(t)
	cells, possible := 0, map[string]int{}
	straight := map[string]outcome{}
	for _, leg := range upstreamLegs {
		up := u.leg(leg)
		free := u.open(t, up, nil, nil)
		up.Binding = BindingRequired
		bound := u.open(t, up, nil, nil)
		for clientLeg, settings := range clientLegs {
			for _, m := range methods {
				for _, binding := range bindings {
					cell := authCell{clientLeg, leg, binding, m.name}
					cells++
					if cell.possible() {
						possible[clientLeg]++
					}
					through := map[bool]*door{false: free, true: bound}[m.name == "SCRAM-PLUS"]
					settings := append([]string{"channel_binding=" + binding}, settings...)
					t.Run(fmt.Sprint(cell), func(t *testing.T) {
						for _, client := range clients {
							got := client.connect(t, u.url(through.address, m.user, settings...))
							if cell.possible() {
								require.Equal(t, outcome{m.user, ""}, got, client.name)
							}
							if cell.method == "SCRAM-PLUS" && leg != "TLS" {
								require.Contains(t, got.failure, errNotBound.Message, client.name)
								continue
							}
							address := u.url(u.address, m.user, settings...)
							if u.major < 17 { // which does not know TLS from the first byte
								address = strings.Replace(address, "&sslnegotiation=direct", "", 1)
							}
							if _, known := straight[client.name+address]; !known {
								straight[client.name+address] = client.connect(t, address)
							}
							require.Equal(t, straight[client.name+address], got, client.name)
						}
					})
				}
			}
		}
	}
	require.Equal(t, len(clientLegs)*3*5*3, cells)
	require.Equal(t, map[string]int{"plaintext": 26, "TLS": 30, "direct TLS": 30}, possible, "cells where somebody gets in")
}

// authCell is one cell of the matrix.
type authCell struct{ client, upstream, binding, method string }

// possible says whether the cell lets its user in.
func (c authCell) possible() bool {
	scrams := strings.HasPrefix(c.method, "SCRAM")
	if c.binding == "require" && (c.client == "plaintext" || !scrams) {
		return false // as at PostgreSQL: the client itself ends it
	}
	return c.method != "SCRAM-PLUS" || c.upstream == "TLS"
}

// unreadable are verifiers of a database that does not let them be read.
type unreadable struct{}

func (unreadable) Secret(context.Context, string) (verifier.Secret, error) {
	return verifier.Secret{}, verifier.ErrUnreadable
}

// TestAuthMatrixRelayed is the matrix of SCRAM where barkeep cannot read verifiers and can only relay (PROTOCOL.md, "SCRAM relay
// matrix").
func TestAuthMatrixRelayed(t *testing.T) {
	u := startAuthUpstream(t)
	for _, leg := range upstreamLegs {
		through := u.open(t, u.leg(leg), func(c *Config) { c.Verifiers = nil }, nil)
		up := u.leg(leg)
		up.Binding = BindingRequired
		bound := u.open(t, up, func(c *Config) { c.Verifiers = unreadable{} }, nil)
		for clientLeg, settings := range clientLegs {
			for _, binding := range bindings {
				settings := append([]string{"channel_binding=" + binding}, settings...)
				t.Run(fmt.Sprintf("%s to %s, %s", clientLeg, leg, binding), func(t *testing.T) {
					for _, client := range clients {
						got := client.connect(t, u.url(through.address, "scrammed", settings...))
						switch {
						case binding == "require": // the client does not find what it wants in the offer
							require.Contains(t, got.failure, "channel binding", client.name)
							require.NotContains(t, got.failure, "FATAL", client.name)
						case clientLeg != "plaintext" && leg == "TLS" && binding == "prefer":
							require.Contains(t, got.failure, errCannotBind.Message, client.name)
						default:
							require.Equal(t, outcome{"scrammed", ""}, got, client.name)
						}
						got = client.connect(t, u.url(bound.address, "scrammed", settings...))
						require.Contains(t, got.failure, errNotBound.Message, client.name)
					}
				})
			}
		}
	}
}

// outcome is who a client found itself to be, or why it did not get in.
type outcome struct{ user, failure string }

var clients = []struct {
	name    string
	connect func(*testing.T, string) outcome
}{{"pgx", byPGX}, {"psql", byPSQL}}

var ports = regexp.MustCompile(`(127\.0\.0\.1:|port )\d+`)

// ended is an outcome without the port, which differs between barkeep and PostgreSQL.
func ended(user string, err error) outcome {
	if err != nil {
		return outcome{"", ports.ReplaceAllString(err.Error(), "${1}…")}
	}
	return outcome{user, ""}
}

func byPGX(t *testing.T, url string) outcome {
	t.Helper()
	return ended(enter(t.Context(), url))
}

// byPSQL is byPGX with libpq.
func byPSQL(t *testing.T, url string) outcome {
	t.Helper()
	program, err := exec.LookPath("psql")
	if err != nil || strings.Contains(url, "sslnegotiation=") && psqlMajor(t, program) < 17 {
		return byPGX(t, url) // there is no psql, or one that does not know TLS from the first byte
	}
	cmd := exec.CommandContext(t.Context(), program, "-XAtw", "-c", "select current_user", url)
	cmd.Env = append(os.Environ(), "PGCONNECT_TIMEOUT=20")
	out, err := cmd.Output()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		err = errors.New(string(exit.Stderr))
	}
	return ended(strings.TrimSpace(string(out)), err)
}

func psqlMajor(t *testing.T, program string) (major int) {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), program, "--version").Output()
	require.NoError(t, err)
	_, err = fmt.Sscanf(string(out), "psql (PostgreSQL) %d", &major)
	require.NoError(t, err)
	return major
}
