package embedded

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
)

// ErrNone is returned by Find where no barkeep has ever served the folder.
var ErrNone = errors.New("the folder holds no database of barkeep's")

// Find returns where the database and the brokers are of the barkeep that serves a data folder: as of its last start, whether it runs
// now or not. The brokers are empty where it has none of its own.
func Find(dataDir, database string) (url string, brokers []string, err error) {
	var server record
	if err := readRecord(filepath.Join(dataDir, "postgres", "server.json"), &server); err != nil {
		return "", nil, err
	}
	var broker brokerRecord
	switch err := readRecord(filepath.Join(dataDir, "broker", "broker.json"), &broker); {
	case err == nil:
		brokers = []string{net.JoinHostPort("127.0.0.1", strconv.Itoa(broker.Port))}
	case !errors.Is(err, ErrNone):
		return "", nil, err
	}
	return childURL(server.Port, database), brokers, nil
}

func readRecord(path string, into any) error {
	text, err := readFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return ErrNone
	}
	if err != nil {
		return fmt.Errorf("look for a running barkeep: %w", err)
	}
	if err := json.Unmarshal(text, into); err != nil {
		return fmt.Errorf("read %s: %w", path, err)
	}
	return nil
}

// childURL is the address of a child over TCP.
func childURL(port int, database string) string {
	return fmt.Sprintf("postgres://postgres@127.0.0.1:%d/%s?sslmode=disable", port, database)
}
