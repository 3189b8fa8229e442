// SPDX-License-Identifier: Apache-2.0

package control

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"

	"golang.org/x/sys/unix"
)

// inNamespaces calls fn in each network namespace of the node's processes, ours first; or, if
// `wanted` is given, in those that it wants. It sees those that /proc shows: all of the node's, if
// the agent is in its process namespace.
func inNamespaces(wanted func(ns *os.File) bool, fn func() error) error {
	result := make(chan error)
	go func() {
		runtime.LockOSThread()
		own, err := os.Open("/proc/thread-self/ns/net")
		if err != nil {
			result <- err
			return
		}
		defer own.Close()
		err = eachNamespace(wanted, fn)
		if back := setNamespace(own); back != nil {
			result <- errors.Join(err, fmt.Errorf("return from other network namespaces: %w", back))
			return // and the thread ends, being of no use to others
		}
		runtime.UnlockOSThread()
		result <- err
	}()
	return <-result
}

func eachNamespace(wanted func(ns *os.File) bool, fn func() error) error {
	links, err := filepath.Glob("/proc/[0-9]*/ns/net")
	if err != nil {
		return err
	}
	own, err := os.Readlink("/proc/thread-self/ns/net")
	if err != nil {
		return err
	}
	seen := map[string]bool{own: true}
	var errs []error
	if wanted == nil {
		errs = append(errs, fn())
	}
	for _, link := range links {
		name, err := os.Readlink(link)
		if err != nil || seen[name] {
			continue // the process has ended
		}
		ns, err := os.Open(link)
		if err != nil {
			continue
		}
		if wanted != nil && !wanted(ns) {
			seen[name] = true
			ns.Close()
			continue
		}
		err = setNamespace(ns)
		ns.Close()
		if errors.Is(err, unix.EPERM) {
			return fmt.Errorf("other network namespaces than the agent's can't be entered (CAP_SYS_ADMIN): %w", err)
		}
		seen[name] = true
		if err == nil {
			err = fn()
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

func setNamespace(ns *os.File) error { return unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET) }
