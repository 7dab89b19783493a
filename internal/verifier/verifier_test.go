package verifier

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"barkeep/internal/dbtest"
	"barkeep/internal/schema"
	"barkeep/internal/scram"
)

const example = "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU="

// role makes a role of the server, which is dropped when the test ends, and returns its name.
func role(t *testing.T, db *dbtest.DB, options string) string {
	t.Helper()
	name := "barkeep_t_" + strings.ReplaceAll(uuid.NewString(), "-", "")
	_, err := db.Pool.Exec(t.Context(), "create role "+name+" "+options)
	require.NoError(t, err)
	t.Cleanup(func() {
		_, err := db.Pool.Exec(context.WithoutCancel(t.Context()), "drop owned by "+name+"; drop role "+name)
		require.NoError(t, err)
	})
	return name
}

func TestDatabase(t *testing.T) {
	db := dbtest.New(t)
	_, err := db.Pool.Exec(t.Context(), "set password_encryption = 'scram-sha-256'")
	require.NoError(t, err)
	reader := NewDatabase(db.Pool)
	want, err := scram.ParseVerifier(example)
	require.NoError(t, err)
	for name, each := range map[string]struct {
		user string
		want Secret
	}{
		"SCRAM":      {role(t, db, "login password '"+example+"'"), Secret{Verifier: want}},
		"dated":      {role(t, db, "login password '"+example+"' valid until '2999-01-01'"), Secret{Verifier: want}},
		"expired":    {role(t, db, "login password '"+example+"' valid until '2020-01-01'"), Secret{Refusal: refusedExpired}},
		"no login":   {role(t, db, "nologin password '"+example+"'"), Secret{Verifier: want, MayNotLogin: true}},
		"md5":        {role(t, db, "login password 'md5"+strings.Repeat("0", 32)+"'"), Secret{Refusal: refusedKind}},
		"none":       {role(t, db, "login"), Secret{Refusal: refusedNone}},
		"unknown":    {"barkeep_t_nobody", Secret{Refusal: refusedUnknown}},
		"no name":    {"", Secret{Refusal: refusedUnknown}},
		"not a text": {"\xff\xfe", Secret{Refusal: refusedUnknown}},
		"SQL":        {"x'; drop role y; --", Secret{Refusal: refusedUnknown}},
	} {
		got, err := reader.Secret(t.Context(), each.user)
		require.NoError(t, err, name)
		require.Equal(t, each.want, got, name)
	}
}

// TestDatabaseSeesAChange: a verifier is read at each login.
func TestDatabaseSeesAChange(t *testing.T) {
	db := dbtest.New(t)
	name := role(t, db, "login password '"+example+"'")
	reader := NewDatabase(db.Pool)
	first, err := reader.Secret(t.Context(), name)
	require.NoError(t, err)
	_, err = db.Pool.Exec(t.Context(), "alter role "+name+" password '"+strings.Replace(example, "4096", "8192", 1)+"'")
	require.NoError(t, err)
	second, err := reader.Secret(t.Context(), name)
	require.NoError(t, err)
	require.Equal(t, 4096, first.Iterations)
	require.Equal(t, 8192, second.Iterations)
}

// TestDatabaseIsForTheServiceRole: the function answers members of the service role alone, and says what to do where its
// owner may not read what it is about.
func TestDatabaseIsForTheServiceRole(t *testing.T) {
	db := dbtest.New(t)
	name := role(t, db, "login password '"+example+"'")
	config, err := schema.PoolConfig(db.URL)
	require.NoError(t, err)
	config.ConnConfig.RuntimeParams["role"] = name
	config.AfterConnect = nil // it asks what this role may not
	pool, err := pgxpool.NewWithConfig(t.Context(), config)
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	reader := NewDatabase(pool)

	_, err = reader.Secret(t.Context(), name)
	require.ErrorIs(t, err, ErrUnreadable)
	_, err = db.Pool.Exec(t.Context(), "grant barkeep_reader to "+name)
	require.NoError(t, err)
	_, err = reader.Secret(t.Context(), name)
	require.ErrorIs(t, err, ErrUnreadable, "readers of bars are no readers of secrets")
	require.ErrorContains(t, err, "alter function barkeep.verifier(text) owner to")

	_, err = db.Pool.Exec(t.Context(), "grant barkeep_service to "+name)
	require.NoError(t, err)
	secret, err := reader.Secret(t.Context(), name)
	require.NoError(t, err)
	require.Empty(t, secret.Refusal)

	owner := role(t, db, "nologin")
	_, err = db.Pool.Exec(t.Context(), "grant usage, create on schema barkeep to "+owner+"; alter function barkeep.verifier(text) owner to "+owner)
	require.NoError(t, err)
	_, err = reader.Secret(t.Context(), name)
	require.ErrorIs(t, err, ErrUnreadable, "its owner is no superuser")
	require.ErrorContains(t, err, "pg_authid")
	_, err = db.Pool.Exec(t.Context(), "alter function barkeep.verifier(text) owner to current_user")
	require.NoError(t, err)
	_, err = reader.Secret(t.Context(), name)
	require.NoError(t, err)

	_, err = db.Pool.Exec(t.Context(), "drop function barkeep.verifier(text)")
	require.NoError(t, err)
	_, err = reader.Secret(t.Context(), name)
	require.ErrorIs(t, err, ErrUnreadable)
}

