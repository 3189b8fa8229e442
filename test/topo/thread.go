// SPDX-License-Identifier: Apache-2.0

package topo

import (
	"errors"
	"runtime"

	"golang.org/x/sys/unix"
)

var errGoexit = errors.New("the function ended its goroutine (t.Fatal and the like belong outside Host.Do)")

// onThread runs fn on a thread of its own, which ends afterwards, so that fn
// may enter namespaces. It does not wait for fn.
func onThread(fn func()) {
	go func() {
		runtime.LockOSThread()
		if unix.Gettid() != unix.Getpid() {
			fn()
			return
		}
		// The main thread can't be ended: it would stay in fn's namespace, and
		// show it as /proc/self/ns. While this goroutine holds the main thread,
		// fn gets another one.
		defer runtime.UnlockOSThread()
		done := make(chan struct{})
		go func() {
			defer close(done)
			runtime.LockOSThread()
			fn()
		}()
		<-done
	}()
}

// guarded calls fn and reports a runtime.Goexit as an error, for callers that
// wait for the result on a channel.
func guarded(fn func() error, result chan<- error) {
	err := errGoexit
	defer func() { result <- err }()
	err = fn()
}
