// Package consumer brings the records of the bars topic into the database: one member of a consumer group, a worker for
// each partition it is assigned, and in each worker the loop position → records → batch → ingest.Commit.
//
// The group only says who works on which partition: its own client never fetches (its partitions stay paused, PIPELINE 20).
// A second client reads, from exactly the offset that a worker asks for once it knows its position. The database's
// offset row is authoritative; the group's committed offset is a hint for humans and lag monitors.
//
//	assigned → read offset row → look at the log → seek to the record before next → compare its id
//	  same      → follow from next
//	  other, or the log ends before it → from the log's beginning, counted and logged; replay is harmless (PIPELINE 4)
//	  trimmed by retention             → from the log's start
//	row moved under us, records out of sequence, fetch error → the same again
//	revoked → the batch in hand has 2 s, then it is abandoned; lost → abandoned at once
//
// Errors of SQLSTATE classes 21, 22, 23 and 54 lie in a record: the batch is halved until one is left, which goes to the
// dead letter topic while its job fails. Everything else is tried again with backoff and changes nothing (PIPELINE 22).
//
// Not obvious: a member that was expelled may go on for a moment; that is harmless, since its next compare-and-set fails.
package consumer
