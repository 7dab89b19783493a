package embedded

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
)

// Kinds of servers, as server.json names them.
const (
	kindInstalled = "installed TimescaleDB"
	kindUnpacked  = "TimescaleDB unpacked from Debian's packages"
	kindPlain     = "plain PostgreSQL"
)

// oldest is the oldest PostgreSQL that barkeep runs on.
const oldest = 14

// server is a PostgreSQL that can be started.
type server struct {
	Kind      string `json:"kind"`
	Bin       string `json:"bin"`
	Major     int    `json:"major"`
	Version   string `json:"version"`
	Timescale bool   `json:"timescale"`
}

func (s server) describe() string {
	return fmt.Sprintf("%s (PostgreSQL %s in %s)", s.Kind, s.Version, s.Bin)
}

// choose walks down the ladder; the reasons say why each better rung was not taken.
func choose(ctx context.Context, config Config, cred *credential) (server, []string, error) {
	installed := installedServers(ctx, config.BinDir, cred)
	for _, s := range installed {
		if s.Timescale {
			return s, nil, nil
		}
	}
	reasons := []string{"no TimescaleDB is installed on this machine"}
	if config.BinDir == "" && !config.PlainOnly {
		unpacked, err := unpack(ctx, config, cred)
		if err == nil {
			return unpacked, reasons, nil
		}
		if ctx.Err() != nil {
			return server{}, nil, fmt.Errorf("unpack TimescaleDB: %w", context.Cause(ctx))
		}
		reasons = append(reasons, "TimescaleDB cannot be unpacked from Debian's packages: "+err.Error())
	}
	if len(installed) > 0 {
		return installed[0], reasons, nil
	}
	return server{}, nil, noServer(reasons)
}

func noServer(reasons []string) error {
	install := "sudo apt-get install postgresql"
	switch {
	case runtime.GOOS == "darwin":
		install = "brew install postgresql@17"
	case hasProgram("dnf"):
		install = "sudo dnf install postgresql-server"
	case hasProgram("apk"):
		install = "sudo apk add postgresql17"
	}
	return fmt.Errorf("no PostgreSQL %d or newer to start: %s; no plain PostgreSQL is on this machine either. Install one (%s), or set upstream.url to a server of yours",
		oldest, strings.Join(reasons, "; "), install)
}

func hasProgram(name string) bool {
	_, err := exec.LookPath(name)
	return err == nil
}

// installedServers finds the servers of this machine that really start for the child's user: newest first, those with
// TimescaleDB before the others.
func installedServers(ctx context.Context, binDir string, cred *credential) []server {
	var with, without []server
	seen := map[string]bool{}
	for _, folder := range binFolders(ctx, binDir) {
		resolved, err := filepath.EvalSymlinks(filepath.Join(folder, "postgres"))
		if err != nil {
			continue
		}
		if binDir == "" {
			folder = filepath.Dir(resolved)
		}
		if seen[folder] {
			continue
		}
		seen[folder] = true
		s, err := probe(ctx, folder, cred)
		switch {
		case err != nil:
		case s.Timescale:
			with = insertNewest(with, s)
		default:
			without = insertNewest(without, s)
		}
	}
	return append(with, without...)
}

func insertNewest(list []server, s server) []server {
	at := len(list)
	for i, other := range list {
		if s.Major > other.Major {
			at = i
			break
		}
	}
	return append(list[:at:at], append([]server{s}, list[at:]...)...)
}

// binFolders are the places where servers are found; one that is configured is the only one.
func binFolders(ctx context.Context, binDir string) []string {
	if binDir != "" {
		return []string{binDir}
	}
	var folders []string
	if path, err := exec.LookPath("postgres"); err == nil {
		folders = append(folders, filepath.Dir(path))
	}
	if path, err := exec.LookPath("pg_config"); err == nil {
		if out, err := output(ctx, nil, "/", path, "--bindir"); err == nil {
			folders = append(folders, strings.TrimSpace(out))
		}
	}
	for _, pattern := range []string{
		"/usr/lib/postgresql/*/bin", "/usr/pgsql-*/bin", "/usr/libexec/postgresql*", "/usr/local/pgsql/bin", "/usr/local/pgsql-*/bin",
		"/opt/homebrew/opt/postgresql@*/bin", "/usr/local/opt/postgresql@*/bin", "/Applications/Postgres.app/Contents/Versions/*/bin",
	} {
		found, err := filepath.Glob(pattern)
		if err == nil {
			folders = append(folders, found...)
		}
	}
	return folders
}

var versionPattern = regexp.MustCompile(`^postgres \(PostgreSQL\) ((\d+)(?:\.\d+|\w+)*)`)

// probe runs a server's own version report, as the user that would run it: what calls itself postgres may be anything.
func probe(ctx context.Context, bin string, cred *credential) (server, error) {
	if _, err := os.Stat(filepath.Join(bin, "initdb")); err != nil {
		return server{}, fmt.Errorf("look for initdb: %w", err)
	}
	out, err := output(ctx, cred, "/", filepath.Join(bin, "postgres"), "-V")
	if err != nil {
		return server{}, err
	}
	match := versionPattern.FindStringSubmatch(out)
	if match == nil {
		return server{}, errors.New("it does not report a PostgreSQL version")
	}
	major, err := strconv.Atoi(match[2])
	if err != nil || major < oldest {
		return server{}, fmt.Errorf("PostgreSQL %s is too old", match[1])
	}
	s := server{Kind: kindPlain, Bin: bin, Major: major, Version: match[1], Timescale: hasTimescale(ctx, bin, major)}
	if s.Timescale {
		s.Kind = kindInstalled
	}
	return s, nil
}

// hasTimescale looks for both halves of the extension: the library that is preloaded, and its control file.
func hasTimescale(ctx context.Context, bin string, major int) bool {
	prefix := filepath.Dir(bin)
	libs := []string{filepath.Join(prefix, "lib"), filepath.Join(prefix, "lib", "postgresql")}
	shares := []string{filepath.Join(prefix, "share"), filepath.Join(prefix, "share", "postgresql"), fmt.Sprintf("/usr/share/postgresql/%d", major)}
	if out, err := output(ctx, nil, "/", filepath.Join(bin, "pg_config"), "--pkglibdir", "--sharedir"); err == nil {
		if lines := strings.Split(strings.TrimSpace(out), "\n"); len(lines) == 2 {
			libs, shares = lines[:1], lines[1:]
		}
	}
	return anyFile(libs, "timescaledb.so", "timescaledb.dylib") && anyFile(shares, "extension/timescaledb.control")
}

func anyFile(folders []string, names ...string) bool {
	for _, folder := range folders {
		for _, name := range names {
			if _, err := os.Stat(filepath.Join(folder, name)); err == nil {
				return true
			}
		}
	}
	return false
}
