// Package scram is both sides of SCRAM-SHA-256 and SCRAM-SHA-256-PLUS (RFC 5802, RFC 7677, RFC 5929) as PostgreSQL speaks
// it, for one who stands in the middle and knows no password: the server's side checks a client's proof against a Verifier
// and recovers the ClientKey from it, the client's side logs in by that ClientKey. It does no input or output.
//
// Nothing here allocates by a length that the peer names, and nothing hashes by a number of iterations that it names.
package scram
