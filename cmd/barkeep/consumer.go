package main

type consumerCmd struct{}

// Run runs the consumer alone.
func (consumerCmd) Run(g *globals) error { return command(g, "consumer", roles{consumer: true}) }
