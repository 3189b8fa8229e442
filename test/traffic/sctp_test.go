// SPDX-License-Identifier: Apache-2.0

package traffic

import (
	wire "encoding/binary"
	"fmt"
	"hash/crc32"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/waggle-lb/waggle/control/status"
	"github.com/waggle-lb/waggle/test/topo"
)

const sctpYAML = `apiVersion: v1
kind: Service
metadata:
  name: %[1]s
spec:
  type: LoadBalancer
  selector: {app: %[1]s}
  ipFamilyPolicy: RequireDualStack
  clusterIPs: ["10.96.0.%[2]d", "fd00:10:96::%[2]d"]
  ports:
  - {name: sctp, port: 36412, targetPort: 36413, protocol: SCTP, nodePort: 30%02[2]d0}
status:
  loadBalancer:
    ingress:
    - ip: 203.0.113.%[2]d
    - ip: "2001:db8::%[2]d"
`

const (
	sctpPodPort    = 36413
	sctpClientPort = 40132
	podTag         = 0xabad1dea
	clientTag      = 0xfeed5eed
)

// Chunk types, RFC 9260, 3.2.
const (
	chunkData       = 0
	chunkInit       = 1
	chunkInitAck    = 2
	chunkShutdown   = 7
	chunkCookieEcho = 10
)

// sctpMessage is a packet of one chunk. The test makes and parses packets itself, since a node may
// lack the kernel's module.
type sctpMessage struct {
	source, dest uint16
	tag          uint32
	chunk        byte
	body         []byte
}

func (m sctpMessage) bytes() []byte {
	b := wire.BigEndian.AppendUint16(nil, m.source)
	b = wire.BigEndian.AppendUint16(b, m.dest)
	b = wire.BigEndian.AppendUint32(b, m.tag)
	b = append(b, 0, 0, 0, 0, m.chunk, 3)
	b = wire.BigEndian.AppendUint16(b, uint16(4+len(m.body)))
	b = append(b, m.body...)
	wire.LittleEndian.PutUint32(b[8:], crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli)))
	return b
}

func readSCTP(b []byte) (sctpMessage, error) {
	if len(b) < 16 {
		return sctpMessage{}, fmt.Errorf("%d bytes are no SCTP packet", len(b))
	}
	m := sctpMessage{
		source: wire.BigEndian.Uint16(b), dest: wire.BigEndian.Uint16(b[2:]),
		tag: wire.BigEndian.Uint32(b[4:]), chunk: b[12], body: append([]byte(nil), b[16:]...),
	}
	if want := m.bytes()[8:12]; string(want) != string(b[8:12]) {
		return m, fmt.Errorf("checksum %x, want %x", b[8:12], want)
	}
	return m, nil
}

// sctpSocket is a raw socket in a host.
func sctpSocket(t *testing.T, h *topo.Host, v6 bool) *net.IPConn {
	t.Helper()
	network := "ip4:132"
	if v6 {
		network = "ip6:132"
	}
	var conn *net.IPConn
	check(t, h.Do(func() (err error) {
		conn, err = net.ListenIP(network, nil)
		return err
	}))
	t.Cleanup(func() { conn.Close() })
	check(t, conn.SetDeadline(time.Now().Add(topo.Patient(10*time.Second))))
	return conn
}

// sctpPeer is one end of an association, with what it knows of the other.
type sctpPeer struct {
	name   string
	conn   *net.IPConn
	port   uint16
	remote netip.AddrPort
}

func (p *sctpPeer) send(t *testing.T, tag uint32, chunk byte, body ...byte) {
	t.Helper()
	m := sctpMessage{p.port, p.remote.Port(), tag, chunk, body}
	_, err := p.conn.WriteTo(m.bytes(), &net.IPAddr{IP: p.remote.Addr().AsSlice()})
	check(t, err)
}

// receive expects this chunk, intact, and from the known peer, if there is one.
func (p *sctpPeer) receive(t *testing.T, tag uint32, chunk byte) sctpMessage {
	t.Helper()
	buffer := make([]byte, 4096)
	n, source, err := p.conn.ReadFromIP(buffer)
	if err != nil {
		t.Fatalf("%s waits for chunk %d: %v", p.name, chunk, err)
	}
	m, err := readSCTP(buffer[:n])
	if err != nil {
		t.Fatalf("%s: %v", p.name, err)
	}
	addr, _ := netip.AddrFromSlice(source.IP)
	from := netip.AddrPortFrom(addr.Unmap(), m.source)
	if !p.remote.IsValid() {
		p.remote = from
	}
	if m.chunk != chunk || m.tag != tag || m.dest != p.port || from != p.remote {
		t.Fatalf("%s got chunk %d with tag %x for port %d from %s, want %d, %x, %d, %s",
			p.name, m.chunk, m.tag, m.dest, from, chunk, tag, p.port, p.remote)
	}
	return m
}

