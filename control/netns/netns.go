// SPDX-License-Identifier: Apache-2.0

// Package netns visits the network namespaces of the node's processes.
package netns

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Filter chooses among namespaces. Each namespace comes once: first to Known and then, if that does not
// know it, to Wanted. A namespace that can't be entered comes again, if another process is in it.
type Filter struct {
	// Known reports whether to leave a namespace out, by the name that its links in /proc have
	// ("net:[4026531840]"). Such a namespace is not opened.
	Known func(name string) bool
	// Wanted reports whether to enter an open namespace. It must not keep the file.
	Wanted func(name string, ns *os.File) bool
	// Enough reports whether no more namespaces are wanted; nil: all are.
	Enough func() bool
	// After limits the visit to processes and threads that have started after this one. 0, or a process after
	// which many have started: no limit.
	After int
}

// Each calls fn in each network namespace of the node's processes, ours first; or, if a filter is given,
// in those that it wants. It sees those that /proc shows: all of the node's, if the agent is in its
// process namespace. Each returns the errors of all calls of fn, and fails at once where other
// namespaces can't be entered (CAP_SYS_ADMIN).
func Each(filter *Filter, fn func() error) error {
	result := make(chan error)
	go func() {
		runtime.LockOSThread()
		own, err := os.Open("/proc/thread-self/ns/net")
		if err != nil {
			result <- err
			return
		}
		defer own.Close()
		err = each(filter, fn)
		if back := enter(own); back != nil {
			result <- errors.Join(err, fmt.Errorf("return from other network namespaces: %w", back))
			return // locked: the thread ends with the goroutine, since it is in another namespace
		}
		runtime.UnlockOSThread()
		result <- err
	}()
	return <-result
}

func each(filter *Filter, fn func() error) error {
	after := 0
	if filter != nil {
		after = filter.After
	}
	processes, err := processIDs(after)
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
	// The wanted namespaces are mostly new, as are their processes: /proc lists these last.
	for _, pid := range slices.Backward(processes) {
		if filter != nil && filter.Enough != nil && filter.Enough() {
			break
		}
		link := "/proc/" + pid + "/ns/net"
		name, err := os.Readlink(link)
		if err != nil || seen[name] {
			continue // the process has ended
		}
		if filter != nil && filter.Known(name) {
			seen[name] = true
			continue
		}
		ns, err := os.Open(link)
		if err != nil {
			continue
		}
		if filter != nil && !filter.Wanted(name, ns) {
			seen[name] = true
			ns.Close()
			continue
		}
		err = enter(ns)
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

// maxStarted bounds how many processes are looked for by their numbers. A list of /proc costs about as much as a
// thousand of them.
const maxStarted = 1024

// Last returns the number of the process or thread that was started last, the last field of
// /proc/loadavg (proc_loadavg(5)).
func Last() (int, error) {
	raw, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return 0, err
	}
	fields := strings.Fields(string(raw))
	if len(fields) == 0 {
		return 0, errors.New("/proc/loadavg is empty")
	}
	return strconv.Atoi(fields[len(fields)-1])
}

// processIDs lists the names of the processes' directories in /proc. Of those after a process some may not exist.
func processIDs(after int) (names []string, err error) {
	if last, err := Last(); err == nil && after > 0 && after <= last && last-after <= maxStarted {
		for pid := after + 1; pid <= last; pid++ {
			names = append(names, strconv.Itoa(pid))
		}
		return names, nil
	}
	proc, err := os.Open("/proc")
	if err != nil {
		return nil, err
	}
	defer proc.Close()
	names, err = proc.Readdirnames(-1)
	return slices.DeleteFunc(names, func(name string) bool { return name[0] < '0' || name[0] > '9' }), err
}

func enter(ns *os.File) error { return unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET) }
