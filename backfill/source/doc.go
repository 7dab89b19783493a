// Package source is where bars come from: the interface of a source, the registry of those configured, what an answer
// vouches for, and what the HTTP sources share.
//
// A source answers a Query with an Answer: rows that are parsed, inside the asked range, ascending and distinct. It never
// says more than the vendor did. Judge turns answers into segments by the rules 5 and 6 of the pipeline; retries and the
// second reading are the producer's.
package source
