package ingest

import (
	"maps"
	"slices"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"barkeep/backfill/topic"
)

// jobChannel is where the end of a job is notified, as its id.
const jobChannel = "barkeep_job"

// jobChanges is what a batch does to the rows of barkeep.job. Ids that are no uuids are left out: the row they would name
// cannot exist. A row that does not exist (the database went back in time) is passed over.
type jobChanges struct {
	pages map[uuid.UUID]int32
	bars  map[uuid.UUID]int64
	ends  map[uuid.UUID]jobEnd
}

type jobEnd struct {
	state         topic.EndState
	code, message string
}

func newJobChanges() jobChanges {
	return jobChanges{pages: map[uuid.UUID]int32{}, bars: map[uuid.UUID]int64{}, ends: map[uuid.UUID]jobEnd{}}
}

func (c *jobChanges) progress(job string, bars int64) {
	if id, err := uuid.Parse(job); err == nil {
		c.pages[id]++
		c.bars[id] += bars
	}
}

// end notes the first end of a job: a page refused before the end record decides how it ended.
func (c *jobChanges) end(job string, state topic.EndState, code, message string) {
	id, err := uuid.Parse(job)
	if err != nil {
		return
	}
	if _, ended := c.ends[id]; !ended {
		c.ends[id] = jobEnd{state: state, code: code, message: message}
	}
}

// queue adds the statements. All rows are locked first, in order of their ids, as the coordinator's renewal and the producers' reports
// do: locked as they come, they would meet in a deadlock.
func (c *jobChanges) queue(batch *pgx.Batch) {
	if all := slices.AppendSeq(slices.Collect(maps.Keys(c.pages)), maps.Keys(c.ends)); len(all) > 0 {
		batch.Queue(`SELECT FROM barkeep.job WHERE id = ANY ($1::uuid[]) ORDER BY id FOR UPDATE`, all)
	}
	if len(c.pages) > 0 {
		ids, pages, bars := make([]uuid.UUID, 0, len(c.pages)), make([]int32, 0, len(c.pages)), make([]int64, 0, len(c.pages))
		for id, n := range c.pages {
			ids, pages, bars = append(ids, id), append(pages, n), append(bars, c.bars[id])
		}
		batch.Queue(`UPDATE barkeep.job j SET pages_done = j.pages_done + n.pages, bars_done = j.bars_done + n.bars,
		    state = CASE j.state WHEN 'queued' THEN 'fetching' ELSE j.state END,
		    started_at = coalesce(j.started_at, pg_catalog.now()), updated_at = pg_catalog.now()
		  FROM unnest($1::uuid[], $2::int4[], $3::int8[]) AS n (id, pages, bars)
		  WHERE j.id = n.id`, ids, pages, bars)
	}
	for id, e := range c.ends {
		batch.Queue(`WITH ended AS (UPDATE barkeep.job SET state = $2, error_code = $3, error_message = $4,
		    ended_at = pg_catalog.now(), updated_at = pg_catalog.now()
		  WHERE id = $1 AND state IN ('queued', 'fetching') RETURNING id)
		  SELECT pg_catalog.pg_notify('`+jobChannel+`', id::text) FROM ended`, id, string(e.state), e.code, e.message)
	}
}
