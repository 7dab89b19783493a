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
//
// Another source's bars stand in for those of the source that a symbol is bound to where configuration says that the two venues may be mixed
// (PIPELINE 10). They are fetched for a symbol of their own, as any bars are, and copied from there. The invariant, which holds whatever the
// order in which pages and copies come, and however often:
//
//   - A stretch is lent only where the symbol's own source has said that it cannot say what there is, and when it may be asked again: not what it
//     knows to be absent, not a gap, not what was forgotten or is too old to be kept. Ledger.Lend sees to that, under the symbol's lock.
//   - Only what the lender knows for good is lent: final or absent.
//   - What is lent displaces nothing but that word, and is displaced by whatever the symbol's own source has for good, whenever that was read,
//     and by what it has provisionally if that was read later. So is the word itself: a page that comes after a later word that nothing can be
//     had is as good as one that came before it. Ledger.Replace sees to that.
//   - A lent segment has the time of reading and RetryAt of the word that it stands in for. Past RetryAt it does not count: the symbol's own
//     source is asked again; its word that it still cannot say renews both, and the bars stay. What is rolled up from lent bars has their
//     RetryAt too, and names their source.
//
// A page of the lender never comes to the symbol: ingest refuses pages of another source than the one that it is bound to.
package coverage
