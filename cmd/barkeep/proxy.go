package main

type proxyCmd struct{}

// Run runs the proxy alone.
func (proxyCmd) Run(g *globals) error { return command(g, "proxy", roles{proxy: true}) }
