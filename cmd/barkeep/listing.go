package main

import (
	"os"

	"barkeep/internal/roster"
	"barkeep/proxy"
)

// listing is the proxy as the roster of barkeeps asks for it.
type listing struct{ *proxy.Server }

// Sessions lists those that the database knows.
func (l *listing) Sessions() []roster.Session {
	var list []roster.Session
	for _, s := range l.List() {
		if s.PID == 0 {
			continue
		}
		list = append(list, roster.Session{
			Number: s.Number, PID: s.PID, User: s.User, Database: s.Database, Client: s.Client, Application: s.Application, State: s.State,
			Started: s.Since, Since: s.Changed, WaitsFor: s.WaitsFor, Bars: s.Bars, Live: s.Live,
		})
	}
	return list
}

// instanceName tells this barkeep from others, for people.
func (a *app) instanceName() string {
	host, err := os.Hostname()
	if err != nil {
		host = "?"
	}
	return host + " " + a.listeners[0].Addr().String()
}
