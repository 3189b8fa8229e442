// SPDX-License-Identifier: Apache-2.0

package replay

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/waggle-lb/waggle/bpf"
	"github.com/waggle-lb/waggle/loader"
	"github.com/waggle-lb/waggle/maps"
)

// connectFromNode has a process of the node connect TCP sockets, and sees where their SYNs go. The
// sockets are not bound: the source in a row is the one that the kernel would choose.
func (n *node) connectFromNode(to netip.AddrPort, sockets int) ([]end, error) {
	before, err := n.socketVerdicts()
	if err != nil {
		return nil, err
	}
	var ports []uint16
	var last error // of connect
	for i := range sockets {
		fd, err := connect(to)
		if fd >= 0 {
			defer unix.Close(fd)
		}
		if i > 0 && err != last {
			return nil, fmt.Errorf("connect to %s: once %v, once %v", to, last, err)
		}
		last = err
		if err == unix.EINPROGRESS {
			ports = append(ports, localPort(fd))
		}
	}
	after, err := n.socketVerdicts()
	if err != nil {
		return nil, err
	}
	for verdict, count := range after {
		switch name := bpf.VerdictName(verdict); {
		case count == before[verdict]:
		case count != before[verdict]+uint64(sockets):
			return nil, fmt.Errorf("connect to %s: verdict %s on some", to, name)
		case verdict == bpf.VerdictSockConnect && last == unix.EINPROGRESS:
			return peersOf(to, ports)
		case verdict == bpf.VerdictRefused && last == unix.ECONNREFUSED:
			return []end{{fate: refused}}, nil
		case strings.HasPrefix(name, "drop-") && last == unix.ETIMEDOUT:
			return []end{{fate: dropped}}, nil
		default:
			return nil, fmt.Errorf("connect to %s: verdict %s, error %v", to, name, last)
		}
	}
	return []end{{fate: leftAlone}}, nil
}

// connect returns a negative descriptor where there is no socket.
func connect(to netip.AddrPort) (fd int, err error) {
	family, address := socketAddress(to)
	fd, err = unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	return fd, unix.Connect(fd, address)
}

func socketAddress(to netip.AddrPort) (family int, address unix.Sockaddr) {
	if to.Addr().Is4() {
		return unix.AF_INET, &unix.SockaddrInet4{Port: int(to.Port()), Addr: to.Addr().As4()}
	}
	return unix.AF_INET6, &unix.SockaddrInet6{Port: int(to.Port()), Addr: to.Addr().As16()}
}

// socketVerdicts are the verdicts on sockets, and how often there were.
func (n *node) socketVerdicts() (map[bpf.Verdict]uint64, error) {
	counters, err := maps.ReadCounters(n.dp)
	verdicts := map[bpf.Verdict]uint64{}
	for _, c := range counters {
		if c.Hook == bpf.HookSock {
			verdicts[c.Verdict] = c.Packets
		}
	}
	return verdicts, err
}

// localPort is 0 where the socket has none.
func localPort(fd int) uint16 {
	name, _ := unix.Getsockname(fd)
	switch name := name.(type) {
	case *unix.SockaddrInet4:
		return uint16(name.Port)
	case *unix.SockaddrInet6:
		return uint16(name.Port)
	}
	return 0
}

// peersOf asks the kernel where sockets that asked for an address are connected to. By getpeername it
// would be that address.
func peersOf(asked netip.AddrPort, ports []uint16) (ends []end, err error) {
	family, _ := socketAddress(asked)
	sockets, err := netlink.SocketDiagTCP(uint8(family))
	if err != nil {
		return nil, fmt.Errorf("list sockets: %w", err)
	}
	for _, s := range sockets {
		if slices.Contains(ports, s.ID.SourcePort) {
			source, _ := netip.AddrFromSlice(s.ID.Source)
			peer, _ := netip.AddrFromSlice(s.ID.Destination)
			ends = append(ends, end{led, netip.AddrPortFrom(peer.Unmap(), s.ID.DestinationPort), source.Unmap()})
		}
	}
	if len(ends) != len(ports) {
		return nil, fmt.Errorf("the kernel lists %d of %d sockets", len(ends), len(ports))
	}
	return ends, nil
}

// enterCgroup moves this process to a cgroup of its own until the test ends: no other process is to
// meet the programs there.
func enterCgroup(t *testing.T) string {
	t.Helper()
	root, err := loader.CgroupRoot()
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		t.Fatal(err)
	}
	before := root
	for line := range strings.Lines(string(text)) {
		if path, found := strings.CutPrefix(line, "0::"); found {
			before = filepath.Join(root, strings.TrimSpace(path))
		}
	}
	own := filepath.Join(root, fmt.Sprintf("waggle-replay-%d", os.Getpid()))
	move := func(to string) error {
		return os.WriteFile(filepath.Join(to, "cgroup.procs"), []byte(strconv.Itoa(os.Getpid())), 0)
	}
	if err := os.Mkdir(own, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := move(before); err != nil {
			t.Error(err)
		}
		if err := os.Remove(own); err != nil {
			t.Error(err)
		}
	})
	if err := move(own); err != nil {
		t.Fatal(err)
	}
	return own
}
