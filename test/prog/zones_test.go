// SPDX-License-Identifier: Apache-2.0

package prog

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"testing"

	"github.com/cilium/ebpf"

	"github.com/waggle-lb/waggle/bpf"
)

// TestZones, of contract 61: packets that a pod sends with an address that is not its own are never
// translated by a record of a flow from outside: neither as the backend's answer nor as the
// client's packet, nor as an error about either.
func TestZones(t *testing.T) {
	forEachPath(t, func(t *testing.T, v variant, p path) {
		c := converse(newNode(t), v, p)
		c.service = c.publish(service{ // no endpoint for pods
			frontend: at(v.any(), nodePort), proto: v.proto, external: []netip.AddrPort{c.backend},
		})
		c.request()
		for _, confirmed := range []bool{false, true} {
			c.forged(confirmed)
			c.stands(confirmed)
			if !confirmed {
				c.reply()
				c.request(acked)
			}
		}
		c.request(acked)
		c.reply(flags("A"))
	})
}

// forged packets of a pod pass unchanged, or are refused, and change no record.
func (c *conversation) forged(confirmed bool) {
	c.t.Helper()
	before := c.contents()
	request, reply := c.packet(c.client, c.frontend, seq(clientSeq)), c.packet(c.backend, c.source, synAck)
	if confirmed {
		request, reply = request.with(acked), reply.with(flags("A"))
	}
	c.podIngress(pod0, reply).passed(bpf.VerdictNotOurs)
	c.podIngress(pod0, request.with(cutShort)).is(bpf.VerdictRefused, tcRedirect)
	for _, e := range icmpErrors(c.variant) {
		toBackend := e.about(c.packet(c.frontend, c.client, synAck), c.client.Addr(), c.frontend.Addr())
		toClient := e.about(c.packet(c.source, c.backend, acked), c.backend.Addr(), c.source.Addr())
		c.podIngress(pod0, toBackend).passed(bpf.VerdictNotOurs)
		c.podIngress(pod0, toClient).passed(bpf.VerdictNotOurs)
	}
	sameRecords(c.t, before, c.contents())
}

// TestZonesOfPod, of contract 61: packets from outside are not translated by a record of a pod's
// flow either.
func TestZonesOfPod(t *testing.T) {
	forEach(t, func(t *testing.T, v variant) {
		n := newNode(t)
		c := &conversation{
			node: n, path: hairpin, variant: v,
			client: at(v.pod, clientPort), backend: at(v.pod, backendPort), frontend: at(v.vip, 80),
		}
		n.publish(service{frontend: c.frontend, proto: v.proto, internal: []netip.AddrPort{c.backend}})
		c.establish()
		before := c.contents()
		request, reply := c.packet(c.client, c.frontend, acked), c.packet(c.backend, c.source, acked)
		c.xdp(front, request).passed(bpf.VerdictLeftToTC)
		c.ingress(front, request.with(cutShort)).is(bpf.VerdictRefused, tcRedirect)
		c.xdp(front, reply).passed(bpf.VerdictNotOurs)
		c.ingress(front, reply).passed(bpf.VerdictNotOurs)
		e := anyError(v).about(c.packet(c.source, c.backend, acked), v.pod, c.source.Addr())
		c.ingress(front, e).passed(bpf.VerdictNotOurs)
		sameRecords(t, before, c.contents())
	})
}

// TestZonesApart, of contract 61: a pod that opens a flow with an outside client's address does not
// affect that client's flow, even if the backend knows both by the same source.
func TestZonesApart(t *testing.T) {
	forEachPath(t, func(t *testing.T, v variant, p path) {
		for _, confirmed := range []bool{false, true} {
			c := converse(newNode(t), v, p)
			c.request()
			if confirmed {
				c.reply()
				c.request(acked)
			}
			before := c.contents()
			c.podIngress(pod0, c.packet(c.client, c.frontend)).had(bpf.VerdictFlowOpened)
			for _, r := range before {
				if now, ok := c.lookup(r.key); !ok || now != r {
					t.Errorf("the record of %v was %+v\nand now is (%t) %+v", r.key, r, ok, now)
				}
			}
			c.reply()
			c.request(acked)
			c.standsConfirmed()
		}
	})
}

// TestZonesSweep, of contract 61: a pod sends a datagram to each port that SNAT uses, with the
// backend's address. None is translated, while the backend's own are.
func TestZonesSweep(t *testing.T) {
	for _, v := range udpVariants {
		t.Run(v.name, func(t *testing.T) {
			n := newNode(t)
			c := converse(n, v, otherDevice)
			for range 20 {
				c.establish()
				c = c.again()
			}
			c.request() // this does not confirm it
			spoofed := c.packet(c.backend, c.source, payload(20), noChecksum, macs([]byte(otherGuest), pod0.mac()))
			program := n.program("waggle_pod")
			n.count()
			for port := snatMin; port <= snatMax; port++ {
				frame := spoofed.bytes()
				binary.BigEndian.PutUint16(frame[spoofed.l4()+2:], uint16(port))
				if out, action := sendRaw(t, program, pod0, frame); action != tcNext || !bytes.Equal(out, frame) {
					t.Fatalf("port %d: action %d, % x", port, int32(action), out)
				}
			}
			before := n.count()
			i := int(bpf.HookTCPod)*int(bpf.VerdictCount) + int(bpf.VerdictNotOurs)
			equal(t, "datagrams left alone", uint64(snatMax-snatMin+1), n.counted[i]-before[i])
			c.reply()
		})
	}
}

// sendRaw runs a tc program, and counts nothing.
func sendRaw(t *testing.T, program *ebpf.Program, d *device, frame []byte) (out []byte, action uint32) {
	t.Helper()
	opts := &ebpf.RunOptions{
		Data: frame, DataOut: make([]byte, len(frame)+256), Repeat: 1,
		Context: skbContext{ingress: uint32(d.index), ifindex: uint32(d.index)},
	}
	action, err := program.Run(opts)
	if err != nil {
		t.Fatal(err)
	}
	return opts.DataOut, action
}

// TestZonesShareSet: records of one tuple in two zones are in the same set. A packet that is looked
// up in one zone where it enters the node and in another where it leaves waits for memory once.
func TestZonesShareSet(t *testing.T) {
	forEachPath(t, func(t *testing.T, v variant, p path) {
		c := converse(newNode(t), v, p)
		c.request()
		c.podIngress(pod0, c.packet(c.client, c.frontend)).had(bpf.VerdictFlowOpened)
		table := c.flowTable(v.client)
		var sets []int
		for _, zone := range []bpf.Zone{bpf.ZoneOutside, bpf.ZonePod} {
			key := c.clientKey()
			key.zone = zone
			_, place, ok := table.find(key)
			if !ok {
				t.Fatalf("there is no record of %v", key)
			}
			sets = append(sets, place.tag/table.setSize())
		}
		equal(t, "sets", sets[0], sets[1])
	})
}
