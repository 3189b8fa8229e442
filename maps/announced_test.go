// SPDX-License-Identifier: Apache-2.0

package maps_test

import (
	"net"
	"testing"
	"time"

	"github.com/waggle-lb/waggle/bpf"
	"github.com/waggle-lb/waggle/maps"
	"github.com/waggle-lb/waggle/maps/mapstest"
)

func TestAnnounced(t *testing.T) {
	p := mapstest.New(t, map[string]uint32{"announced": 2})
	table := maps.NewAnnounced(p)
	mac, other := net.HardwareAddr{2, 0, 0, 0, 0, 1}, net.HardwareAddr{2, 0, 0, 0, 0, 2}
	first, second := maps.Place{Addr: addr("192.0.2.1"), Ifindex: 7}, maps.Place{Addr: addr("2001:db8::1"), Ifindex: 9}
	must(t, table.Set(first, mac))
	must(t, table.Set(second, mac))
	expectKey(t, p.Map("announced"), []byte{7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 192, 0, 2, 1})
	expectKey(t, p.Map("announced"), []byte{9, 0, 0, 0, 0x20, 0x01, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1})
	key := bpf.AnnouncedKey{Ifindex: 7} // as the programs count
	key.Addr.Word[2], key.Addr.Word[3] = uint32(maps.NetPort(0xffff))<<16, maps.EncodeAddr(first.Addr)[0]
	must(t, p.Map("announced").Put(&key, &bpf.Announcement{Answered: 3, Lapsed: 4, Mac: [6]uint8(mac)}))
	must(t, table.Set(first, other))
	got, err := table.All()
	must(t, err)
	expect(t, "announced", got, map[maps.Place]maps.Announcement{first: {MAC: other, Answered: 3, Lapsed: 4}, second: {MAC: mac}})
	third := maps.Place{Addr: addr("192.0.2.2"), Ifindex: 7}
	expectError(t, table.Set(third, mac), "address 192.0.2.2 on device 7: the map announced is full (2 elements)")
	for _, wrong := range []net.HardwareAddr{nil, mac[:5], append(mac[:6:6], 1)} {
		expectError(t, table.Set(first, wrong), "address 192.0.2.1 on device 7: the MAC "+wrong.String()+" is not one of Ethernet")
	}
	must(t, table.Delete(first))
	must(t, table.Delete(first)) // once more
	got, err = table.All()
	must(t, err)
	expect(t, "announced", got, map[maps.Place]maps.Announcement{second: {MAC: mac}})
}

func TestAnnounceUntil(t *testing.T) {
	table := maps.NewAnnounced(mapstest.New(t, nil))
	until, err := table.Until()
	must(t, err)
	expect(t, "until", until, time.Duration(0))
	want := maps.Monotonic() + time.Second
	must(t, table.Extend(want))
	until, err = table.Until()
	must(t, err)
	expect(t, "until", until, want)
}
