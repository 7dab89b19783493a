// Package topic holds what the parts of the pipeline say to each other through the broker: the names and settings of the
// topics, the records and their encoding (PIPELINE 12–14).
//
// A record's value is one version byte and then a protobuf message, written by hand with protowire: bars stand in it as
// columns (times as differences, prices as packed doubles), so that a page of 8,192 bars is decoded without an allocation
// per bar. A reader accepts the version before its own. What names a record also stands in its headers, so that an
// unreadable record can still fail its job.
//
// Values are immutable once made; the functions are safe for concurrent use.
package topic
