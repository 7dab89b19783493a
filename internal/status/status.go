// Package status serves what a person or a monitor wants to know: a page with actors, sessions, coverage and jobs,
// /metrics in Prometheus form, /healthz (the process answers) and /readyz (its dependencies do).
//
// The page and the metrics ask for a token where one is configured, as `Authorization: Bearer …` or `?token=…`; health
// and readiness never do, and say nothing beyond a word and the names of what is not ready. The page holds no secrets:
// whoever fills it passes names, states and numbers only.
package status

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"crypto/subtle"
	_ "embed"
	"errors"
	"fmt"
	"html/template"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

const (
	// readTimeout bounds a request's head and body, all of which are small.
	readTimeout = 10 * time.Second
	// answerTimeout bounds what a page or a check may take.
	answerTimeout = 5 * time.Second
)

// Actor is one state machine and where it is.
type Actor struct {
	Kind, ID, State string
	Since           time.Time
}

// Session is one client's session.
type Session struct {
	ID, User, Database, Client, State string
	Since                             time.Time
	// Live names the live bars that it gets.
	Live string
}

// Series is the coverage of one series.
type Series struct {
	Symbol, Timeframe, Source, State string
	Start, End                       time.Time
	Segments                         int64
}

// Job is one job.
type Job struct {
	ID, Symbol, Timeframe, State, Source, Error string
	Start, End, Asked                           time.Time
	Done, Total                                 int64
}

// Config says what a Server shows. Each function may be nil: its part of the page is left out.
type Config struct {
	// Title and Version head the page.
	Title, Version string
	// Token, where not empty, is asked for by the page and the metrics.
	Token string
	// Metrics is what /metrics shows; nil shows none.
	Metrics prometheus.Gatherer
	// Actors, Sessions, Coverage and Jobs fill the page.
	Actors   func() []Actor
	Sessions func() []Session
	Coverage func(context.Context) ([]Series, error)
	Jobs     func(context.Context) ([]Job, error)
	// Ready holds a check for each dependency, by its name.
	Ready map[string]func(context.Context) error
	// Log may be nil.
	Log *slog.Logger
	// Now is time.Now where nil.
	Now func() time.Time
}

// Server is safe for concurrent use.
type Server struct{ cfg Config }

// New returns a server that serves nothing yet.
func New(cfg Config) *Server {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	return &Server{cfg: cfg}
}

// Handler returns the routes.
func (s *Server) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { answer(w, http.StatusOK, "ok\n") })
	mux.HandleFunc("GET /readyz", s.ready)
	mux.Handle("GET /{$}", s.guarded(http.HandlerFunc(s.page)))
	if s.cfg.Metrics != nil {
		mux.Handle("GET /metrics", s.guarded(promhttp.HandlerFor(s.cfg.Metrics, promhttp.HandlerOpts{})))
	}
	return mux
}

// Serve answers on listener until ctx ends, then closes it. It waits for the requests in hand.
func (s *Server) Serve(ctx context.Context, listener net.Listener) error {
	server := &http.Server{Handler: s.Handler(), ReadTimeout: readTimeout, WriteTimeout: 2 * readTimeout, ErrorLog: slog.NewLogLogger(s.cfg.Log.Handler(), slog.LevelDebug)}
	stopped := make(chan error, 1)
	done, cancel := context.WithCancel(ctx)
	go func() {
		<-done.Done()
		grace, end := context.WithTimeout(context.WithoutCancel(ctx), answerTimeout)
		defer end()
		stopped <- server.Shutdown(grace)
	}()
	err := server.Serve(listener)
	cancel()
	if stopErr := <-stopped; stopErr != nil {
		_ = server.Close()
	}
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return fmt.Errorf("serve the status page: %w", err)
}

