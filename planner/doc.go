// Package planner turns SQL text, parameters and a session's settings into requirements: which bars of which series the
// statement can read. It is a pure function. It has no connection and no clock: what only the database knows comes back
// as a Question, and the caller plans again with the answers.
//
// It never asks for less than what executing the statement can read (PLANNER 1). What it cannot show is widened, with a
// Reason, or refused, with a Refusal; it is never guessed.
//
// The stages, in the order a statement passes them:
//
//	MayRead        a scan of the text: can it read ohlcv at all? (PLANNER 3)
//	Prepare        pre-scan, parse, resolve names, find the scans of ohlcv and the predicates above each → Template
//	Template.Bind  evaluate constants and parameters, bound each scan, join the bounds per series → Plan
package planner