func initBody(tag uint32) []byte {
	body := wire.BigEndian.AppendUint32(nil, tag)
	return append(body, 0, 1, 0, 0, 0, 10, 0, 10, 0, 0, 0, 77)
}

// associate goes through an association from its beginning to its end.
func associate(t *testing.T, client, pod *sctpPeer) {
	t.Helper()
	client.send(t, 0, chunkInit, initBody(clientTag)...)
	pod.receive(t, 0, chunkInit)
	pod.send(t, clientTag, chunkInitAck, initBody(podTag)...)
	client.receive(t, clientTag, chunkInitAck)
	client.send(t, podTag, chunkCookieEcho, []byte("a cookie")...)
	pod.receive(t, podTag, chunkCookieEcho)
	for _, size := range []int{1, 2, 3, 100, 1393, 1394} { // the last just fits the tunnel
		data := []byte(strings.Repeat("x", size))
		client.send(t, podTag, chunkData, data...)
		if got := pod.receive(t, podTag, chunkData); len(got.body) != size {
			t.Errorf("%d bytes arrived, want %d", len(got.body), size)
		}
		pod.send(t, clientTag, chunkData, data...)
		client.receive(t, clientTag, chunkData)
	}
	client.send(t, podTag, chunkShutdown, 0, 0, 0, 77)
	pod.receive(t, podTag, chunkShutdown)
}

// TestSCTP, of contract 29: associations with pods on either node, by every frontend. No socket
// hook sees the sockets of their packets, so pods' packets are translated, too. A Service loads no
// module.
func TestSCTP(t *testing.T) {
	if topo.KernelSpeaksSCTP() {
		t.Skip("the kernel's SCTP would answer, too; see TestSCTPSockets")
	}
	for _, pods := range []topo.PodNetwork{topo.Routed, topo.VXLAN} {
		for _, m := range modes[:2] {
			t.Run(fmt.Sprintf("%s/%s", podNetworkName(pods), m.name), func(t *testing.T) { testSCTP(t, pods, m) })
		}
	}
}

func testSCTP(t *testing.T, pods topo.PodNetwork, m mode) {
	s := newSetup(t, pods, m)
	services := []service{{name: "local", number: 1}, {name: "remote", number: 2}}
	backends := map[string]*topo.Pod{}
	for node, svc := range services {
		check(t, s.manifests.Write(svc.name+".yaml", fmt.Sprintf(sctpYAML, svc.name, svc.number)))
		pod, err := s.Nodes[node].AddPod(svc.name, topo.PodOptions{})
		check(t, err)
		check(t, s.manifests.WritePod(pod, "app: "+svc.name))
		backends[svc.name] = pod
	}
	ways := s.ways(s.addClients(t))
	inside, err := s.Nodes[0].AddPod("sctp-client", topo.PodOptions{})
	check(t, err)
	s.startAgents(t)
	s.awaitServices(t, 2*len(services))
	for _, svc := range services {
		s.awaitPods(t, svc, backends[svc.name])
		for _, w := range ways {
			from := s.Laptop
			if strings.HasPrefix(w.name, "clusterip") {
				from = inside.Host
			}
			if w.name == "clusterip-socket" {
				continue
			}
			for _, v6 := range bothFamilies {
				t.Run(fmt.Sprintf("%s/%s/%s", svc.name, w.name, familyName(v6)), func(t *testing.T) {
					to := w.to(svc, port{number: 36412}, v6)
					client := &sctpPeer{"the client", sctpSocket(t, from, v6), sctpClientPort, to}
					pod := &sctpPeer{"the pod", sctpSocket(t, backends[svc.name].Host, v6), sctpPodPort, netip.AddrPort{}}
					associate(t, client, pod)
					associate(t, client, &sctpPeer{pod.name, pod.conn, pod.port, netip.AddrPort{}}) // a new one
				})
			}
		}
	}
	out, err := s.agents[0].CLI("service", "list")
	check(t, err)
	if !strings.Contains(out, "36412:30010/SCTP") {
		t.Errorf("waggle service list does not show the SCTP ports:\n%s", out)
	}
	check(t, s.agents[0].Await("a status without problems", func(st *status.Status) bool {
		return len(st.Problems)+len(st.Proxy.Failures) == 0
	}))
	if topo.KernelSpeaksSCTP() {
		t.Error("something has loaded the kernel's module")
	}
}
