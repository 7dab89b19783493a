// Package backfill is the pipeline that fills gaps. It has no code of its own: this is its picture.
//
//	         Ensure(requirement)                          pages                          one transaction
//	proxy ──▶ coordinator ──jobs──▶ [barkeep.jobs] ──▶ producer ──▶ [barkeep.bars] ──▶ consumer ──▶ ingest
//	              ▲   │                                  │  ▲                                          │
//	              │   └ row in barkeep.job ◀─────────────┘  └ source: a vendor's API, files, sim       │
//	              │                                                                                    ▼
//	              └────────── coverage index, one in each process ◀── poll, NOTIFY ── bars · coverage · offset · job
//
// Bars of a timeframe that the source has not are derived: the coordinator has their base filled, and then orders the consumer to
// roll it up.
//
// Where configuration says that venues may be mixed, what a source cannot have is lent by another: the coordinator has it filled for that one's
// own symbol, and then orders the consumer to take it over. Package coverage says who may fill what, and who displaces whom.
//
// Read it in the order of the data: coordinator, producer and source, topic, consumer, ingest, coverage. directory says
// which source serves a symbol, ratebucket keeps the limit of a source over all producers.
//
// What it promises (DESIGN §1): bars, the coverage that vouches for them, the offset of the record that carried them and the end of
// their job are one transaction; a page of a source is fetched once, however many wait for it; what is not known to be there or to be
// absent is a gap.
//
// The database is authoritative for everything but the records between producer and consumer, and those can be had again. There is
// no leader: partitions assign the work, a compare-and-set on the offset and the symbol's row arbitrate.
//
// What happens on failure:
//
//   - A process is killed: its partitions move; jobs are delivered again and leave out what is covered; pages are read again from the
//     database's offset.
//   - A source fails: a page that failed advances nothing. Retries with backoff, Retry-After obeyed; then the breaker opens and waiters
//     are told when it is asked again; then one request tries it, and the others wait for what comes of that.
//   - The broker is gone: covered statements go on; jobs wait, and fail their waiters by their deadlines. What it lost after it had
//     acknowledged it is a gap again once the end of its job is stored.
//   - The database is gone: sessions end with it. Come back without its last commits, it has an older offset, from which is read again.
//   - A record cannot be used: it goes to the topic barkeep.dead, and its job fails.
//   - The index of coverage is older than its lease: the database is asked before anything is believed to be covered. Additions may be
//     seen late, removals may not.
package backfill
