// SPDX-License-Identifier: Apache-2.0

package maps

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/waggle-lb/waggle/bpf"
)

// Announced are the addresses for which the programs answer ARP requests and neighbour solicitations, by the
// devices on which they do (bpf/announce.h).
type Announced struct {
	p Provider
}

// NewAnnounced opens the maps.
func NewAnnounced(p Provider) *Announced { return &Announced{p} }

// Place is an address at a device.
type Place struct {
	Addr    netip.Addr
	Ifindex int
}

// Announcement is what the programs answer at a place, and how often.
type Announcement struct {
	MAC net.HardwareAddr
	// Answered counts requests and solicitations that were answered, since the address was set there. Lapsed counts
	// those that came after the time of Extend was over.
	Answered, Lapsed uint64
}

// Set has an address answered with a MAC on a device. Where it was set before, the counters stay.
func (a *Announced) Set(place Place, mac net.HardwareAddr) error {
	key := place.key()
	var value bpf.Announcement
	if err := a.table().Lookup(key, &value); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return fmt.Errorf("%s: reading the map announced: %w", place, err)
	}
	if copy(value.Mac[:], mac) != len(value.Mac) || len(mac) != len(value.Mac) {
		return fmt.Errorf("%s: the MAC %s is not one of Ethernet", place, mac)
	}
	if err := put(a.table(), "announced", key, &value); err != nil {
		return fmt.Errorf("%s: %w", place, err)
	}
	return nil
}

// Delete has an address not answered on a device any more. It returns no error for one that is not there.
func (a *Announced) Delete(place Place) error {
	beforeWrite()
	if err := a.table().Delete(place.key()); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return fmt.Errorf("%s: the map announced: %w", place, err)
	}
	return nil
}

// All reads what is answered.
func (a *Announced) All() (map[Place]Announcement, error) {
	out := map[Place]Announcement{}
	err := each(a.table(), "announced", func(key bpf.AnnouncedKey, value *bpf.Announcement) {
		place := Place{addr6(key.Addr.Word).Unmap(), int(key.Ifindex)}
		out[place] = Announcement{slices.Clone(value.Mac[:]), value.Answered, value.Lapsed}
	})
	return out, err
}

// Extend has the programs answer until a time, and no longer, which is so long after the boot of the node (Monotonic).
func (a *Announced) Extend(until time.Duration) error {
	return put(a.p.Map("announce_until"), "announce_until", uint32(0), uint64(until))
}

// Until reads that time. 0: the programs have never been allowed to answer.
func (a *Announced) Until() (time.Duration, error) {
	var until uint64
	if err := a.p.Map("announce_until").Lookup(uint32(0), &until); err != nil {
		return 0, fmt.Errorf("reading the map announce_until: %w", err)
	}
	return time.Duration(until), nil
}

// Monotonic is the clock of Extend: CLOCK_MONOTONIC, as bpf_ktime_get_ns reads it.
func Monotonic() time.Duration {
	var now unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &now) // it can't fail
	return time.Duration(now.Nano())
}

func (a *Announced) table() *ebpf.Map { return a.p.Map("announced") }

func (p Place) String() string { return fmt.Sprintf("address %s on device %d", p.Addr, p.Ifindex) }

// key is IPv4-mapped for IPv4: both families are in one map.
func (p Place) key() *bpf.AnnouncedKey {
	return &bpf.AnnouncedKey{Ifindex: uint32(p.Ifindex), Addr: bpf.Addr{Word: words6(p.Addr)}}
}
