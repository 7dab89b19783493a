//go:build !386 && !s390x

package netloop

import (
	"syscall"
	"unsafe"
)

// The calls here do not wait, so the scheduler is not told of them (syscall.RawSyscall): otherwise its monitor takes the
// processor from a loop whose call lasts 20 µs, and the loop, back from the kernel, has to win it back, often on another
// core. On 32-bit x86 and s390x these calls go through socketcall(2); there are no loops there.

// receive is recv(2) on a socket that does not block. Where it fails n is no number of bytes. It is written so that the compiler inlines it,
// as send is.
func receive(fd int, b []byte) (n uintptr, failure syscall.Errno) {
	n, _, failure = syscall.RawSyscall6(syscall.SYS_RECVFROM,
		uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)), 0, 0, 0) //nolint:gosec // as package unsafe's rule 4 has it
	return
}

// send is send(2) on a socket that does not block. A peer that is gone is EPIPE and no signal. Where it fails n is no number of bytes.
func send(fd int, b []byte) (n uintptr, failure syscall.Errno) {
	n, _, failure = syscall.RawSyscall6(syscall.SYS_SENDTO,
		uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)), syscall.MSG_NOSIGNAL, 0, 0) //nolint:gosec // likewise
	return
}

// poll returns the events that are there after at most the given time in milliseconds, which is short or 0: the caller keeps
// its processor.
func poll(epoll int, events []syscall.EpollEvent, milliseconds uintptr) (n uintptr, failure syscall.Errno) {
	n, _, failure = syscall.RawSyscall6(syscall.SYS_EPOLL_PWAIT,
		uintptr(epoll), uintptr(unsafe.Pointer(unsafe.SliceData(events))), uintptr(len(events)), milliseconds, 0, 0) //nolint:gosec // likewise
	return
}
