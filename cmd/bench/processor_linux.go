package main

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// processorTime returns the seconds of user and system time so far (clock_getcpuclockid(3)).
func (p *process) processorTime() (float64, error) {
	const scheduled = 2                                        // CPUCLOCK_SCHED, of the whole process (linux/posix-timers.h)
	return clock(int32(^p.command.Process.Pid<<3 | scheduled)) //nolint:gosec // a pid has 22 bits (proc(5), pid_max)
}

// ownTime is that of this process.
func ownTime() (float64, error) { return clock(unix.CLOCK_PROCESS_CPUTIME_ID) }

func clock(id int32) (float64, error) {
	var t unix.Timespec
	if err := unix.ClockGettime(id, &t); err != nil {
		return 0, fmt.Errorf("read the processor time: %w", err)
	}
	return float64(t.Nano()) / 1e9, nil
}

// serverTime returns the seconds of a process and all its children, those that have ended too.
func serverTime(pid int) (float64, error) {
	own, err := readStat(pid)
	if err != nil {
		return 0, err
	}
	total := own.time + own.waited
	processes, err := os.ReadDir("/proc")
	if err != nil {
		return 0, fmt.Errorf("read the processes: %w", err)
	}
	for _, entry := range processes {
		child, err := strconv.Atoi(entry.Name())
		if err != nil {
			continue
		}
		if s, err := readStat(child); err == nil && s.parent == pid { // else it has just ended
			total += s.time + s.waited
		}
	}
	return total, nil
}

// parentOf returns the parent of a session's process: the server's own. A server on another machine, or in a container, may name a
// process that is somebody else's here.
func parentOf(pid int) (int, error) {
	title, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	if err != nil || !bytes.Contains(title, []byte("postgres: ")) {
		return 0, fmt.Errorf("find the database's processes: %d is none of this machine's", pid)
	}
	s, err := readStat(pid)
	return s.parent, err
}

// stat is what proc(5) says of a process: its parent, and in seconds its time and that of the children it has waited for.
type stat struct {
	parent       int
	time, waited float64
}

func readStat(pid int) (s stat, err error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return s, fmt.Errorf("read the processor time: %w", err)
	}
	const ticks = 100 // USER_HZ, a second
	// "pid (name) state ppid …": a name may hold blanks and parentheses. Of the fields behind it, ppid is the second, utime, stime, cutime
	// and cstime begin at the twelfth.
	fields := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:]))
	if len(fields) < 15 {
		return s, fmt.Errorf("read the processor time: %d fields in stat", len(fields))
	}
	var n [15]float64
	for i := 1; i < len(n); i++ {
		if n[i], err = strconv.ParseFloat(fields[i], 64); err != nil {
			return s, fmt.Errorf("read the processor time: %w", err)
		}
	}
	return stat{parent: int(n[1]), time: (n[11] + n[12]) / ticks, waited: (n[13] + n[14]) / ticks}, nil
}
