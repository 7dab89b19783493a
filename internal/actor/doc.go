// Package actor gives the parts of barkeep declared state machines whose current state can be seen: on the status page,
// in metrics, in logs, and as a graph drawn from the declaration (DESIGN §3).
//
// A Kind declares states and transitions once; a Machine is one actor of that kind. Every kind has idle (or active, or closed) as
// its rest state and an error state, reachable from everywhere, that leads back to rest. A transition that was not
// declared is counted and taken all the same: a display must not stop the work it shows.
package actor
