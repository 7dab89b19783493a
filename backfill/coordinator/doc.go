// Package coordinator makes bars be there: Ensure takes what a statement needs, has the gaps filled and returns when the
// index of coverage answers for all of it (PIPELINE 15–18).
//
// The database is authoritative. A job's row is inserted before its record is published, so that a producer always finds
// it; a waiter is released by coverage, never by an event, and fails by its job's row.
//
//	Ensure: covered → return (no network, no actor)
//	        gap → bind symbol → insert job → publish → wait for coverage, or for the row to say failed → look again
//	        gap of a derived series → the base's gap, as above → insert job → publish order and end to the bars topic → wait
//
//	unavailable, and another source may stand in → that one's symbol's gap, as above → insert job → publish order and end to the bars topic → wait
//
// A timeframe that the source has not is rolled up from one that it has (PLANNER 20): its base is filled first, then an order
// goes to ingest as a job of its own: see derive.go, and lend.go for the bars of another source.
//
// While jobs are awaited, Run renews wanted_until of all of them in one statement, looks at their rows when it is notified
// and at intervals with jitter, and publishes again, under the same id, those whose row was silent. A waiter's end never
// ends its job. Within one Ensure "now" stands still: a bar that opens while it waits is not waited for.
package coordinator
