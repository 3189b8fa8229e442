// SPDX-License-Identifier: Apache-2.0

package netdump

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"sync"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestWhole(t *testing.T) {
	bad := errors.New("bad")
	for _, c := range []struct {
		results []error // of each try; later tries get the last one
		want    error
		tried   int
	}{
		{[]error{nil}, nil, 1},
		{[]error{netlink.ErrDumpInterrupted, nil}, nil, 2},
		{[]error{netlink.ErrDumpInterrupted, netlink.ErrDumpInterrupted, fmt.Errorf("list: %w", netlink.ErrDumpInterrupted), nil}, nil, 4},
		{[]error{bad}, bad, 1},
		{[]error{netlink.ErrDumpInterrupted, bad}, bad, 2},
		{[]error{netlink.ErrDumpInterrupted}, netlink.ErrDumpInterrupted, tries},
	} {
		tried := 0
		got, err := Whole(func() (string, error) {
			result := c.results[min(tried, len(c.results)-1)]
			tried++
			return fmt.Sprint("list ", tried), result
		})
		if !errors.Is(err, c.want) || tried != c.tried {
			t.Errorf("%v: error %v after %d tries, want %v after %d", c.results, err, tried, c.want, c.tried)
		}
		if want := fmt.Sprint("list ", tried); err == nil && got != want || err != nil && got != "" {
			t.Errorf("%v: got %q", c.results, got)
		}
	}
}

// A dump that the kernel really interrupts, as it does while pods come and go.
func TestInterruptedByTheKernel(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: it makes a network namespace")
	}
	runtime.LockOSThread() // for good: the thread ends with the test
	must(t, unix.Unshare(unix.CLONE_NEWNET))
	const links = 200 // more than one message holds
	for i := range links / 2 {
		must(t, netlink.LinkAdd(veth(fmt.Sprintf("w%d", i))))
	}
	stop, wait := churn(t)
	interrupted := 0
	all, err := Whole(func() ([]netlink.Link, error) {
		for {
			all, err := netlink.LinkList()
			switch {
			case errors.Is(err, netlink.ErrDumpInterrupted):
				interrupted++
				stop()
				wait()
				return all, err
			case err != nil || interrupted > 0:
				return all, err
			}
		}
	})
	must(t, err)
	if len(all) != links+1 { // and lo
		t.Errorf("%d links, want %d", len(all), links+1)
	}
}

// veth is a pair of devices.
func veth(name string) *netlink.Veth {
	return &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: name}, PeerName: name + "-peer"}
}

// churn adds and deletes a link in the thread's namespace, until it is stopped.
func churn(t *testing.T) (stop, wait func()) {
	in, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	must(t, err)
	t.Cleanup(in.Close)
	done := make(chan struct{})
	var wg sync.WaitGroup
	other := veth("other")
	wg.Go(func() {
		for {
			select {
			case <-done:
				return
			default:
			}
			if err := errors.Join(in.LinkAdd(other), in.LinkDel(other)); err != nil {
				t.Error(err)
				return
			}
		}
	})
	once := sync.OnceFunc(func() { close(done) })
	t.Cleanup(func() { once(); wg.Wait() })
	return once, wg.Wait
}
