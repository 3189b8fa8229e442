// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/binary"
	"encoding/json"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/waggle-lb/waggle/bpf"
	"github.com/waggle-lb/waggle/maps"
)

// sample is what the programs put into the ring when XDP has sent a SYN on.
func sample(t *testing.T, change func(*bpf.Event)) []byte {
	t.Helper()
	port := func(p uint16) uint16 { return binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, p)) }
	e := bpf.Event{
		Tuple:   bpf.Tuple{Saddr: addrWords(netip.MustParseAddr("192.168.1.10")), Daddr: addrWords(netip.MustParseAddr("192.168.1.2")), Sport: port(4000), Dport: port(30001), Proto: 6},
		To:      bpf.Tuple{Saddr: addrWords(netip.MustParseAddr("192.168.1.2")), Daddr: addrWords(netip.MustParseAddr("10.244.1.2")), Sport: port(50000), Dport: port(8080), Proto: 6},
		Service: 7, Backend: 3, Ifindex: 90001, Out: 90002, Len: 54, Before: 2, After: 3,
		Path: bpf.FlowExpress, Verdict: uint8(bpf.VerdictExpress), Hook: uint8(bpf.HookXDP), Family: 2, TcpFlags: 2, Flags: bpf.EventRewrite,
	}
	if change != nil {
		change(&e)
	}
	raw, err := binary.Append(nil, binary.NativeEndian, &e)
	if err != nil {
		t.Fatal(err)
	}
	return append(raw, 1, 2, 3, 4, 5)
}

// known are names that are not read from maps.
func known() *monitorNames {
	return &monitorNames{
		services: map[uint32]maps.Name{7: {Namespace: "default", Name: "web", Port: "http", Proto: 6, Family: maps.IPv4}},
		backends: map[uint32]maps.Backend{3: {Addr: netip.MustParseAddr("10.244.1.2"), Port: 8080, Proto: 6, Service: 7}},
		devices:  map[uint32]string{90001: "eth0", 90002: "eth1"},
		next:     time.Now().Add(time.Hour),
	}
}

func read(t *testing.T, change func(*bpf.Event)) *monitorEvent {
	t.Helper()
	e, err := known().event(sample(t, change))
	if err != nil {
		t.Fatal(err)
	}
	e.Time = time.Unix(1, 2000).UTC()
	return e
}

// TestMonitorJSON: programs read these names and forms.
func TestMonitorJSON(t *testing.T) {
	for _, c := range []struct {
		change func(*bpf.Event)
		want   string
	}{
		{nil, `{"time":"1970-01-01T00:00:01.000002Z","event":"express","hook":"xdp","device":"eth0","protocol":"TCP","source":"192.168.1.10:4000",` +
			`"destination":"192.168.1.2:30001","toSource":"192.168.1.2:50000","toDestination":"10.244.1.2:8080","service":"default/web","port":"http",` +
			`"backend":"10.244.1.2:8080","path":"express","tcpFlags":"syn","length":54,"outDevice":"eth1","before":"AQI=","after":"AwQF"}`},
		{func(e *bpf.Event) {
			e.Verdict, e.Before, e.After, e.Out = uint8(bpf.VerdictFlowOpened), 0, 0, 0
			e.Flags |= bpf.EventAffinity
		}, `{"time":"1970-01-01T00:00:01.000002Z","event":"flow-opened","hook":"xdp","device":"eth0","protocol":"TCP","source":"192.168.1.10:4000",` +
			`"destination":"192.168.1.2:30001","toSource":"192.168.1.2:50000","toDestination":"10.244.1.2:8080","service":"default/web","port":"http",` +
			`"backend":"10.244.1.2:8080","path":"express","choice":"affinity","sourceTranslated":true,"tcpFlags":"syn","length":54}`},
		{func(e *bpf.Event) {
			*e = bpf.Event{Tuple: e.Tuple, Family: 2, Hook: uint8(bpf.HookSock), Verdict: uint8(bpf.VerdictRefused), Service: 7, Pid: 12}
			e.Tuple.Saddr, e.Tuple.Sport = bpf.Addr{}, 0
			copy(e.Comm[:], []int8{'c', 'u', 'r', 'l'})
		}, `{"time":"1970-01-01T00:00:01.000002Z","event":"refused","hook":"sock","protocol":"TCP","source":"0.0.0.0:0",` +
			`"destination":"192.168.1.2:30001","service":"default/web","port":"http","pid":12,"command":"curl"}`},
	} {
		got, err := json.Marshal(read(t, c.change))
		if err != nil || string(got) != c.want {
			t.Errorf("%v\n got %s\nwant %s", err, got, c.want)
		}
	}
	if _, err := known().event(make([]byte, 20)); err == nil || !strings.Contains(err.Error(), "another version") {
		t.Errorf("an event that is too short: %v", err)
	}
}

