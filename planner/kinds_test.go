package planner

import (
	"strings"
	"testing"

	"github.com/jackc/pgx/v5" //nolint:depguard // the test asks PostgreSQL itself
)

// closure is what the catalog says of the views that fillViews makes.
var closure = &Catalog{ //nolint:gochecknoglobals // a table
	Version: 1,
	Names:   map[string]struct{}{"bars": {}, "newest": {}, "picked": {}, "listed": {}},
	Views: map[string]string{
		"bars":   "select * from ohlcv where close < 22",
		"newest": "select symbol, timeframe, max(ts) as ts, count(*) as n from ohlcv group by symbol, timeframe",
		"picked": "select symbol, timeframe, ts, close from ohlcv where symbol in (select symbol from pg_temp.picks where n < 3) and not symbol in (select symbol from pg_temp.picks where owner = 'you' and symbol is not null order by n limit 1)",
		"listed": "with w as (select * from pg_temp.picks where n <> 2) select o.symbol, o.timeframe, o.ts, w.n from ohlcv o join w on o.symbol = coalesce(w.symbol, 'AA') where o.ts > w.at - interval '1 day'",
	},
}

// fillViews makes views over the bars.
func fillViews(t *testing.T, conn *pgx.Conn) {
	t.Helper()
	for name, sql := range closure.Views {
		mustExec(t, conn, "create temp view "+name+" as "+sql)
	}
}

// unbound draws a statement without parameters.
func (g *grammar) unbound(draw func() string) string {
	for {
		before := len(g.params)
		sql := draw()
		if len(g.params) == before {
			return sql
		}
		g.params = g.params[:before]
	}
}

// kinds are statements that write the user's own table, and say what they wrote (PLANNER 7).
func (g *grammar) kinds() string {
	series := g.series("o.") + g.pick("", " and "+g.leaf("o."))
	bare := g.series("") + g.pick("", " and "+g.leaf(""))
	insert := "insert into picks (symbol, tf, at) select symbol, timeframe, ts from ohlcv where " + bare + g.pick("", " order by ts, symbol limit 3")
	switch g.IntN(14) {
	case 9, 10, 11, 12, 13:
		return g.intoPicks()
	case 0:
		return insert + " returning symbol, at"
	case 1:
		return "with w as (" + insert + " returning symbol, at) select " + g.pick("*", "count(*)", "max(at)") + " from w" + g.pick("", " where symbol = 'A'", " where at > "+g.time())
	case 2:
		return "with w as (" + insert + " returning 1) select count(*) from picks" + g.pick("", ", w")
	case 3:
		return "update picks p set n = 9 from ohlcv o where " + series + g.pick(" and p.symbol = o.symbol", " and p.at = o.ts", " and o.ts > p.at and p.n < 3") + " returning p.symbol, p.owner, p.n"
	case 4:
		return "update picks set n = (select count(*) from ohlcv where " + bare + ")" + g.pick("", " where at < (select max(ts) from ohlcv where "+g.series("")+")") + " returning symbol, n"
	case 5:
		return "delete from picks p using ohlcv o where " + series + g.pick(" and p.symbol = o.symbol", " and p.at > o.ts", " and p.at = o.ts + interval '1 hour'") + " returning p.symbol, p.n"
	case 6:
		return "merge into picks p using (select symbol, " + g.pick("max", "min") + "(ts) as ts from ohlcv where " + bare + " group by symbol) o on p.symbol = o.symbol and " + g.pick("o.ts >= ", "o.ts < ") + g.time() +
			g.pick(" when matched then update set at = o.ts", " when matched then do nothing") + " when not matched then insert (symbol, at, n) values (o.symbol, o.ts, 7) returning merge_action(), p.symbol, p.n, p.at"
	case 7:
		return "merge into picks p using (select * from ohlcv where " + g.pick("timeframe = '1d'", bare) + ") o on o.symbol = p.symbol and " + g.series("o.") + " when matched then do nothing when not matched then insert (symbol, at, n) values (o.symbol, o.ts, 7) returning p.symbol, p.at"
	default:
		return "insert into picks (symbol, n) values ('X', (select count(*) from ohlcv where " + bare + ")) returning symbol, n" + g.pick("", ", (select max(ts) from ohlcv where "+g.series("")+")")
	}
}

