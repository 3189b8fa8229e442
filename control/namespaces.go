// SPDX-License-Identifier: Apache-2.0

package control

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"

	"golang.org/x/sys/unix"
)

// namespaceFilter chooses among namespaces: by the name that their links in /proc have ("net:[4026531840]"),
// which opens none, and then by the open namespace.
type namespaceFilter struct {
	known  func(name string) bool // is left out
	wanted func(name string, ns *os.File) bool
}

// inNamespaces calls fn in each network namespace of the node's processes, ours first; or, if a
// filter is given, in those that it wants. It sees those that /proc shows: all of the node's, if
// the agent is in its process namespace.
func inNamespaces(filter *namespaceFilter, fn func() error) error {
	result := make(chan error)
	go func() {
		runtime.LockOSThread()
		own, err := os.Open("/proc/thread-self/ns/net")
		if err != nil {
			result <- err
			return
		}
		defer own.Close()
		err = eachNamespace(filter, fn)
		if back := setNamespace(own); back != nil {
			result <- errors.Join(err, fmt.Errorf("return from other network namespaces: %w", back))
			return // and the thread ends, being of no use to others
		}
		runtime.UnlockOSThread()
		result <- err
	}()
	return <-result
}

func eachNamespace(filter *namespaceFilter, fn func() error) error {
	processes, err := processIDs()
	if err != nil {
		return err
	}
	own, err := os.Readlink("/proc/thread-self/ns/net")
	if err != nil {
		return err
	}
	seen := map[string]bool{own: true}
	var errs []error
	if filter == nil {
		errs = append(errs, fn())
	}
	for _, pid := range processes {
		link := "/proc/" + pid + "/ns/net"
		name, err := os.Readlink(link)
		if err != nil || seen[name] {
			continue // the process has ended
		}
		if filter != nil && filter.known(name) {
			seen[name] = true
			continue
		}
		ns, err := os.Open(link)
		if err != nil {
			continue
		}
		if filter != nil && !filter.wanted(name, ns) {
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

// processIDs lists the names of the processes' directories in /proc.
func processIDs() ([]string, error) {
	proc, err := os.Open("/proc")
	if err != nil {
		return nil, err
	}
	defer proc.Close()
	names, err := proc.Readdirnames(-1)
	return slices.DeleteFunc(names, func(name string) bool { return name[0] < '0' || name[0] > '9' }), err
}

func setNamespace(ns *os.File) error { return unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET) }
