// Package removal takes bars away: what a user has barkeep forget, and what is older than its timeframe is kept (PIPELINE 3, 7, 8).
//
// Rows go in two steps, so that no statement is answered from an index that still vouches for them:
//
//	Forget, Keeper: withdraw the coverage, leave a note in its place ── commit ── lease + grace ──▶ Keeper: delete the rows, take the note away
//	                          └ a page that comes meanwhile replaces its part of the note, and the rows with it
//
// The notes are segments of barkeep.coverage (see coverage.Forgotten, coverage.Retention), so that whatever covers a stretch again takes it
// out of the removal, in the same transaction. Each step locks the symbol first, as every writer of bars does, and does no harm
// when it is repeated: any number of keepers may run. The database's clock decides how old a note is.
package removal
