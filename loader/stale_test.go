// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/waggle-lb/waggle/bpf"
)

// words is an address as the maps hold it; netOrder is a port.
func words(a netip.Addr) (w [4]uint32) {
	b := a.AsSlice()
	for i := range len(b) / 4 {
		w[i] = binary.NativeEndian.Uint32(b[4*i:])
	}
	return w
}

func netOrder(port uint16) uint16 {
	return binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, port))
}

// connected makes a UDP socket, and marks it as connected to a backend of service 7.
func connected(t *testing.T, d *Datapath, to, backend netip.AddrPort, id uint32) int {
	t.Helper()
	family, mapFamily := unix.AF_INET6, uint32(unix.AF_INET)
	var sa unix.Sockaddr = &unix.SockaddrInet6{Port: int(to.Port()), Addr: to.Addr().As16()}
	if to.Addr().Is4() {
		family = unix.AF_INET
		sa = &unix.SockaddrInet4{Port: int(to.Port()), Addr: to.Addr().As4()}
	}
	if backend.Addr().Is6() {
		mapFamily = unix.AF_INET6
	}
	fd, err := unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	must(t, err)
	must(t, unix.Connect(fd, sa))
	must(t, d.Map("sock_peers").Put(uint32(fd), bpf.SockPeer{
		BackendAddr: words(backend.Addr()), BackendPort: netOrder(backend.Port()),
		Backend: id, Service: 7, Family: mapFamily,
	}))
	return fd
}

func TestRow28AbortStaleSockets(t *testing.T) {
	newNetns(t)
	lo, err := netlink.LinkByName("lo")
	must(t, err)
	must(t, netlink.LinkSetUp(lo))
	d := mustLoad(t, small(newPinDir(t)))
	if err := d.CanAbortSockets(); errors.Is(err, ebpf.ErrNotSupported) {
		t.Skip(err)
	} else if err != nil {
		t.Fatal(err)
	}
	at := netip.MustParseAddrPort
	v4, v6, mapped := at("127.0.0.1:53"), at("[::1]:53"), at("[::ffff:127.0.0.1]:53")
	other4, other6 := at("127.0.0.2:53"), at("[::1]:54")
	element := func(service uint32, addr netip.AddrPort, flags uint8) bpf.Backend {
		return bpf.Backend{Addr: words(addr.Addr()), Port: netOrder(addr.Port()), Service: service, Proto: unix.IPPROTO_UDP, Flags: flags}
	}
	const id = 1
	for _, c := range []struct {
		name        string
		to, backend netip.AddrPort
		element     bpf.Backend
		aborted     bool
	}{
		{"serving", v4, v4, element(7, v4, bpf.BackendInClusterSet), false},
		{"serving, IPv6", v6, v6, element(7, v6, bpf.BackendInClusterSet), false},
		{"in no set", v4, v4, element(7, v4, bpf.BackendKept), false},
		{"gone", v4, v4, element(7, v4, 0), true},
		{"gone, IPv6", v6, v6, element(7, v6, 0), true},
		{"gone, IPv4 on an IPv6 socket", mapped, v4, element(7, v4, 0), true},
		{"free", v4, v4, bpf.Backend{}, true},
		{"another service's", v4, v4, element(8, v4, bpf.BackendInClusterSet), true},
		{"at another address", v6, v6, element(7, other6, bpf.BackendInClusterSet), true},
		{"connected elsewhere since", other4, v4, element(7, v4, 0), false},
		{"connected elsewhere since, IPv6", other6, v6, element(7, v6, 0), false},
	} {
		must(t, d.Map("backends").Put(uint32(id), c.element))
		fd := connected(t, d, c.to, c.backend, id)
		want := 0
		if c.aborted {
			want = 1
		}
		for i, want := range []int{want, 0} {
			if got, err := d.AbortStaleSockets(); err != nil || got != want {
				t.Errorf("%s, look %d: %d sockets aborted, %v, want %d", c.name, i+1, got, err, want)
			}
		}
		_, _, err := unix.Recvfrom(fd, make([]byte, 1), unix.MSG_DONTWAIT)
		if aborted := errors.Is(err, unix.ECONNABORTED); aborted != c.aborted {
			t.Errorf("%s: reading says %v", c.name, err)
		}
		unix.Close(fd)
	}
}
