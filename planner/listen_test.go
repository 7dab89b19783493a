package planner

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestListens(t *testing.T) {
	t.Parallel()
	for text, want := range map[string][]string{
		`LISTEN "ohlcv.BTCUSD.1m"`:                           {"ohlcv.BTCUSD.1m"},
		`listen"ohlcv.BTCUSD.1M";`:                           {"ohlcv.BTCUSD.1M"},
		"/* listen a */ begin; -- \n Listen A; LISTEN \"b\"": {"a", "b"},
		`LISTEN "with ""quotes"""`:                           {`with "quotes"`},
		`LISTEN U&"\006f"`:                                   nil,
		`select 'listen a; listen b'`:                        nil,
		`select listen from x; unlisten a`:                   nil,
		`"listen" a`:                                         nil,
		`LISTEN`:                                             nil,
	} {
		require.Equal(t, want, Listens(text), text)
	}
	for text, want := range map[string]bool{
		"LISTEN a": true, "unListen *": true, "DISCARD ALL": true, "do $$ begin execute 'listen a'; end $$": true, "select 1": false,
	} {
		require.Equal(t, want, MayListen(text), text)
	}
}
