package embedded

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
)

// attributes put a child into a group of its own, drop its rights to cred, and have the kernel signal it when the thread
// that started it ends.
func attributes(cred *credential, onParentDeath syscall.Signal) *syscall.SysProcAttr {
	attr := &syscall.SysProcAttr{Setpgid: true, Pdeathsig: onParentDeath}
	if cred != nil {
		attr.Credential = &syscall.Credential{Uid: cred.uid, Gid: cred.gid, NoSetGroups: false}
	}
	return attr
}

// runsIn says whether the process works in folder, as a postmaster does in its data folder.
func runsIn(pid int, folder string) bool {
	info, err := os.Stat(fmt.Sprintf("/proc/%d/cwd", pid))
	if err != nil {
		return false
	}
	want, err := os.Stat(folder)
	return err == nil && os.SameFile(info, want)
}

// sessionsIn finds the processes that call themselves PostgreSQL's and work in folder. (The title of an unpacked server's
// begins with the dynamic loader.)
func sessionsIn(folder string) []int {
	var found []int
	paths, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		return nil
	}
	for _, path := range paths {
		text, err := readFile(path)
		if err != nil || !bytes.Contains(text, []byte("postgres: ")) {
			continue
		}
		if pid, err := strconv.Atoi(filepath.Base(filepath.Dir(path))); err == nil && runsIn(pid, folder) {
			found = append(found, pid)
		}
	}
	return found
}
