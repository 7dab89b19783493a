// Package market holds the words that all of barkeep shares: symbols, timeframes and their grid, half-open ranges of
// time and sets of them, bars, and the requirement that a statement has of a series. It imports the standard library
// only and knows neither the database nor the broker.
//
// The one invariant that everything else rests on (PIPELINE 1): what a statement needs is rounded to the grid outward,
// what is vouched for is rounded inward, and
//
//	r.Inward(tf) ⊆ r ⊆ r.Outward(tf)
//
// for every range and timeframe. All values are immutable and safe for concurrent use.
package market
