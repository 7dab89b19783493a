// Package coverage knows which ranges of a series are complete: it keeps an index of barkeep.coverage in memory, tells
// what of a requirement is missing, and writes what a page vouches for inside the caller's transaction (PIPELINE 3, 4, 7).
//
// The database is authoritative. An Index is an immutable value; Store replaces it on change. Additions may be seen late,
// removals may not: the index may be relied on only while Store.Valid says so, the lease after its last confirmed poll;
// outside it Store.Refresh asks the database.
//
//	poll (2 s ± 50 %) or NOTIFY → versions per symbol → segments of those that differ → new Index → Changed
//	connection broke → not valid until the next whole poll
//
// Each poll also compares the chunks of ohlcv with those that ingest wrote down, and withdraws the coverage of chunks that
// were dropped or truncated, for which no trigger fires.
//
// A symbol's version and its segments are always read by one statement, so they belong to one snapshot; loads are in one
// line, so that a slow one cannot put an older state over a newer one.
package coverage