// intoPicks changes a table of the user's that alone says which symbols and times are read (PLANNER 19).
func (g *grammar) intoPicks() string {
	match := g.pick("p.symbol = o.symbol", "o.symbol = p.symbol") + " and o.timeframe = " + g.pick("'1h'", "'1d'", "p.tf") +
		g.pick("", " and o.ts >= p.at", " and o.ts < p.at", " and o.ts::date = p.day", " and o.ts = p.at")
	filter := g.pick("", " and p.n < 3", " and p.owner = 'me'", " and p.n = "+g.constant("2"), " and "+g.leaf("o."))
	last := "(select " + g.pick("max", "min", "count") + "(o.close) from ohlcv o where " + match + ")"
	switch g.IntN(7) {
	case 0:
		return "update picks p set n = o.close" + g.pick("", ", symbol = 'B'") + " from ohlcv o where " + match + filter + " returning p.symbol, p.owner" +
			g.pick("", ", (select max(x.close) from ohlcv x where x.symbol = "+g.pick("p", "o")+".symbol and x.timeframe = '1d')")
	case 1:
		return "update picks p set n = " + last + g.pick("", " where p.n < 3", " where p.at > "+g.time()) + " returning p.symbol, p.n"
	case 2:
		return "delete from picks p using ohlcv o where " + match + filter + " returning p.symbol, p.n"
	case 3:
		return "delete from only picks p where " + g.pick("", "not ") + "exists (select 1 from ohlcv o where " + match + filter + ") returning p.symbol, p.n"
	case 4:
		return "with w as (update picks set n = n + 1 where owner = 'me' returning *) delete from picks p using ohlcv o" + g.pick("", ", w") + " where " + match + filter + " returning p.symbol, p.n"
	}
	missing := g.pick("", " when not matched by source then delete", " when not matched then insert (symbol, at, n) values (o.symbol, o.ts, 7)",
		" when not matched by target and o.ts < "+g.time()+" then insert (symbol, n) values (o.symbol, "+strings.ReplaceAll(last, "p.", "o.")+")")
	source := g.pick("ohlcv", "(select symbol, timeframe, min(ts) as ts, max(close) as close from ohlcv group by symbol, timeframe, ts::date)", "(select * from ohlcv where "+g.series("")+")")
	matched := " when matched" + g.pick("", "", " and p.n < 3") + " then " + g.pick("update set n = "+last, "update set n = p.n + 1", "delete", "do nothing")
	return "merge into picks p using " + source + " o on " + match + filter + " and o.ts = (select max(x.ts) from ohlcv x where x.symbol = p.symbol and x.timeframe = " + g.pick("p.tf", "'1d'") + ")" +
		matched + missing + " returning merge_action(), p.symbol, p.n" + g.pick("", ", (select max(x.close) from ohlcv x where x.symbol = coalesce(o.symbol, 'C') and x.timeframe = '1d')")
}

// spelled names ohlcv in other ways, by a view over it, or by a name that hides it (PLANNER 3 and 6).
func (g *grammar) spelled() string {
	where := g.series("") + g.pick("", " and "+g.leaf(""), " and ts < "+g.time())
	plain := "select symbol, timeframe, ts from ohlcv where " + where
	switch g.IntN(16) {
	case 13:
		return "select * from picked where timeframe = " + g.pick("'1h'", "'1d'") + " and " + g.leaf("")
	case 14:
		return "select * from listed where timeframe = " + g.pick("'1h'", "'1d'") + g.pick("", " and n < 3", " and symbol = 'A'", " and symbol in (select symbol from picks where owner = 'me')", " and ts > "+g.time())
	case 15:
		return "select l.symbol, l.ts, p.n from listed l " + g.pick("join", "left join", "full join") + " picks p on p.symbol = l.symbol and l.timeframe = " + g.pick("p.tf", "'1d'") + " where " + g.pick("p.n < 3", "l.timeframe = '1h'")
	case 12:
		g.escapes = true
		return "select symbol, ts from ohlcv where symbol in ('A', 'B') and timeframe = '1d' and not (symbol " + g.pick("<> ", "= ") + g.pick(`'\102'`, `E'\101'`, `'\x41'`) + ")"
	case 0, 1:
		return strings.ReplaceAll(plain, " ohlcv ", g.pick(` OHLCV `, ` "ohlcv" `, ` U&"\006fhlcv" `, ` U&"!006fhlcv" uescape '!' `, " pg_temp.ohlcv ", " only ohlcv ", " /* o */ ohlcv* "))
	case 2, 3:
		return strings.ReplaceAll(plain, " ohlcv ", g.pick(" bars ", " bars ", ` "bars" `, " BARS "))
	case 4:
		return "select * from newest where " + g.pick("symbol = 'A'", "symbol in ('A', 'B')") + " and timeframe = " + g.pick("'1h'", "'1d'") + g.pick("", " and ts > "+g.time(), " and n > 3")
	case 5:
		return "select b.symbol, b.ts from bars b " + g.pick("join", "left join") + " newest n on n.symbol = b.symbol and n.timeframe = b.timeframe and b.ts " + g.pick("=", "<", ">") + " n.ts where " +
			g.series("b.") + g.pick("", " and n.ts > "+g.time())
	case 6:
		return "with ohlcv as (" + plain + ") select * from " + g.pick("ohlcv", "ohlcv", "pg_temp.ohlcv") + " where " + g.series("") + " and ts >= " + g.time()
	case 7:
		return "with w as (" + plain + "), ohlcv as (select * from w where ts >= " + g.time() + ") select w.ts, ohlcv.symbol from w " + g.pick("join", "left join") + " ohlcv using (ts)"
	case 8:
		return "with w(s, ts, t) as (select symbol, ts - interval '1 day', ts from ohlcv where " + where + ") select * from w where ts " + g.pick("<", ">=") + " " + g.time()
	case 9:
		return "select * from (with ohlcv as (select * from picks) select symbol from ohlcv where n < 3) p join ohlcv o on o.symbol = p.symbol where " + g.series("o.")
	case 10:
		return "select query_to_xml(" + quote(g.unbound(func() string { return "select count(*) from ohlcv where " + g.series("") })) + ", true, false, '')"
	default:
		return "select * from (select symbol, timeframe, ts from ohlcv where " + where + g.pick("", " order by ts, symbol limit 5") + g.pick(" for update", " for share", " for update skip locked") + ") x where ts " + g.pick("<", ">=") + " " + g.time()
	}
}