func (s *Server) guarded(next http.Handler) http.Handler {
	if s.cfg.Token == "" {
		return next
	}
	want := sha256.Sum256([]byte(s.cfg.Token))
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		shown := r.URL.Query().Get("token")
		if bearer, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer "); ok {
			shown = bearer
		}
		got := sha256.Sum256([]byte(shown))
		if subtle.ConstantTimeCompare(want[:], got[:]) != 1 {
			w.Header().Set("WWW-Authenticate", `Bearer realm="barkeep"`)
			answer(w, http.StatusUnauthorized, "show the token of status.token: Authorization: Bearer …\n")
			return
		}
		next.ServeHTTP(w, r)
	})
}

func (s *Server) ready(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), answerTimeout)
	defer cancel()
	var (
		checks  sync.WaitGroup
		mu      sync.Mutex
		missing []string // guarded by mu
	)
	for name, check := range s.cfg.Ready { // at one time: one that hangs does not use up the time of the others
		checks.Go(func() {
			if err := check(ctx); err != nil {
				s.cfg.Log.DebugContext(ctx, "not ready", slog.String("dependency", name), slog.Any("error", err))
				mu.Lock()
				defer mu.Unlock()
				missing = append(missing, name)
			}
		})
	}
	checks.Wait()
	if len(missing) > 0 {
		slices.Sort(missing)
		answer(w, http.StatusServiceUnavailable, "not ready: "+strings.Join(missing, ", ")+"\n")
		return
	}
	answer(w, http.StatusOK, "ready\n")
}

func answer(w http.ResponseWriter, code int, text string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(code)
	_, _ = w.Write([]byte(text)) // the client's loss
}

//go:embed page.html
var pageText string

var pageTemplate = template.Must(template.New("page").Funcs(template.FuncMap{
	"utc": func(t time.Time) string {
		if t.IsZero() {
			return ""
		}
		return t.UTC().Format("2006-01-02 15:04:05")
	},
	"percent": func(done, total int64) string {
		if total <= 0 {
			return ""
		}
		return fmt.Sprintf("%d %%", min(100, done*100/total))
	},
}).Parse(pageText))

type pageData struct {
	Title, Version string
	Now            time.Time
	Actors         []Actor
	Sessions       []Session
	Coverage       []Series
	Jobs           []Job
	Problems       []string
}

func (s *Server) page(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), answerTimeout)
	defer cancel()
	data := pageData{Title: s.cfg.Title, Version: s.cfg.Version, Now: s.cfg.Now()}
	if s.cfg.Actors != nil {
		data.Actors = s.cfg.Actors()
		slices.SortFunc(data.Actors, func(a, b Actor) int { // partition 2 before partition 10
			return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(len(a.ID), len(b.ID)), cmp.Compare(a.ID, b.ID))
		})
	}
	if s.cfg.Sessions != nil {
		data.Sessions = s.cfg.Sessions()
	}
	if s.cfg.Coverage != nil {
		var err error
		if data.Coverage, err = s.cfg.Coverage(ctx); err != nil {
			s.cfg.Log.WarnContext(ctx, "coverage could not be read for the status page", slog.Any("error", err))
			data.Problems = append(data.Problems, "coverage could not be read; the log says why")
		}
	}
	if s.cfg.Jobs != nil {
		var err error
		if data.Jobs, err = s.cfg.Jobs(ctx); err != nil {
			s.cfg.Log.WarnContext(ctx, "jobs could not be read for the status page", slog.Any("error", err))
			data.Problems = append(data.Problems, "jobs could not be read; the log says why")
		}
	}
	var page bytes.Buffer
	if err := pageTemplate.Execute(&page, data); err != nil {
		s.cfg.Log.ErrorContext(ctx, "status page could not be made", slog.Any("error", err))
		answer(w, http.StatusInternalServerError, "the page could not be made; the log says why\n")
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.Header().Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'")
	w.Header().Set("Referrer-Policy", "no-referrer")
	_, _ = page.WriteTo(w) // the client's loss
}
