//go:build race

package main

// comparedStatements is a quarter of what a run without the race detector compares: it takes four times as long for each.
const comparedStatements = 500
