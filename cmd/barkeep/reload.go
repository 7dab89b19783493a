package main

import (
	"context"
	"log/slog"
	"maps"
	"os"
	"os/signal"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// reloadable are the settings that can be taken anew while barkeep runs; a key that ends with a dot stands for all below it.
// What the others say has become part of something that was made at the start: addresses, connections, sources.
var reloadable = []string{
	"sessions.", "holds.max", "holds.max_per_user", "holds.notice_after", "holds.notice_every", "statement.", "log.level",
}

// canReload reports whether a setting can be taken anew.
func canReload(key string) bool {
	return slices.ContainsFunc(reloadable, func(each string) bool {
		return key == each || strings.HasSuffix(each, ".") && strings.HasPrefix(key, each)
	})
}

// reloader reads the configuration anew on SIGHUP and has it taken. It is used by one goroutine.
type reloader struct {
	load    func() (Config, error)
	log     *slog.Logger
	signals chan os.Signal
	// now is what holds: what was given at the start, with what was taken since.
	now Config
	// takes are told what holds now; each returns an error where it keeps what it has.
	takes []func(*Config) error
}

// newReloader listens for SIGHUP from here on, so that it ends nobody who is still starting. The caller stops it.
func newReloader(now Config, load func() (Config, error), log *slog.Logger) *reloader {
	r := &reloader{load: load, log: log, signals: make(chan os.Signal, 1), now: now}
	signal.Notify(r.signals, syscall.SIGHUP)
	return r
}

func (r *reloader) stop() { signal.Stop(r.signals) }

// run reloads at each signal until ctx ends.
func (r *reloader) run(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-r.signals:
			r.reload(ctx)
		}
	}
}

// reload takes what can be taken, and says what was and what was not. With an error in any setting all stay as they are.
func (r *reloader) reload(ctx context.Context) {
	next, err := r.load()
	if err != nil {
		r.log.ErrorContext(ctx, "configuration not reloaded, all settings stay", slog.Any("error", err))
		return
	}
	taken, restart := []string{}, []string{}
	for _, key := range differences(&r.now, &next) {
		if canReload(key) {
			taken = append(taken, key)
		} else {
			restart = append(restart, key)
		}
	}
	now := r.now
	now.Sessions, now.Statement = next.Sessions, next.Statement
	force := now.Holds.Force
	now.Holds = next.Holds
	now.Holds.Force = force
	now.Log.Level = next.Log.Level
	for _, take := range r.takes {
		if err := take(&now); err != nil {
			r.log.ErrorContext(ctx, "a part of the configuration not reloaded, it stays", slog.Any("error", err))
		}
	}
	r.now = now
	r.log.InfoContext(ctx, "configuration reloaded", slog.Any("taken", taken))
	if len(restart) > 0 {
		r.log.WarnContext(ctx, "settings changed that need a restart", slog.Any("keys", restart))
	}
}

// differences lists the keys whose values differ, sorted. Values stay here: some are secrets.
func differences(a, b *Config) []string {
	left, right := values(a), values(b)
	keys := map[string]bool{}
	for _, each := range []map[string]string{left, right} {
		for key := range each {
			if left[key] != right[key] {
				keys[key] = true
			}
		}
	}
	return slices.Sorted(maps.Keys(keys))
}

// values are those of all settings that are not empty, by key.
func values(cfg *Config) map[string]string {
	var all []setting
	collect(reflect.ValueOf(*cfg), "", &all)
	out := map[string]string{}
	for _, s := range all {
		out[s.key] = s.value
	}
	for name, source := range cfg.Sources {
		var own []setting
		collect(reflect.ValueOf(source), "sources."+name+".", &own)
		for _, s := range own {
			out[s.key] = s.value
		}
		if source.Enabled != nil {
			out["sources."+name+".enabled"] = strconv.FormatBool(*source.Enabled)
		}
	}
	return out
}
