//go:build race

package ingest_test

const (
	raceEvents = 1
	modelWalks = 200
)
