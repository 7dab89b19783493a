// Package embedded starts what barkeep needs when nothing is configured: PostgreSQL as a child process, with TimescaleDB
// if it is to be had, and a broker in this process whose log is on disk.
//
// # The ladder
//
// Start takes, best first: a configured address (nothing is started then); a TimescaleDB installed on this machine; one
// unpacked from Debian's packages, without root and without installing anything; a plain PostgreSQL on this machine. What
// was taken is written into the data folder and stays its server for good: a better one found later is logged, not used.
//
// # The child
//
//	starting ──ready──▶ running ──Stop──▶ stopping ──▶ ended
//	  ▲  └──────exits──────┴──exits by itself──▶ ended (Exited is closed, Err says why)
//	  └────────────────────Run───────────────────┘
//
// The child belongs to this process: the kernel ends it when this process dies (Linux), and where that did not happen the
// next Start finds it by the data folder that it runs in, ends it, and goes on. It has a process group of its own, so that
// Ctrl-C reaches barkeep first. As root, the child runs as postgres or, where there is no such user, as nobody; the data
// folder must be reachable for that user.
//
// # Who is authoritative
//
// A data folder is locked while it is used. Its file server.json names the server and its port, broker.json the broker's
// port and cluster id (offsets in the database are kept by that id).
//
// What the broker has acknowledged outlives this process, also by kill -9, and is synced to disk a moment later (flusher): a power failure may
// take the end of its log, which the pipeline makes good.
//
// Not obvious: the signal on the parent's death follows the thread that forked, not the process; so the goroutine that
// starts the child keeps its thread until the child has ended.
package embedded
