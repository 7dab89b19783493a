package main

import "context"

// startParts starts what the roles name: consumer, producer, coordinator and catalog, proxy.
func (a *app) startParts(context.Context) error {
	return nil
}
