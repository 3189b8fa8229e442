// SPDX-License-Identifier: Apache-2.0

package topo

import (
	"fmt"
	"os"
	"path/filepath"
	"sync"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

const namesDir = "/run/netns"

// namespace is a network namespace with a thread that stays in it.
//
// Processes are started from that thread: a child with a parent-death signal
// gets it when the *thread* that started it ends.
type namespace struct {
	file    *os.File
	netlink *netlink.Handle
	name    string // below /run/netns, if named

	jobs  chan func()
	quit  chan struct{}
	ended chan struct{}
	once  sync.Once
}

func newNamespace() (*namespace, error) {
	ns := &namespace{
		jobs:  make(chan func()),
		quit:  make(chan struct{}),
		ended: make(chan struct{}),
	}
	ready := make(chan error, 1)
	onThread(func() {
		defer close(ns.ended)
		err := ns.enterNew()
		ready <- err
		if err == nil {
			ns.work()
		}
	})
	if err := <-ready; err != nil {
		<-ns.ended
		return nil, err
	}
	return ns, nil
}

func (ns *namespace) work() {
	for {
		select {
		case job := <-ns.jobs:
			job()
		case <-ns.quit:
			return
		}
	}
}

func (ns *namespace) enterNew() error {
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("new network namespace: %w", err)
	}
	file, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return err
	}
	if ns.netlink, err = netlink.NewHandle(unix.NETLINK_ROUTE); err != nil {
		file.Close()
		return fmt.Errorf("netlink: %w", err)
	}
	ns.file = file
	return nil
}

// run calls fn on the namespace's own thread, for fn that is quick or needs a
// thread that stays.
func (ns *namespace) run(fn func() error) error {
	result := make(chan error, 1)
	job := func() { guarded(fn, result) }
	select {
	case ns.jobs <- job:
	case <-ns.ended:
		return errClosed
	}
	select {
	case err := <-result:
		return err
	case <-ns.ended:
		return errGoexit
	}
}

// do calls fn on a fresh thread inside the namespace.
func (ns *namespace) do(fn func() error) error {
	result := make(chan error, 1)
	onThread(func() {
		guarded(func() error {
			if err := unix.Setns(int(ns.file.Fd()), unix.CLONE_NEWNET); err != nil {
				return fmt.Errorf("enter network namespace: %w", err)
			}
			return fn()
		}, result)
	})
	return <-result
}

// setName makes the namespace visible to `ip netns`.
func (ns *namespace) setName(name string) error {
	if err := os.MkdirAll(namesDir, 0o755); err != nil {
		return err
	}
	path := filepath.Join(namesDir, name)
	file, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_RDONLY, 0o444)
	if err != nil {
		return fmt.Errorf("name network namespace (a crashed run's leftover? see Sweep): %w", err)
	}
	file.Close()
	source := fmt.Sprintf("/proc/self/fd/%d", ns.file.Fd())
	if err := unix.Mount(source, path, "", unix.MS_BIND, ""); err != nil {
		os.Remove(path)
		return fmt.Errorf("bind network namespace to %s: %w", path, err)
	}
	ns.name = name
	return nil
}

func removeName(name string) error {
	path := filepath.Join(namesDir, name)
	if err := unix.Unmount(path, unix.MNT_DETACH); err != nil && err != unix.EINVAL {
		return fmt.Errorf("unmount %s: %w", path, err)
	}
	return os.Remove(path)
}

// close releases the namespace. The kernel removes it with its devices when
// nothing else holds it.
func (ns *namespace) close() error {
	var err error
	ns.once.Do(func() {
		if ns.name != "" {
			err = removeName(ns.name)
		}
		close(ns.quit)
		<-ns.ended
		ns.netlink.Close()
		ns.file.Close()
	})
	return err
}
