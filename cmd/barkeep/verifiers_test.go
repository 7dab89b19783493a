package main

import (
	"bytes"
	"log/slog"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"barkeep/internal/dbtest"
	"barkeep/internal/schema"
	"barkeep/internal/verifier"
	"barkeep/proxy"
)

// TestVerifiers: where what users prove themselves against cannot be read, barkeep says so at start: a file of the user's own is an
// error, a database that does not let it is a warning to those whose clients would notice.
func TestVerifiers(t *testing.T) {
	db := dbtest.New(t)
	var log bytes.Buffer
	a := &app{pool: db.Pool, log: slog.New(slog.NewTextHandler(&log, nil))}
	bound := proxy.Upstream{Binding: proxy.BindingRequired}

	verifiers, err := a.verifiers(t.Context(), bound)
	require.NoError(t, err)
	require.IsType(t, &verifier.Database{}, verifiers)
	require.Empty(t, log.String())

	a.cfg.Auth.UsersFile = writeFile(t, "users.txt", `"alice" "hush"`)
	_, err = a.verifiers(t.Context(), bound)
	require.ErrorContains(t, err, "auth.users_file: line 1")
	require.NotContains(t, err.Error(), "hush")
	a.cfg.Auth.UsersFile = writeFile(t, "users.txt", "; nobody yet\n")
	verifiers, err = a.verifiers(t.Context(), bound)
	require.NoError(t, err)
	require.IsType(t, verifier.File(""), verifiers)

	a.cfg.Auth.UsersFile = ""
	_, err = db.Pool.Exec(t.Context(), "drop function barkeep.verifier(text)")
	require.NoError(t, err)
	_, err = a.verifiers(t.Context(), proxy.Upstream{})
	require.NoError(t, err)
	require.Empty(t, log.String(), "nobody would notice")
	_, err = a.verifiers(t.Context(), bound)
	require.NoError(t, err)
	require.Contains(t, log.String(), "SCRAM can only be relayed")
	require.Contains(t, log.String(), "auth.users_file")
}

// TestUpstreamBinding: channel_binding of upstream.url holds for the sessions too.
func TestUpstreamBinding(t *testing.T) {
	db := dbtest.New(t)
	for _, want := range []proxy.ChannelBinding{proxy.BindingDisabled, proxy.BindingPreferred} {
		config, err := schema.PoolConfig(db.URL)
		require.NoError(t, err)
		config.ConnConfig.ChannelBinding = string(want)
		pool, err := pgxpool.NewWithConfig(t.Context(), config)
		require.NoError(t, err)
		t.Cleanup(pool.Close)
		up, err := (&app{pool: pool}).upstream(t.Context())
		require.NoError(t, err)
		require.Equal(t, want, up.Binding)
	}
}
