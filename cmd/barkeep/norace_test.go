//go:build !race

package main

// comparedStatements is how many statements a run compares, unless -rapid.checks says how often one is drawn for each market.
const comparedStatements = 2000

// mostOrders bounds the orders in which the steps of a spec of TestIsolation are run.
const mostOrders = 6
