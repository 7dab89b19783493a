// Package audit reads pages again that are believed to be final, and says where the source and the database differ: what the source
// has changed since, and what was changed in the database by hand, past its triggers (PIPELINE 8).
//
// It draws pages at random from all final coverage that was not rolled up, each with the same chance, asks the source for them as a
// producer would, and compares the answer with what is stored in one snapshot. It changes nothing.
package audit
