// Package proxy serves PostgreSQL clients: each session is one client connection with one upstream connection, whose
// bytes are relayed as they came. A statement that may read ohlcv is planned, and held until what it needs is stored.
//
// A session has two goroutines. The reader takes the client's messages and writes them upstream, a batch at a time; it
// alone plans and holds. The pump takes the upstream's messages and writes them to the client; it looks at headers only.
// What the two share is the ledger: what was sent upstream and not answered yet, in order. Replies to the proxy's own
// messages are found by it and swallowed.
//
// Locks nest in this order: session.out, then session.mu. Whoever writes to the client holds out.
package proxy
