// Package roster is where the barkeeps in front of one database know of each other: their sessions, and what one asks of the
// others.
//
// Each has one connection to the database, on which it listens, and which holds an advisory lock for as long as it is alive: that a
// barkeep is gone is known at once, and by nothing that would have to be written again and again. The sessions of a barkeep are
// in its memory. Only when somebody looks at the view barkeep.session are they written to a table: the view's function holds a lock
// shared, each barkeep tries every quarter of a second whether it can have that lock for itself, and writes its sessions when it
// cannot. Nothing is paid by statements, and next to nothing while nobody looks.
//
// What one asks of the others are rows of barkeep.errand, which only members of barkeep_service can read; a notification (anybody
// can listen, and notify) says that there is one, and nothing else.
//
// A cancel request whose key is not held here becomes an errand with a salted hash in place of the key. The barkeep that has the
// session finds it by comparing hashes, claims the errand, and deals with the request as with one that came to itself, so that it
// never hits the session's next statement; the asker waits for that. Nobody has claimed it after a short while: the asker takes it
// back and passes the request to the database itself. Exactly one of them does: the row's update, or its deletion, decides.
package roster
