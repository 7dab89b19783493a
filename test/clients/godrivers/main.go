// Command godrivers runs one Go driver's statements at one address and prints a JSON line for each case:
//
//	godrivers DRIVER URL FIRST_DAY
//	godrivers DRIVER URL hold STATEMENT
//	godrivers DRIVER URL live CHANNEL
//	godrivers pq soak
//
// Each case reads a day of its own, counted from FIRST_DAY, so that each meets a gap on an empty barkeep. What is
// printed is the answer only: the same lines must come from barkeep on a gap, on covered data and from PostgreSQL. With hold the
// cases end a STATEMENT that does not come to an end by itself; with live they are what comes on a CHANNEL.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"time"
)

const where = "symbol = 'sim:BTCUSD' and timeframe = '1m'"

// days hands out the first two hours of one day after the other.
type days struct{ at time.Time }

func (d *days) next() (start, end time.Time) {
	start = d.at
	d.at = d.at.AddDate(0, 0, 1)
	return start, start.Add(2 * time.Hour)
}

func (d *days) where() string {
	start, end := d.next()
	return fmt.Sprintf("%s and ts >= '%s' and ts < '%s'", where, start.Format(time.RFC3339), end.Format(time.RFC3339))
}

// failed carries an error of a driver out of a case.
type failed struct{ error }

// tell prints one answer.
func tell(name string, answer any, err error) {
	if err != nil {
		panic(failed{fmt.Errorf("%s: %w", name, err)})
	}
	line, err := json.Marshal(map[string]any{"case": name, "answer": answer})
	if err != nil {
		panic(failed{fmt.Errorf("%s: encode the answer: %w", name, err)})
	}
	fmt.Fprintln(os.Stdout, string(line))
}

// tellError prints the SQLSTATE that a statement was answered with.
func tellError(name string, err error) {
	var coded interface{ SQLState() string }
	if errors.As(err, &coded) {
		tell(name, coded.SQLState(), nil)
		return
	}
	tell(name, fmt.Sprint(err), nil)
}

func main() {
	err := run(os.Args)
	if err != nil {
		fmt.Fprintln(os.Stderr, "godrivers:", err)
		os.Exit(1)
	}
}

// recovered turns what tell panicked with into an error.
func recovered(err *error) {
	if r := recover(); r != nil {
		f, ok := r.(failed)
		if !ok {
			panic(r)
		}
		*err = f.error
	}
}

func run(args []string) (err error) {
	if len(args) == 3 && args[1] == "pq" && args[2] == "soak" {
		return soakPq()
	}
	if len(args) == 5 && args[3] == "hold" {
		return runHold(args[1], args[2], args[4])
	}
	if len(args) == 5 && args[3] == "live" {
		return runLive(args[1], args[2], args[4])
	}
	if len(args) != 4 {
		return errors.New("usage: godrivers pgx|pq URL FIRST_DAY, or godrivers pgx|pq URL hold STATEMENT")
	}
	first, err := time.Parse(time.DateOnly, args[3])
	if err != nil {
		return fmt.Errorf("read the first day: %w", err)
	}
	defer recovered(&err)
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	switch d := (&days{first}); args[1] {
	case "pgx":
		return runPgx(ctx, args[2], d)
	case "pq":
		return runPq(ctx, args[2], d)
	default:
		return fmt.Errorf("unknown driver %q", args[1])
	}
}
