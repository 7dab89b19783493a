// Package directory is what is known of sources and their instruments, in barkeep.source and barkeep.instrument, and the
// decision which of them serves a symbol (PIPELINE 10, 11).
//
// Producers write it: Announce at start, Store after each reading of a list. Coordinators read it alone: they never ask a
// source. A symbol is bound once, by Bind, to the first source in order of preference that lists it; errors and empty
// lists never switch it, so a source that should have been asked and was never read is waited for.
package directory
