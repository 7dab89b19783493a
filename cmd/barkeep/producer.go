package main

type producerCmd struct{}

// Run runs the producer alone.
func (producerCmd) Run(g *globals) error { return command(g, "producer", roles{producer: true}) }