// TestDatabaseIgnoresShadows: what a session puts in the way of names is not looked at by a function of a superuser.
func TestDatabaseIgnoresShadows(t *testing.T) {
	db := dbtest.New(t)
	name := role(t, db, "login password '"+example+"'")
	conn, err := db.Pool.Acquire(t.Context())
	require.NoError(t, err)
	defer conn.Release()
	_, err = conn.Exec(t.Context(), "create temp table pg_authid (rolname name, rolpassword text, rolvaliduntil timestamptz, rolcanlogin bool); set search_path = pg_temp, public")
	require.NoError(t, err)
	var text string
	require.NoError(t, conn.QueryRow(t.Context(), "select secret from barkeep.verifier($1)", name).Scan(&text))
	require.Equal(t, example, text)
}

func TestDatabaseOutOfReach(t *testing.T) {
	db := dbtest.New(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := NewDatabase(db.Pool).Secret(ctx, "postgres")
	require.Error(t, err)
	require.NotErrorIs(t, err, ErrUnreadable, "it may pass")
}

// TestDatabaseJudgesProcess: who may not read the rules has to take it that they go by the process.
func TestDatabaseJudgesProcess(t *testing.T) {
	db := dbtest.New(t)
	for _, overSocket := range []bool{true, false} {
		var want bool
		require.NoError(t, db.Pool.QueryRow(t.Context(), `select coalesce(bool_or(error is not null or auth_method in ('peer', 'ident')), false)
			from pg_hba_file_rules where error is not null or (type = 'local') = $1`, overSocket).Scan(&want))
		got, err := NewDatabase(db.Pool).JudgesProcess(t.Context(), overSocket)
		require.NoError(t, err)
		require.Equal(t, want, got)
	}
	config := db.Pool.Config()
	config.ConnConfig.RuntimeParams["role"] = role(t, db, "nologin")
	pool, err := pgxpool.NewWithConfig(t.Context(), config)
	require.NoError(t, err)
	judges, err := NewDatabase(pool).JudgesProcess(t.Context(), true)
	pool.Close()
	require.NoError(t, err)
	require.True(t, judges)
	_, err = NewDatabase(pool).JudgesProcess(t.Context(), true)
	require.Error(t, err, "the pool is closed")
}

// TestLoginsShareTheRules: two hundred logins at once read them twice, and each after it came.
func TestLoginsShareTheRules(t *testing.T) {
	config := dbtest.New(t).Pool.Config()
	config.MaxConns = 1
	pool, err := pgxpool.NewWithConfig(t.Context(), config)
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	conn, err := pool.Acquire(t.Context()) // the only one: none gets an answer
	require.NoError(t, err)
	d := NewDatabase(pool)
	before := pool.Stat().AcquireCount()
	errs := make(chan error, 200)
	for i := range cap(errs) {
		go func() {
			_, err := d.JudgesProcess(t.Context(), i%2 == 0)
			errs <- err
		}()
	}
	require.Eventually(t, func() bool { return d.rules.Sharing() == cap(errs) }, time.Minute, time.Millisecond)
	conn.Release()
	for range cap(errs) {
		require.NoError(t, <-errs)
	}
	require.LessOrEqual(t, pool.Stat().AcquireCount()-before, int64(2))
}

func TestFile(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "users.txt")
	write := func(text string) {
		require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
	}
	want, err := scram.ParseVerifier(example)
	require.NoError(t, err)
	write("; barkeep's users\n\n\"alice\" \"" + example + "\"\r\n  \"b \"\"ob\"\t\"" + example + "\"")
	for user, secret := range map[string]Secret{
		"alice": {Verifier: want}, `b "ob`: {Verifier: want}, "bob": {Refusal: refusedUnlisted}, "": {Refusal: refusedUnlisted},
	} {
		got, err := File(path).Secret(t.Context(), user)
		require.NoError(t, err)
		require.Equal(t, secret, got, user)
	}
	write(`"alice" "` + strings.Replace(example, "4096", "8192", 1) + `"`)
	got, err := File(path).Secret(t.Context(), "alice")
	require.NoError(t, err)
	require.Equal(t, 8192, got.Iterations, "the file is read at each login")

	for name, text := range map[string]string{
		"md5": `"alice" "md5` + strings.Repeat("0", 32) + `"`, "password": `"alice" "hush-hush"`, "one word": `"alice"`, "no name": `"" "` + example + `"`,
		"bare": `alice "` + example + `"`, "open": `"alice" "` + example, "more": `"alice" "` + example + `" x`, "twice": strings.Repeat(`"alice" "`+example+"\"\n", 2),
		"long": strings.Repeat(";\n", maxFile/2+1),
	} {
		write(text)
		_, err := File(path).Secret(t.Context(), "alice")
		require.NotErrorIs(t, err, ErrUnreadable, name)
		require.ErrorContains(t, err, "auth.users_file", name)
		require.NotContains(t, err.Error(), "hush", name)
		require.NotContains(t, err.Error(), "WG5d8oPm", name)
	}
	_, err = File(filepath.Join(t.TempDir(), "none")).Secret(t.Context(), "alice")
	require.Error(t, err)
	require.NotErrorIs(t, err, ErrUnreadable)
}
