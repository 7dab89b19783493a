package embedded

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"time"

	"github.com/gofrs/flock"
	"golang.org/x/sync/errgroup"
)

// What is unpacked: the packages of this Debian release, whatever the machine's own.
const (
	suite         = "trixie"
	packagedMajor = "17"
	debianMirror  = "http://deb.debian.org/debian"
	keyring       = "/usr/share/keyrings/debian-archive-keyring.gpg"
)

// Which packages of the closure a running server needs: neither maintenance scripts nor what JIT pulls in.
var (
	neededPackage = regexp.MustCompile(`^(lib.*|postgresql-([0-9]+|client-[0-9]+|[0-9]+-timescaledb)|zlib1g|tzdata)$`)
	uselessLib    = regexp.MustCompile(`^(libllvm|libz3|libperl|libpython|libtcl|libapt|libdb5|libgdbm|libncurses|libsemanage|libsepol|libdebconf|liblocale|libc-|libjson-perl|libproc|libfile|libmd|libpam-|libeditline|libdpkg)`)
	simulated     = regexp.MustCompile(`(?m)^Inst (\S+)`)
)

// unpackLimit ends an attempt on a machine whose network leads nowhere.
const unpackLimit = 3 * time.Minute

// unpack gives the TimescaleDB of Debian's packages, extracted into the user's cache; a second call finds it there.
//
// Nothing is installed and no right is needed: apt runs with a state of its own, the packages are only extracted, and
// the programs run through the packages' own dynamic loader and C library, so an older machine will do.
func unpack(ctx context.Context, config Config, cred *credential) (server, error) {
	cache, err := cacheDir(config)
	if err != nil {
		return server{}, err
	}
	root := filepath.Join(cache, "timescaledb-"+suite+"-"+packagedMajor)
	bin := filepath.Join(root, "usr", "lib", "postgresql", packagedMajor, "bin")
	if _, err := os.Stat(filepath.Join(root, ".ready")); err != nil {
		if err := canUnpack(); err != nil {
			return server{}, err
		}
		ctx, cancel := context.WithTimeoutCause(ctx, unpackLimit, errors.New("the download takes too long"))
		defer cancel()
		if err := unpackLocked(ctx, config, cache, root, bin); err != nil {
			return server{}, err
		}
	}
	s, err := probe(ctx, bin, cred)
	if err != nil {
		return server{}, fmt.Errorf("the unpacked server does not run: %w", err)
	}
	if !s.Timescale {
		return server{}, errors.New("the unpacked server has no TimescaleDB")
	}
	s.Kind = kindUnpacked
	return s, nil
}

// cacheDir is one per user: /var/cache for root, whose home others cannot enter.
func cacheDir(config Config) (string, error) {
	if config.CacheDir != "" {
		return filepath.Abs(config.CacheDir)
	}
	if os.Geteuid() == 0 {
		return "/var/cache/barkeep", nil
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("find the user's cache folder: %w", err)
	}
	return filepath.Join(cache, "barkeep"), nil
}

func canUnpack() error {
	if runtime.GOOS != "linux" {
		return errors.New("only on Linux")
	}
	for _, program := range []string{"apt-get", "dpkg-deb", "tar"} {
		if !hasProgram(program) {
			return fmt.Errorf("there is no %s", program)
		}
	}
	if _, err := os.Stat(keyring); err != nil {
		return fmt.Errorf("find the archive keyring of Debian (package debian-archive-keyring): %w", err)
	}
	if _, err := os.Stat("/usr/share/zoneinfo"); err != nil {
		return fmt.Errorf("find the time zones (package tzdata): %w", err)
	}
	return nil
}

// unpackLocked does the work once, whoever else starts at the same moment.
func unpackLocked(ctx context.Context, config Config, cache, root, bin string) error {
	if err := makeFolder(cache); err != nil {
		return fmt.Errorf("make the cache folder: %w", err)
	}
	lock := flock.New(root + ".lock")
	if _, err := lock.TryLockContext(ctx, 50*time.Millisecond); err != nil {
		return fmt.Errorf("lock the cache folder: %w", err)
	}
	defer func() { _ = lock.Unlock() }()
	if _, err := os.Stat(filepath.Join(root, ".ready")); err == nil {
		return nil
	}
	config.logger().InfoContext(ctx, "unpacking TimescaleDB from Debian's packages, once", slog.String("folder", root))
	state := root + ".apt"
	defer func() { _ = os.RemoveAll(state) }()
	if err := errors.Join(os.RemoveAll(state), os.RemoveAll(root)); err != nil {
		return fmt.Errorf("clear the cache folder: %w", err)
	}
	archives, err := download(ctx, config, state)
	if err != nil {
		return err
	}
	if err := extract(ctx, archives, root); err != nil {
		return err
	}
	if err := wrap(root, bin); err != nil {
		return err
	}
	return writeFile(filepath.Join(root, ".ready"), nil)
}

