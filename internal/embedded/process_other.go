//go:build !linux

package embedded

import (
	"os/exec"
	"strconv"
	"strings"
	"syscall"
)

// attributes put a child into a group of its own and drop its rights to cred. What the kernel does not do at the
// parent's death here, the next start does.
func attributes(cred *credential, _ syscall.Signal) *syscall.SysProcAttr {
	attr := &syscall.SysProcAttr{Setpgid: true}
	if cred != nil {
		attr.Credential = &syscall.Credential{Uid: cred.uid, Gid: cred.gid}
	}
	return attr
}

// runsIn says whether the process was started as the postmaster of folder.
func runsIn(pid int, folder string) bool {
	out, err := exec.Command("ps", "-o", "args=", "-p", strconv.Itoa(pid)).Output() //nolint:noctx // answers at once
	return err == nil && strings.Contains(string(out), "postgres") && strings.Contains(string(out), folder)
}

// sessionsIn finds nothing here; PostgreSQL itself says so if one is left.
func sessionsIn(string) []int { return nil }
