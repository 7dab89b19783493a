// Package sim is a market that is computed: every bar is a pure function of symbol, timeframe and time, so that any range
// can be asked for without a network and what is right is known. It is served only by its prefix, sim:BTCUSD.
//
// Prices and volumes are multiples of 1/64, exact in float64 and in text. The open of a bar is the close of the one
// before, in and across timeframes; highs and lows belong to each timeframe alone.
package sim