// download fetches the closure of the two packages with a private apt state and gives the archives' folder.
func download(ctx context.Context, config Config, state string) (string, error) {
	archives := filepath.Join(state, "cache", "archives")
	for _, folder := range []string{"lists/partial", "cache/archives/partial", "etc"} {
		if err := makeFolder(filepath.Join(state, folder)); err != nil {
			return "", fmt.Errorf("make a state for apt: %w", err)
		}
	}
	line := fmt.Sprintf("deb [signed-by=%s] %s %s main\n", keyring, mirror(ctx, config), suite)
	err := errors.Join(
		writeFile(filepath.Join(state, "etc", "sources.list"), []byte(line)),
		writeFile(filepath.Join(state, "status"), nil)) // as if nothing were installed: the whole closure
	if err != nil {
		return "", fmt.Errorf("make a state for apt: %w", err)
	}
	apt := func(args ...string) (string, error) {
		options := []string{
			"-qq", "-o", "Dir::State=" + state, "-o", "Dir::State::lists=" + state + "/lists", "-o", "Dir::State::status=" + state + "/status",
			"-o", "Dir::Cache=" + state + "/cache", "-o", "Dir::Etc::sourcelist=" + state + "/etc/sources.list", "-o", "Dir::Etc::sourceparts=/dev/null",
			"-o", "Dir::Etc::preferencesparts=/dev/null", "-o", "Dir::Etc::preferences=/dev/null", "-o", "APT::Install-Recommends=false",
			"-o", "APT::Sandbox::User=root", "-o", "Debug::NoLocking=1", "-o", "Acquire::Languages=none", "-o", "Acquire::GzipIndexes=true",
			"-o", "Acquire::http::Timeout=15", "-o", "Acquire::https::Timeout=15", "-o", "DPkg::Post-Invoke=", "-o", "APT::Update::Post-Invoke=",
			"-o", "APT::Update::Error-Mode=any", // else a mirror that cannot be reached is a warning, and the package unknown
		}
		return output(ctx, nil, archives, "apt-get", append(options, args...)...)
	}
	if _, err := apt("update"); err != nil {
		return "", err
	}
	plan, err := apt("-s", "install", "postgresql-"+packagedMajor, "postgresql-"+packagedMajor+"-timescaledb")
	if err != nil {
		return "", err
	}
	var packages []string
	for _, match := range simulated.FindAllStringSubmatch(plan, -1) {
		if name := match[1]; neededPackage.MatchString(name) && !uselessLib.MatchString(name) {
			packages = append(packages, name)
		}
	}
	if _, err := apt(append([]string{"download"}, packages...)...); err != nil {
		return "", err
	}
	return archives, nil
}

// mirror is the one that this machine's own apt uses for Debian, else Debian's.
func mirror(ctx context.Context, config Config) string {
	if config.Mirror != "" {
		return config.Mirror
	}
	out, err := output(ctx, nil, "/", "apt-get", "indextargets", "--format", "$(LABEL)|$(REPO_URI)", "Created-By: Packages")
	if err == nil {
		for line := range strings.Lines(out) {
			if uri, ok := strings.CutPrefix(strings.TrimSpace(line), "Debian|"); ok {
				return uri
			}
		}
	}
	return debianMirror
}

func extract(ctx context.Context, archives, root string) error {
	if err := makeFolder(root); err != nil {
		return fmt.Errorf("make the folder to unpack into: %w", err)
	}
	debs, err := filepath.Glob(filepath.Join(archives, "*.deb"))
	if err != nil {
		return fmt.Errorf("list the packages: %w", err)
	}
	const script = `dpkg-deb --fsys-tarfile "$1" | tar -x --no-same-owner -C "$0" --exclude=./usr/share/doc* --exclude=./usr/share/man* --exclude=./usr/share/locale* ` +
		`--exclude=./usr/share/lintian* --exclude=*/llvmjit* --exclude=*/bitcode/* --exclude=./usr/lib/postgresql/*/lib/pgxs*`
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(max(2, runtime.NumCPU()))
	for _, deb := range debs {
		group.Go(func() error {
			_, err := output(ctx, nil, "/", "/bin/sh", "-c", script, root, deb)
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return fmt.Errorf("unpack: %w", err)
	}
	for _, name := range []string{"lib", "lib64"} { // the packages are usr-merged; the loader's old path is then a link
		if _, err := os.Lstat(filepath.Join(root, name)); err == nil {
			continue
		}
		if err := os.Symlink("usr/"+name, filepath.Join(root, name)); err != nil {
			return fmt.Errorf("link %s: %w", name, err)
		}
	}
	return nil
}

// wrap replaces each program by a script that runs it through the packages' own loader and libraries. Programs find one
// another, and PostgreSQL its share and lib folders, by the script's path.
func wrap(root, bin string) error {
	loader, err := firstMatch(root, "usr/lib64/ld-linux-*.so.*", "usr/lib/ld-linux-*.so.*", "usr/lib/*/ld-linux-*.so.*")
	if err != nil {
		return err
	}
	libc, err := firstMatch(root, "usr/lib/*/libc.so.6")
	if err != nil {
		return err
	}
	elf := bin + ".elf"
	if err := os.Rename(bin, elf); err != nil {
		return fmt.Errorf("set the programs aside: %w", err)
	}
	if err := makeFolder(bin); err != nil {
		return fmt.Errorf("make the folder of programs: %w", err)
	}
	for _, program := range []string{"postgres", "initdb", "pg_ctl", "psql", "pg_isready", "pg_dump", "pg_restore", "pgbench", "pg_config", "createdb"} {
		if _, err := os.Stat(filepath.Join(elf, program)); err != nil {
			continue
		}
		script := fmt.Sprintf("#!/bin/sh\nexec %s --inhibit-cache --library-path %s --argv0 %s %s \"$@\"\n",
			quote(loader), quote(filepath.Dir(libc)), quote(filepath.Join(bin, program)), quote(filepath.Join(elf, program)))
		if err := makeScript(filepath.Join(bin, program), script); err != nil {
			return fmt.Errorf("wrap %s: %w", program, err)
		}
	}
	return nil
}

func firstMatch(root string, patterns ...string) (string, error) {
	for _, pattern := range patterns {
		found, err := filepath.Glob(filepath.Join(root, pattern))
		if err == nil && len(found) > 0 {
			return found[0], nil
		}
	}
	return "", fmt.Errorf("%s is not among the unpacked files", filepath.Base(patterns[0]))
}

func quote(text string) string { return "'" + strings.ReplaceAll(text, "'", `'\''`) + "'" }
