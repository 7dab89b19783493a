// Package netloop serves many connections from few goroutines, each of which waits on one epoll instance (epoll(7)).
//
// A goroutine for each direction of each connection costs two passes through the scheduler and one fruitless read a
// message; a relay of short messages spends as much on that as on the messages. A Loop reads the sockets that are ready one
// after the other, as an event loop in C does.
//
// A Conn is a net.Conn: Read and Write block, with deadlines, and may be called by any goroutine. Besides, its owner may
// have it watched: then the loop's goroutine calls back when the connection can be read or written, and TryRead and
// TryWrite do what can be done without waiting. A callback must not block: all connections of the loop wait for it.
//
// The kernel tells of each change once (EPOLLET), which spares it to look at each socket a second time before the next wait. To the
// owner it is as if it told of what is there: what a callback leaves, or what may be left as the socket was not found empty (epoll(7),
// questions 9 and 10), the loop has told again. An end of stream is data like any other: it is found by the next TryRead.
//
// It works on Linux. Elsewhere New returns errors.ErrUnsupported.
package netloop