func TestMonitorWords(t *testing.T) {
	e := read(t, nil)
	if got, want := strings.Join(e.row()[1:], " | "),
		"express | xdp | eth0 | TCP | 192.168.1.10:4000 | 192.168.1.2:30001 | default/web:http | 10.244.1.2:8080 | "+
			"express, to 192.168.1.2:50000 > 10.244.1.2:8080, by eth1, 54 bytes, syn"; got != want {
		t.Errorf("the row is %s\nwant %s", got, want)
	}
	if got, want := e.comment(true, "after"), "waggle: express, hook xdp, service default/web:http, backend 10.244.1.2:8080, after"; got != want {
		t.Errorf("the comment is %s, want %s", got, want)
	}
	var before, now bpf.WatchMeter
	before.Limited[bpf.VerdictRefused], now.Limited[bpf.VerdictRefused] = 3, 5
	now.Full[bpf.VerdictFlowOpened] = 1
	if got, want := lossesBetween(before, now, time.Second).String(),
		"2 refused by --rate; 1 flow-opened, too fast to be read; all of 1s during which this process did not run"; got != want {
		t.Errorf("lost: %s, want %s", got, want)
	}
	if l := lossesBetween(now, now, 0); !l.none() {
		t.Errorf("nothing is lost: %s", l)
	}
}

// TestMonitorVerdicts: what is shown if nothing, or something, is asked for.
func TestMonitorVerdicts(t *testing.T) {
	has := func(mask uint64, v bpf.Verdict) bool { return mask>>v&1 == 1 }
	for _, c := range []struct {
		filter  monitorFilter
		with    bpf.Verdict
		without bpf.Verdict
	}{
		{monitorFilter{}, bpf.VerdictFlowClosed, bpf.VerdictExpress},
		{monitorFilter{packets: true}, bpf.VerdictExpress, bpf.VerdictNotOurs},
		{monitorFilter{packets: true, client: "192.168.1.0/24"}, bpf.VerdictNotOurs, bpf.VerdictVlan},
		{monitorFilter{drops: true}, bpf.VerdictDropTTL, bpf.VerdictRefused},
		{monitorFilter{drops: true, verdicts: []string{"refused"}}, bpf.VerdictRefused, bpf.VerdictFlowOpened},
		{monitorFilter{packets: true, verdicts: []string{"stack"}}, bpf.VerdictStack, bpf.VerdictExpress},
	} {
		if err := c.filter.check(); err != nil {
			t.Fatal(err)
		}
		mask, err := c.filter.mask()
		if err != nil || !has(mask, c.with) || has(mask, c.without) {
			t.Errorf("%+v: %#x, %v; want %s, and not %s", c.filter, mask, err, bpf.VerdictName(c.with), bpf.VerdictName(c.without))
		}
	}
	for v := range bpf.VerdictCount { // every verdict is shown by one way or another, or refused by name
		_, err := verdictNamed(bpf.VerdictName(v))
		if (err != nil) != (v == bpf.VerdictNotIP || v == bpf.VerdictUnparsed || v == bpf.VerdictVlan || v == bpf.VerdictSockRecvmsg || v == bpf.VerdictSockGetpeername) {
			t.Errorf("--verdict %s: %v", bpf.VerdictName(v), err)
		}
	}
}
