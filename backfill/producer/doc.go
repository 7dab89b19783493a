// Package producer takes jobs, pages through sources and publishes the pages (PIPELINE 14–18). It also keeps the lists of
// instruments fresh (PIPELINE 10).
//
// The unit of work is the page slot: series × page limit × step, counted from the epoch, less what is covered or was just
// published. All jobs of a symbol come to one producer, for the record's key is the symbol; here jobs share slots by a
// table, so that a page that many want is fetched once. A slot's fetch belongs to the job that came first; when that ends
// early the next one takes it up.
//
//	job: queued → fetching → (per slot: wait for a place, fetch, judge, publish, acknowledged) → end record → offset marked
//
// A job's offset is committed when it and all before it have ended: a producer that dies has its jobs done again by the
// next, which leaves out what is covered. The job's row is the channel to a running job: cancelled, and wanted_until, past
// which the job is bulk. The pages between the broker and the database are bounded per partition
// (room.go), so that few bars do not stand behind many. Nothing is ever written to the coverage here: that is ingest's.
//
// Live series (live.go, follow.go) are those of barkeep.live whose symbol's jobs are this producer's. Their bars go to the topic of
// the series, and once they are final in the source's history (PIPELINE 6) as pages to the topic of bars as well. Who takes a
// series over goes on from the last record of its topic; two that have it for a moment repeat bars, and no more.
package producer
