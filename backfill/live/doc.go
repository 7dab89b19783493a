// Package live reads the topics of live bars and hands their bars to those who listen: one reader for each series that
// somebody in this process listens to, however many they are.
//
// What a listener is promised:
//
//   - Final bars come in the order of their ts, none twice. A forming bar is never older than the last final one, and the
//     numbers (seq) of what a listener gets of one series ascend, also while two producers publish for a moment: a bar
//     that both of them have published is passed on once.
//   - Of the bar that forms, at most one state in Config.FormingEvery is passed on, always the newest, and no state that is
//     older than one passed on before; then the final bar, at once. A state that a newer one of its bar overtakes before
//     the listener has taken it is dropped without a word.
//   - Nothing else is dropped without a word. A listener that does not take its bars keeps at most Config.Backlog of them for each
//     series; where more come the oldest go, and the next thing it gets says how many went, from which seq to which.
//   - Nobody waits for a listener. Memory is bounded by listeners × series × backlog.
//
// A listener gets what comes from when its reader reads; what was published before is in the database.
//
// The states of a reader (actor.DynamicConsumer):
//
//	idle ──▶ subscribing ──▶ consuming ──▶ idle      (nobody listens any more)
//	             │               │
//	             └──▶ error ◀────┘  then subscribing again, after a pause that doubles from one failure to the next
//
// Subscribing is to have the Follower see to it that the topic is there. When the topic is removed or made anew, or the
// Follower has lost its interest, the reader subscribes again and reads on from the time of the last record that it has seen. While the broker
// is away the client of the broker tries again by itself, and goes on where it was.
package live
