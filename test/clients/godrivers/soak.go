package main

import (
	"bufio"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/lib/pq"
)

// soakPq has sessions of lib/pq do what `make soak` orders, as pysoak.py has it.
func soakPq() error {
	var out sync.Mutex
	sessions := map[string]chan []string{}
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		order := strings.Split(lines.Text(), "\t")
		orders := sessions[order[0]]
		if orders == nil {
			orders = make(chan []string, 16)
			sessions[order[0]] = orders
			number, err := strconv.Atoi(order[0])
			if err != nil {
				return fmt.Errorf("read an order: %w", err)
			}
			go (&soaker{number: number}).run(orders, &out) // ends with the process
		}
		orders <- order[1:]
	}
	return lines.Err()
}

// soaker is one session.
type soaker struct {
	number int
	db     *sql.DB
	conn   *sql.Conn
}

func (s *soaker) run(orders <-chan []string, out *sync.Mutex) {
	for order := range orders {
		answer := map[string]any{"session": s.number}
		rows, err := s.obey(order)
		var told *pq.Error
		switch {
		case err == nil:
			answer["rows"] = rows
		case errors.As(err, &told):
			answer["code"], answer["message"] = told.Code, told.Message
		case errors.Is(err, context.DeadlineExceeded):
			answer["code"], answer["message"] = "57014", "canceling statement due to user request"
		default:
			answer["code"], answer["message"] = "", err.Error()
		}
		line, err := json.Marshal(answer)
		if err != nil {
			panic(err)
		}
		out.Lock()
		fmt.Fprintln(os.Stdout, string(line))
		out.Unlock()
	}
}

func (s *soaker) obey(order []string) ([][]any, error) {
	ctx := context.Background()
	switch order[0] {
	case "connect":
		binary := []string{"no", "yes"}[s.number/10%2]
		connector, err := pq.NewConnector(fmt.Sprintf("host=%s port=%s user=%s dbname=%s application_name=%s sslmode=disable binary_parameters=%s connect_timeout=100",
			order[1], order[2], order[3], order[4], order[5], binary))
		if err != nil {
			return nil, err
		}
		s.db = sql.OpenDB(connector)
		s.conn, err = s.db.Conn(ctx)
		return [][]any{}, err
	case "ask":
		return s.ask(ctx, order[1], order[2], order[3:])
	}
	if s.conn != nil {
		_ = s.conn.Close()
		s.conn = nil
	}
	if s.db != nil {
		_ = s.db.Close()
	}
	return [][]any{}, nil
}

func (s *soaker) ask(ctx context.Context, after, text string, values []string) ([][]any, error) {
	if ms, err := strconv.Atoi(after); err != nil {
		return nil, err
	} else if ms > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, time.Duration(ms)*time.Millisecond)
		defer cancel()
	}
	arguments := make([]any, len(values))
	for i, value := range values {
		arguments[i] = value
		if i == 3 || i == 4 {
			at, err := time.Parse(time.RFC3339, value)
			if err != nil {
				return nil, err
			}
			arguments[i] = at
		}
	}
	rows, err := scan(s.conn.QueryContext(ctx, text, arguments...))
	if rows == nil && err == nil {
		rows = [][]any{}
	}
	return rows, err
}
