package embedded

import (
	"fmt"
	"os"
	"path/filepath"
)

// Paths here are below the data folder and the cache, which the one who configures barkeep names; the child's user, who
// may be another one, reads what is in them.

// makeFolder makes a folder that the child's user can enter.
func makeFolder(path string) error {
	return os.MkdirAll(path, 0o755) //nolint:gosec // the child's user enters it
}

// makeScript writes a program that the child's user can run.
func makeScript(path, text string) error {
	return os.WriteFile(path, []byte(text), 0o755) //nolint:gosec // the child's user runs it
}

func readFile(path string) ([]byte, error) {
	return os.ReadFile(path) //nolint:gosec // see above
}

func openFile(path string, flags int) (*os.File, error) {
	return os.OpenFile(path, flags, 0o600) //nolint:gosec // see above
}

// writeFile replaces a file at once or not at all.
func writeFile(path string, text []byte) error {
	next := path + ".new"
	if err := os.WriteFile(next, text, 0o644); err != nil { //nolint:gosec // the child's user reads it
		return fmt.Errorf("write %s: %w", filepath.Base(path), err)
	}
	if err := os.Rename(next, path); err != nil {
		return fmt.Errorf("write %s: %w", filepath.Base(path), err)
	}
	return nil
}
