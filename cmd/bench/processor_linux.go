package main

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// processorTime returns the seconds of user and system time so far (clock_getcpuclockid(3)).
func (p *process) processorTime() (float64, error) {
	const scheduled = 2 // CPUCLOCK_SCHED, of the whole process (linux/posix-timers.h)
	var t unix.Timespec
	if err := unix.ClockGettime(int32(^p.command.Process.Pid<<3|scheduled), &t); err != nil { //nolint:gosec // a pid has 22 bits (proc(5), pid_max)
		return 0, fmt.Errorf("read the processor time: %w", err)
	}
	return float64(t.Nano()) / 1e9, nil
}
