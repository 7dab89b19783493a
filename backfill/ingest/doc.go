// Package ingest writes batches of records to the database: bars, coverage, offset and job rows in one transaction
// (PIPELINE 19), so that what the database says of itself is always true, wherever a process dies.
//
//	lock symbols in order → compare the offset row → cut pages to what is newer → rows → coverage, jobs, offset → commit
//
// An order to roll up is taken in the same way, in a batch of its own: the page that it stands for is made of the base's rows
// under the symbol's lock (PIPELINE 9). So is an order to lend, whose page is made of another symbol's rows, under the locks of both (PIPELINE 10).
//
// The offset row in the database is the truth about the log, by compare-and-set: ErrOffsetMoved means that somebody else,
// or an earlier life of this database, was here. Replay is harmless. An error with a SQLSTATE of class 21, 22, 23 or 54,
// PageError among them, lies in the records; every other error is worth another attempt (PIPELINE 22).
package ingest
