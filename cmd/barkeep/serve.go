package main

type serveCmd struct{}

// Run runs all parts in one process.
func (serveCmd) Run(g *globals) error {
	return command(g, "serve", roles{proxy: true, producer: true, consumer: true})
}
