package embedded

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

// flushEvery is the least time between the beginnings of two rounds of syncing.
const flushEvery = 200 * time.Millisecond

// flusher syncs what the broker has written, in rounds: each round all files that have changed since the one before. What the broker has acknowledged
// is with the operating system, so the death of the process takes nothing. A power failure may take what came since the last round began. That
// is a log that ends below what the database has read of it, or a job that nobody works on, and both are made good (PIPELINE 20, 15).
//
// To sync each record before it is acknowledged, as the broker can by itself, is two syncs for each record of each partition, one after the other: fifty
// series whose bars close at once waited for a hundred.
type flusher struct {
	// folder is the broker's log: partitions/<topic>-<partition>/*, and *.log.
	folder string
	// hint reports whether the records of a topic are hints, which are left to the operating system.
	hint   func(topic string) bool
	sync   func(*os.File) error
	logger *slog.Logger // may be nil

	written chan struct{} // has an element when there is something to sync
	quit    chan struct{} // closed by stop
	done    sync.WaitGroup

	sizes map[string]int64 // of the files when they were last synced; owned by the goroutine of run, and by stop thereafter
}

func newFlusher(folder string, config BrokerConfig) *flusher {
	f := &flusher{
		folder: folder, hint: config.Hint, sync: (*os.File).Sync, logger: config.Logger,
		written: make(chan struct{}, 1), quit: make(chan struct{}), sizes: map[string]int64{},
	}
	if f.hint == nil {
		f.hint = func(string) bool { return false }
	}
	return f
}

// wrote tells that there is something to sync; it never waits.
func (f *flusher) wrote() {
	select {
	case f.written <- struct{}{}:
	default:
	}
}

// run syncs in rounds until quit is closed.
func (f *flusher) run(ctx context.Context) {
	for {
		select {
		case <-f.quit:
			return
		case <-f.written:
		}
		// wrote is called before the broker writes, so one round without news is no proof that all is synced.
		for idle := 0; idle < 2; {
			if !f.pause() {
				return
			}
			synced, err := f.round()
			idle++
			if synced > 0 {
				idle = 0
			}
			if err != nil && f.logger != nil {
				f.logger.LogAttrs(ctx, slog.LevelError, "the broker's log cannot be synced; a power failure may take what it was told", slog.Any("error", err))
			}
		}
	}
}

// pause gathers what one round syncs; it reports false when quit is closed.
func (f *flusher) pause() bool {
	timer := time.NewTimer(flushEvery)
	defer timer.Stop()
	select {
	case <-f.quit:
		return false
	case <-timer.C:
		return true
	}
}

// stop ends the rounds; the last one is the caller's, when nothing is written any more.
func (f *flusher) stop() {
	close(f.quit)
	f.done.Wait()
}

// round syncs the files that have changed, pages first, offsets after them, and returns how many those were.
func (f *flusher) round() (synced int, err error) {
	var failures []error
	folders, err := os.ReadDir(filepath.Join(f.folder, "partitions"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		failures = append(failures, err)
	}
	found := make(map[string]int64, len(f.sizes))
	for _, folder := range folders {
		if cut := strings.LastIndexByte(folder.Name(), '-'); cut < 0 || !f.hint(folder.Name()[:cut]) {
			n, err := f.syncIn(filepath.Join(f.folder, "partitions", folder.Name()), found)
			synced, failures = synced+n, append(failures, err)
		}
	}
	n, err := f.syncIn(f.folder, found)
	f.sizes = found
	return synced + n, errors.Join(append(failures, err)...)
}

// syncIn syncs the files of a folder that have another size than when they were last synced. What is removed meanwhile is not missed.
func (f *flusher) syncIn(folder string, found map[string]int64) (synced int, err error) {
	files, err := os.ReadDir(folder)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	failures := []error{err}
	for _, entry := range files {
		info, err := entry.Info()
		if err != nil || !info.Mode().IsRegular() {
			continue
		}
		path := filepath.Join(folder, entry.Name())
		if size, known := f.sizes[path]; known && size == info.Size() {
			found[path] = size
			continue
		}
		if err := f.syncFile(path); err != nil {
			failures = append(failures, err)
			continue
		}
		found[path] = info.Size()
		synced++
	}
	return synced, errors.Join(failures...)
}

func (f *flusher) syncFile(path string) error {
	file, err := os.OpenFile(path, os.O_RDWR, 0) //nolint:gosec // one of the broker's own
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("sync the broker's log: %w", err)
	}
	if err := errors.Join(f.sync(file), file.Close()); err != nil {
		return fmt.Errorf("sync the broker's log: %w", err)
	}
	return nil
}
