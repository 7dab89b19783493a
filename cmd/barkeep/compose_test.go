package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/compose-spec/compose-go/v2/loader"
	"github.com/compose-spec/compose-go/v2/types"
	"github.com/stretchr/testify/require"
)

// TestCompose loads docker-compose.yml as Docker does, and what it tells barkeep as barkeep does.
func TestCompose(t *testing.T) {
	t.Parallel()
	path := filepath.Join("..", "..", "docker-compose.yml")
	content, err := os.ReadFile(path)
	require.NoError(t, err)
	project, err := loader.LoadWithContext(t.Context(), types.ConfigDetails{
		WorkingDir:  filepath.Join("..", ".."),
		ConfigFiles: []types.ConfigFile{{Filename: path, Content: content}},
		Environment: types.Mapping{},
	})
	require.NoError(t, err)
	require.NoError(t, project.CheckContainerNameUnicity())

	barkeep, err := project.GetService("barkeep")
	require.NoError(t, err)
	for name := range barkeep.DependsOn {
		service, err := project.GetService(name)
		require.NoError(t, err)
		require.NotNil(t, service.HealthCheck, "%s: barkeep waits until it is healthy", name)
	}
	var environ []string
	for name, value := range barkeep.Environment {
		require.NotNil(t, value, name)
		environ = append(environ, name+"="+*value)
	}
	cfg, err := Load(Layers{Environ: environ})
	require.NoError(t, err)
	require.NoError(t, cfg.needServers("serve"))

	// Every address is one that another service has.
	require.Contains(t, cfg.Upstream.URL, "@timescaledb:5432/barkeep")
	require.Equal(t, []string{"redpanda:9092"}, cfg.Brokers)
	redpanda, err := project.GetService("redpanda")
	require.NoError(t, err)
	require.Contains(t, strings.Join(redpanda.Command, " "), "--advertise-kafka-addr=internal://redpanda:9092")
	for _, port := range barkeep.Ports {
		require.Equal(t, "127.0.0.1", port.HostIP, "nothing is open to the network by default")
	}
	require.Greater(t, time.Duration(*barkeep.StopGracePeriod), cfg.Shutdown.Grace)
	require.Contains(t, barkeep.Build.Args, "VERSION")
}
