// Package catalog knows what the database knows: under which other names ohlcv can be read (PLANNER 3), what plain views
// say, what a constant of pg_catalog functions evaluates to under a session's settings (PLANNER 9), and who may read.
//
// All of it is asked on the service connection with search_path pg_catalog and read only, but for what an open transaction
// alone can tell, which is asked there (Inside); a user's own SQL never runs here. The closure of names is loaded once by Load,
// then kept by Run, which polls a fingerprint of the system catalogs and loads again when it changes. The poll is the promise;
// Refresh is for the caller who knows that something changed.
//
// A name that is wrongly in the closure costs a parse. A name that is missing from it could let a statement pass
// unplanned: in doubt a name is in.
package catalog