// segments are several statements of one Query, of which some change what those after them mean (PLANNER 8).
func (g *grammar) segments() string {
	return g.unbound(func() string {
		zone := g.pick("Asia/Tokyo", "America/New_York", "UTC")
		set := g.pick("set timezone = '"+zone+"'", "set time zone '"+zone+"'", "set local timezone to '"+zone+"'", "reset timezone", "set time zone 9", "set time zone interval '-5 hours' hour to minute",
			"select set_config('TimeZone', '"+zone+"', true)", "select set_config('timezone', '"+zone+"', false) from (select 1 where false) x",
			"select set_config('timezone', 'Asia/Tokyo', false) from generate_series(2, 1)", "select set_config('timezone', 'America/New_York', false) from (select limit 0) x", "set datestyle = 'SQL, DMY'",
			"do $$ begin perform set_config('timezone', '"+zone+"', false); end $$", "select 1", "select count(*) from picks")
		clock := "'" + g.pick("2026-11-01 00:00", "2026-11-01", "02/11/2026 00:00", "11/02/2026") + "'"
		read := "select symbol, ts from ohlcv where " + g.series("") + " and " +
			g.pick("ts", "ts", "ts::timestamp", "date_trunc('day', ts)", "ts::date") + g.pick(" >= ", " < ", " = ") + clock + g.pick("", "::timestamp", "::timestamptz")
		switch g.IntN(5) {
		case 0:
			read = g.zoned()
		case 1: // a date that is read by the order of its fields
			set = g.pick("set datestyle = 'SQL, DMY'", "set datestyle to ISO, DMY", "set local datestyle = 'ISO, YMD'", "select set_config('datestyle', 'ISO, DMY', true)")
			read = "select symbol, ts from ohlcv where " + g.series("") + " and ts" + g.pick(" >= ", " < ") + g.pick("'02/11/2026 00:00'", "'11/02/2026'", "'01/11/2026'::date", "'03-11-2026'::timestamp")
		}
		switch g.IntN(9) {
		case 0:
			return "create temp table kept as " + read + "; " + set + "; select count(*), max(ts) from kept"
		case 1, 8: // what it computes of ts it computes by the zone of its FETCH
			if g.IntN(2) == 0 {
				set = "set timezone = '" + zone + "'"
				read = "select symbol, ts from ohlcv where " + g.series("") + " and " + g.pick("ts::timestamp", "ts::date", "date_trunc('day', ts)") + g.pick(" >= ", " < ") + "'2026-11-01'"
			}
			return "declare k cursor for " + read + "; " + set + "; fetch all from k"
		case 2:
			return "prepare p as " + read + "; " + set + "; execute p; deallocate p"
		case 3:
			return "create temp view seen as " + read + "; " + set + "; select count(*) from seen"
		case 4:
			return "insert into picks (symbol) values ('AA'); select symbol, ts from ohlcv where timeframe = '1d' and symbol in (select symbol from picks where n is null)"
		}
		return set + "; " + read + g.pick("", "; "+set, "; "+strings.ReplaceAll(read, "symbol, ts", "count(*)"))
	})
}
