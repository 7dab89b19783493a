package sourcetest

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// Recordings returns the folder of real recordings, and skips the test where there is none.
func Recordings(tb testing.TB) string {
	tb.Helper()
	dir := os.Getenv("BARKEEP_TEST_DATA")
	if dir == "" {
		tb.Skip("no recordings")
	}
	return dir
}

// Recording is one answer as a vendor sent it.
type Recording struct {
	Status  int
	Headers map[string]string
	Body    json.RawMessage
}

// Recorded reads one recording; names are the parts of its path below the folder.
func Recorded(tb testing.TB, names ...string) Recording {
	tb.Helper()
	text, err := os.ReadFile(filepath.Join(append([]string{Recordings(tb)}, names...)...))
	require.NoError(tb, err)
	var r Recording
	require.NoError(tb, json.Unmarshal(text, &r))
	if len(r.Body) == 0 {
		r = Recording{Status: http.StatusOK, Body: text}
	}
	return r
}

// Answering serves text to every request and returns the URL.
func Answering(tb testing.TB, text string) string {
	tb.Helper()
	return Replay(tb, Recording{Status: http.StatusOK, Body: json.RawMessage(text)})
}

// Replay serves r to every request and returns the URL.
func Replay(tb testing.TB, r Recording) string {
	tb.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if cache := r.Headers["Cache-Control"]; cache != "" {
			w.Header().Set("Cache-Control", cache)
		}
		w.WriteHeader(r.Status)
		_, _ = w.Write(r.Body) // the client's trouble
	}))
	tb.Cleanup(server.Close)
	return server.URL
}
