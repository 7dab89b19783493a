// Package certificate keeps what barkeep shows to clients that ask for TLS: a certificate with its private key, and the
// authorities whose client certificates it believes.
//
// The files are read again when their content changes, and on demand. What is read holds for the handshakes after it:
// sessions that have shaken hands go on. Files that cannot be used leave what was there before in place; that is
// logged, once for each content.
package certificate
