//go:build !linux

package main

import (
	"errors"
	"fmt"
)

// processorTime is known on Linux alone.
func (p *process) processorTime() (float64, error) {
	return 0, fmt.Errorf("read the processor time: %w", errors.ErrUnsupported)
}
