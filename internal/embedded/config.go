package embedded

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
)

// Config says which server Start takes, and where it keeps its data.
type Config struct {
	// URL is the address of a configured server; Start then starts nothing.
	URL string
	// DataDir is the data folder; PostgreSQL is kept in its subfolder postgres. Required without URL.
	DataDir string
	// Database is made if it is not there; "barkeep" when empty.
	Database string
	// BinDir is the folder of the server's programs, where it is not to be looked for.
	BinDir string
	// CacheDir is where packages are unpacked; empty means the user's cache (for root /var/cache/barkeep).
	CacheDir string
	// Mirror is the Debian mirror to unpack from; empty means the machine's own, else Debian's.
	Mirror string
	// PlainOnly leaves out the unpacking of TimescaleDB.
	PlainOnly bool
	// Throwaway is for tests: nothing is synced to disk, a crash of the machine loses the database.
	Throwaway bool
	// Logger gets progress and warnings; nil means none.
	Logger *slog.Logger
}

func (c Config) logger() *slog.Logger {
	if c.Logger == nil {
		return slog.New(slog.DiscardHandler)
	}
	return c.Logger
}

// Validate names what is missing.
func (c Config) Validate() error {
	if c.URL == "" && c.DataDir == "" {
		return errors.New("neither a database's address nor a data folder is given")
	}
	return nil
}

// DefaultDataDir is the data folder where none is configured: /var/lib/barkeep for root (whose home the child's user
// cannot enter), else barkeep in the user's own data folder.
func DefaultDataDir() (string, error) {
	if os.Geteuid() == 0 {
		return "/var/lib/barkeep", nil
	}
	if folder := os.Getenv("XDG_DATA_HOME"); filepath.IsAbs(folder) {
		return filepath.Join(folder, "barkeep"), nil
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return "", fmt.Errorf("find the user's data folder: %w", err)
	}
	return filepath.Join(home, ".local", "share", "barkeep"), nil
}
