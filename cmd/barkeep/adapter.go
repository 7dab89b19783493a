package main

import (
	"context"
	"errors"
	"fmt"
	"maps"

	"barkeep/backfill/coordinator"
	"barkeep/backfill/coverage"
	"barkeep/backfill/directory"
	"barkeep/internal/catalog"
	"barkeep/internal/market"
	"barkeep/planner"
	"barkeep/proxy"
)

// filler is the coordinator as the proxy asks for it.
type filler struct{ *coordinator.Coordinator }

// Snapshot returns the coverage as it is known now.
func (f filler) Snapshot() proxy.Version { return f.Version() }

// Missing returns about how many bars the request lacks, at least one unless it is covered now and at its version.
func (f filler) Missing(_ context.Context, request proxy.Request) (bars int64, err error) {
	if request.Mode == coordinator.ModeStored {
		return 0, nil
	}
	bars, covered := f.Coordinator.Missing(request.Life, request.Requirements, request.Freshness)
	if covered && request.At == nil {
		return 0, nil
	}
	if at := indexOf(request.At); covered && at != nil && f.CoveredAt(at, request.Life, request.Requirements, request.Freshness) {
		return 0, nil
	}
	return max(bars, 1), nil
}

// Ensure returns when the request is covered.
func (f filler) Ensure(ctx context.Context, request proxy.Request, progress func(market.Progress)) ([]string, error) {
	return f.Coordinator.Ensure(ctx, coordinator.Request{
		At: indexOf(request.At), Life: request.Life, Requirements: request.Requirements, Mode: request.Mode,
		Freshness: request.Freshness, MaxBars: request.MaxBars, AskedBy: request.AskedBy,
	}, progress)
}

// Explain says what Ensure would do.
func (f filler) Explain(ctx context.Context, request proxy.Request) ([]proxy.Explanation, error) {
	list, err := f.Coordinator.Explain(ctx, coordinator.Request{
		Life: request.Life, Requirements: request.Requirements, Freshness: request.Freshness,
	})
	out := make([]proxy.Explanation, len(list))
	for i, e := range list {
		out[i] = proxy.Explanation(e)
	}
	return out, err
}

// indexOf returns nil for a session that may see everything that is committed.
func indexOf(v proxy.Version) *coverage.Index {
	index, _ := v.(*coverage.Index)
	return index
}

// definitions is the catalog as the proxy asks for it.
type definitions struct {
	*catalog.Catalog
	lists *coordinator.Coordinator
	work  context.Context //nolint:containedctx // Current is given none; this is the process's
}

// Current returns the catalog, looked at anew where something may just have changed.
func (d definitions) Current() *planner.Catalog { return d.Fresh(d.work) }

// Answer answers the questions, those about symbols once the sources have been asked what they list.
func (d definitions) Answer(ctx context.Context, questions []planner.Question) (planner.Answers, error) {
	unlisted, rest := planner.Answers{}, make([]planner.Question, 0, len(questions))
	known := map[string]error{}
	for _, q := range questions {
		if q.Listed == nil {
			rest = append(rest, q)
			continue
		}
		err, asked := known[q.Listed.Prefix]
		if !asked {
			err = d.lists.Listed(ctx, q.Listed.Prefix)
			known[q.Listed.Prefix] = err
		}
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		if err != nil {
			unlisted[q.Key] = planner.Unlisted(whyUnlisted(err))
			continue
		}
		rest = append(rest, q)
	}
	answers, err := d.Catalog.Answer(ctx, rest)
	if err != nil {
		return nil, fmt.Errorf("answer the planner's questions: %w", err)
	}
	maps.Copy(answers, unlisted)
	return answers, nil
}

func whyUnlisted(err error) string {
	if list, found := errors.AsType[*directory.ListError](err); found {
		return "the list of source " + list.Source + " could not be read: " + list.Reason
	}
	return err.Error()
}
