//go:build !race

package ingest_test

const (
	// raceEvents is how many records fewer are published in a search with the race detector.
	raceEvents = 0
	// modelWalks is how many random ways are taken, unless MODEL_WALKS says so.
	modelWalks = 3000
)
