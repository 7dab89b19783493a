// Package doctor looks at what barkeep depends on, and says what is wrong and what to do: the database, the broker, the sources and the
// clocks. It changes nothing. Each check is bounded in time and goes on to the next where one fails.
package doctor
