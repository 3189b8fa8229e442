// SPDX-License-Identifier: Apache-2.0

package maps

import (
	"net/netip"
	"testing"
	"unsafe"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/waggle-lb/waggle/bpf"
)

// bytesOf returns a C structure as it lies in memory.
func bytesOf[T any](v *T) []byte {
	return unsafe.Slice((*byte)(unsafe.Pointer(v)), unsafe.Sizeof(*v))
}

// flat joins the members of a structure, which the test gives as bytes.
func flat(parts ...[]byte) []byte {
	var all []byte
	for _, p := range parts {
		all = append(all, p...)
	}
	return all
}

// host returns a number in the byte order of the machines that the datapath is compiled for.
func host(v uint32) []byte { return []byte{byte(v), byte(v >> 8), byte(v >> 16), byte(v >> 24)} }

var (
	v4      = netip.MustParseAddr("10.1.2.3")
	v6      = netip.MustParseAddr("2001:db8::a:b")
	v4bytes = []byte{10, 1, 2, 3}
	v6bytes = []byte{0x20, 0x01, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x0a, 0, 0x0b}
	zero12  = make([]byte, 12)
)

// The datapath compares these with bytes from packets.
func TestNetworkOrderInMemory(t *testing.T) {
	w4, w6, port := word4(v4), words6(v6), netPort(0x1f90)
	both := wordsOf(v4)
	mapped := word4(netip.MustParseAddr("::ffff:10.1.2.3"))
	key4 := Frontend{v4, 0x1f90, unix.IPPROTO_TCP}.key().(*bpf.ServiceKey4)
	key6 := Frontend{v6, 0x1f90, unix.IPPROTO_UDP}.key().(*bpf.ServiceKey6)
	backend4 := Backend{Addr: v4, Port: 53, Proto: 17, Service: 0x01020304, Local: true}.encode()
	backend6 := Backend{Addr: v6, Port: 53, Proto: 17, Service: 7, InCluster: true}.encode()
	device := Device{TCTransmits: true, EgressHook: true, Addr4: v4, Addr6: v6}.encode()
	nodeAddr := addrKey(v6).(*bpf.Addr)
	source4 := sourceKey(5, netip.PrefixFrom(v4, 24)).(*bpf.SourceKey4)
	source6 := sourceKey(5, netip.PrefixFrom(v6, 64)).(*bpf.SourceKey6)
	mappedPrefix := flat(make([]byte, 10), []byte{0xff, 0xff})
	for name, c := range map[string]struct{ got, want []byte }{
		"IPv4 address":       {bytesOf(&w4), v4bytes},
		"IPv6 address":       {bytesOf(&w6), v6bytes},
		"mapped address":     {bytesOf(&mapped), v4bytes},
		"port":               {bytesOf(&port), []byte{0x1f, 0x90}},
		"IPv4 in 16 bytes":   {bytesOf(&both), flat(v4bytes, zero12)},
		"IPv4 frontend":      {bytesOf(key4), flat(v4bytes, []byte{0x1f, 0x90, 6, 0})},
		"IPv6 frontend":      {bytesOf(key6), flat(v6bytes, []byte{0x1f, 0x90, 17, 0})},
		"IPv4 backend":       {bytesOf(&backend4), flat(v4bytes, zero12, host(0x01020304), []byte{0, 53, 17, bpf.BackendLocal})},
		"IPv6 backend":       {bytesOf(&backend6), flat(v6bytes, host(7), []byte{0, 53, 17, bpf.BackendIPv6 | bpf.BackendInClusterSet})},
		"device":             {bytesOf(&device), flat(host(bpf.DeviceTCTransmits|bpf.DeviceEgressHook), v4bytes, v6bytes)},
		"IPv6 node address":  {bytesOf(nodeAddr), v6bytes},
		"IPv4 source range":  {bytesOf(source4), flat(host(32+24), host(5), v4bytes)},
		"IPv6 source range":  {bytesOf(source6), flat(host(32+64), host(5), v6bytes)},
		"IPv4 cluster IP":    {bytesOf(clusterKey(v4)), flat(mappedPrefix, v4bytes)},
		"IPv6 cluster IP":    {bytesOf(clusterKey(v6)), v6bytes},
		"service flags":      {serviceBytes(Service{ID: 9, Kind: NodePort, ExternalDrop: true}), flat(host(9), host(bpf.ServiceNodePort|bpf.ServiceExternalDrop), host(0), host(0), host(0), host(0), host(0))},
		"service with slots": {serviceBytes(Service{ID: 9, Kind: ClusterIP, External: Block{16, 3}, Internal: Block{32, 5}, Affinity: 10800}), flat(host(9), host(bpf.ServiceClusterIP), host(16), host(3), host(32), host(5), host(10800))},
	} {
		if diff := cmp.Diff(c.want, c.got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

func serviceBytes(s Service) []byte {
	c := s.encode()
	return bytesOf(&c)
}

func TestAddressesComeBack(t *testing.T) {
	for _, s := range []string{"0.0.0.0", "1.2.3.4", "255.255.255.255"} {
		if a := netip.MustParseAddr(s); addr4(word4(a)) != a {
			t.Errorf("%s came back as %s", a, addr4(word4(a)))
		}
	}
	for _, s := range []string{"::", "::1", "2001:db8::ff00:1", "fe80::1"} {
		if a := netip.MustParseAddr(s); addr6(words6(a)) != a {
			t.Errorf("%s came back as %s", a, addr6(words6(a)))
		}
	}
	for _, p := range []uint16{0, 1, 80, 0x1234, 65535} {
		if netPort(netPort(p)) != p {
			t.Errorf("port %d came back as %d", p, netPort(netPort(p)))
		}
	}
}

func TestFamilies(t *testing.T) {
	for s, want := range map[string]Family{
		"1.2.3.4": IPv4, "::ffff:1.2.3.4": IPv4, "0.0.0.0": IPv4, "::": IPv6, "2001:db8::1": IPv6,
	} {
		if got := FamilyOf(netip.MustParseAddr(s)); got != want {
			t.Errorf("%s: got IPv%d, want IPv%d", s, got, want)
		}
	}
	for _, f := range Families {
		if FamilyOf(f.Any()) != f || !f.Any().IsUnspecified() {
			t.Errorf("IPv%d: any is %s", f, f.Any())
		}
	}
}

func TestSpelling(t *testing.T) {
	for got, want := range map[string]string{
		Frontend{v4, 80, unix.IPPROTO_TCP}.String():                        "10.1.2.3:80/TCP",
		Frontend{v6, 53, unix.IPPROTO_UDP}.String():                        "[2001:db8::a:b]:53/UDP",
		Name{"default", "web", "http", unix.IPPROTO_TCP, IPv4}.String():    "default/web:http (TCP, IPv4)",
		Name{"default", "web", "", unix.IPPROTO_SCTP, IPv6}.String():       "default/web (SCTP, IPv6)",
		ProtoName(unix.IPPROTO_GRE):                                        "47",
		ClusterIP.String() + NodePort.String() + Kind(ExternalIP).String(): "ClusterIPNodePortExternalIP",
		LoadBalancer.String() + (ClusterIP | NodePort).String() + ".":      "LoadBalancerkind 12.",
	} {
		if got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}
