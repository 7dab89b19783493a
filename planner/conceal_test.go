package planner

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// withDefiners is a catalog in which make_it defines something out of sight, orders has a trigger that does, plain is a table and shown a view.
func withDefiners() *Catalog {
	known := map[string]bool{"plain": true, "orders": true, "count": true, "max": true, "int4": true, "=": true, ">": true, "ohlcv": true}
	return &Catalog{
		Version: 1, Definers: map[string]struct{}{"make_it": {}, "orders": {}}, Users: map[string]struct{}{"make_it": {}, "other": {}},
		Known: func(name string) bool { return known[name] },
	}
}

// TestRule3_WhatConceals: what may define something that its text does not show.
func TestRule3_WhatConceals(t *testing.T) {
	t.Parallel()
	c := withDefiners()
	for text, want := range map[string]bool{
		"select make_it()": true, `select public."make_it"()`: true, "insert into orders values (1)": true, "call make_it()": true, "select 1": false,
		"do 'begin perform make_it(); end'": true, "do 'begin execute q; end'": true, "do 'begin perform 1; end'": false,
		"insert into plain values (1) on conflict do nothing": false, "execute p": true, "explain analyze execute p(1)": true, "create table t as execute p": true,
		"create trigger t before insert on plain for each row execute function touch()": false, "grant execute on function f to me": false,
		"create trigger t before insert on plain for each row execute procedure make_it()": true,
		"create function f() returns int language sql as 'select 1'":                       false,
		"create function f() returns int language plpgsql as 'begin execute q; end'":       true,
		"create or replace procedure f() language plpgsql as 'begin drop table x; end'":    true,
		"create function f() returns int language plperl as 'spi_exec_query(1)'":           true,
		"set constraints all immediate":                                                    true,
		"create view v as select 1":                                                        false, "select 1; do 'begin drop table x; end'": true, "": false,
	} {
		require.Equal(t, want, c.Conceals(text), text)
	}
	require.False(t, (*Catalog)(nil).Conceals("select make_it()"))
	c.Definers["create"] = struct{}{}
	require.True(t, c.Conceals("create view v as select 1"), "an event trigger defines something")
}

// TestRule3_WhatIsSettledBehindWhatConceals: of a Query, a statement behind one that may conceal a definition is opaque unless all that it
// uses is known to have none.
func TestRule3_WhatIsSettledBehindWhatConceals(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]bool{
		"select make_it(); select * from plain": true, "select make_it(); select count(*) from plain p, orders o where p.x = o.x": true,
		"select make_it(); select * from hidden": false, "select make_it(); select * from shown": false, "select make_it(); select other()": false,
		"select make_it(); select make_it()": true, "select make_it('hidden'); select * from hidden": false, "select make_it(); select hidden()": false,
		"select make_it(); select 1::hidden": false, "select make_it(); select 1 === 2": false, "select * from hidden; select make_it()": true,
		"select make_it(); commit; select * from hidden": false, "insert into orders values (1); insert into orders values (2)": true,
		"insert into orders values (1); update hidden set x = 1": false, "select make_it(); with hidden as (select 1) select * from hidden": true,
		"select make_it(); begin; set work_mem = '1MB'; show work_mem; rollback": true, "select make_it(); execute p": false, "select make_it(); do 'begin end'": false,
		"select make_it(); create table t (a int); insert into t values (1); select * from t":                          true,
		"create view v as select 1; select make_it(); select * from v":                                                 true,
		"select make_it(); create view v as select * from hidden":                                                      true,
		"select make_it(); create view v as select * from hidden; select * from v":                                     false,
		"select make_it(); create view v as select * from plain; select * from v":                                      true,
		"select make_it(); create function f() returns int language sql as '1'; select f()":                            false,
		"select make_it(); create table t as select * from hidden":                                                     false,
		"select make_it(); alter table plain add column a int default hidden()":                                        false,
		"select make_it(); create index on part (a); alter table part add column b int":                                true,
		"select make_it(); copy hidden to stdout":                                                                      false,
		"select make_it(); truncate plain":                                                                             true,
		"select make_it(); refresh materialized view hidden":                                                           false,
		"select make_it(); explain select * from hidden":                                                               true,
		"select make_it(); explain analyze select * from hidden":                                                       false,
		"create function again() returns int language sql as 'select make_it()'; select again(); select * from hidden": false,
		"create table t as select make_it(); select * from hidden":                                                     false,
		"select 1; select * from hidden":                                                                               true,
	} {
		template := Prepare(text, nil, Env{Catalog: withDefiners()})
		require.NoError(t, template.ParseErr, text)
		require.Equal(t, !want, template.Reads(), text)
	}
	for text, want := range map[string]bool{
		"select * from plain": true, "select * from hidden": false, "select count(*) from ohlcv where x = 1": true, "commit": true, "fetch c": true,
		"select (": false, "select make_it()": false,
	} {
		require.Equal(t, want, NewCache(1).Settled(text, Env{Catalog: withDefiners()}), text)
	}
	require.False(t, NewCache(1).Settled("select 1", Env{NonStandardStrings: true}))
}
