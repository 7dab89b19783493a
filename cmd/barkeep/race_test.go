//go:build race

package main

// comparedStatements is what there is time for beside the other packages: each takes four times as long as without the race detector, where
// `make differential` compares more.
const comparedStatements = 120

// mostOrders bounds the orders in which the steps of a spec of TestIsolation are run.
const mostOrders = 1
