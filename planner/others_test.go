package planner

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// PLANNER 6: a table named ohlcv in another schema is ours only in doubt.
func TestOtherTables(t *testing.T) {
	t.Parallel()
	others := map[string]struct{}{"app": {}, "My App": {}}
	known := &Catalog{Version: 1, Others: others}
	for text, reads := range map[string]bool{
		"select * from app.ohlcv":                                                   false,
		`select * from "My App".ohlcv`:                                              false,
		"insert into app.ohlcv values ('x')":                                        false,
		"update app.ohlcv set close = 1":                                            false,
		"delete from app.ohlcv using app.ohlcv b":                                   false,
		"merge into app.ohlcv o using app.ohlcv p on true when matched then delete": false,
		"truncate app.ohlcv":                                                        false,
		"copy app.ohlcv to stdout":                                                  false,
		"copy app.ohlcv from stdin":                                                 false,
		"select * from app.ohlcv, ohlcv":                                            true,
		"select * from APP.ohlcv":                                                   false,
		`select * from "APP".ohlcv`:                                                 true,
		"select * from second.ohlcv":                                                true,
		"select * from public.ohlcv":                                                true,
		"select * from ohlcv":                                                       true,
		"select * from pg_temp.ohlcv":                                               true,
		"select * from test.app.ohlcv":                                              true,
		"insert into ohlcv select * from app.ohlcv":                                 true,
		"insert into app.ohlcv select * from ohlcv":                                 true,
		"alter table app.ohlcv rename to b; select * from app.ohlcv":                true,
		"select 1; insert into app.ohlcv values ('x')":                              true,
	} {
		require.Equal(t, reads, Prepare(text, nil, Env{Catalog: known, ClientEncoding: "UTF8"}).Reads(), text)
		require.True(t, Prepare(text, nil, Env{Catalog: known.With(2, "x"), ClientEncoding: "UTF8"}).Reads(), text)
	}
}
