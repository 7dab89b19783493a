// Package feed follows the bars of a vendor over WebSockets.
//
// A Socket holds as many connections as its instances need, each with at most Protocol.MaxInstances of them. One goroutine
// reads a connection; another subscribes, unsubscribes and pings:
//
//	wait for an instance → dial → subscribed → read … → broken → pause, growing → dial
//
// A connection is broken when it says so, when a ping is not answered, and when nothing at all came for Protocol.Silence: a feed
// that stands still looks like a market without trades. Who is told ticks hears nothing of a break, sees it by the times of the bars,
// and has to look at the clock anyway. A message that cannot be read is logged, counted and passed over for the same reason.
//
// Trades forms bars of what tells trades alone. There a break matters: it is told as an Event, and so is a message that cannot be read.
package feed
