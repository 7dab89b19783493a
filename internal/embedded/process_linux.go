package embedded

import (
	"fmt"
	"os"
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
