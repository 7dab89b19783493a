//go:build !linux

package main

import (
	"errors"
	"fmt"
)

var errProcessor = fmt.Errorf("read the processor time: %w", errors.ErrUnsupported)

// processorTime is known on Linux alone.
func (p *process) processorTime() (float64, error) { return 0, errProcessor }

func ownTime() (float64, error) { return 0, errProcessor }

func serverTime(int) (float64, error) { return 0, errProcessor }

func parentOf(int) (int, error) { return 0, errProcessor }
