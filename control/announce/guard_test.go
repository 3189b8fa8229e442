// SPDX-License-Identifier: Apache-2.0

package announce

import (
	"net/netip"
	"testing"
	"time"
)

// TestGuard: each held address is asked about once a minute at most, all in turns, and none that is held no more.
func TestGuard(t *testing.T) {
	g, now := newGuard(), time.Unix(1000, 0)
	held := map[netip.Addr]int64{}
	for i := range 3 {
		held[netip.AddrFrom4([4]byte{192, 0, 2, byte(i)})] = 1
	}
	asked := map[netip.Addr][]time.Duration{}
	for second := range 200 {
		if addr, ok := g.due(held, now.Add(time.Duration(second)*guardPause)); ok {
			asked[addr] = append(asked[addr], time.Duration(second)*guardPause)
		}
	}
	for addr := range held {
		if len(asked[addr]) != 3 {
			t.Errorf("%s was asked about after %v", addr, asked[addr])
		}
		for i := 1; i < len(asked[addr]); i++ {
			if pause := asked[addr][i] - asked[addr][i-1]; pause < guardEvery {
				t.Errorf("%s was asked about again after %s", addr, pause)
			}
		}
	}
	var gone netip.Addr
	for gone = range held {
		break
	}
	g.contested[gone] = "02:00:00:00:00:01"
	delete(held, gone)
	for second := range 200 {
		if addr, ok := g.due(held, now.Add(time.Duration(1000+second)*guardPause)); ok && addr == gone {
			t.Errorf("%s is held no more, and is asked about", addr)
		}
	}
	if len(g.contested) > 0 {
		t.Error("what is held no more is contested still")
	}
}
