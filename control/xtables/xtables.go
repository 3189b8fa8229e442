// SPDX-License-Identifier: Apache-2.0

// Package xtables reads the tables of iptables-legacy, the half of netfilter that nf_tables'
// interface doesn't show, in the network namespace of the calling thread.
package xtables

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Family is IPv4's or IPv6's half.
type Family struct {
	Command string // iptables-legacy's
	IPv6    bool
	names   string // lists its tables
	family  int    // of sockets
	level   int    // of socket options
	address int    // size of an address
}

// Families are both.
var Families = []Family{
	{"iptables-legacy", false, "/proc/thread-self/net/ip_tables_names", unix.AF_INET, unix.SOL_IP, 4},
	{"ip6tables-legacy", true, "/proc/thread-self/net/ip6_tables_names", unix.AF_INET6, unix.SOL_IPV6, 16},
}

// Tables lists what is there already: asking for another one would make it.
func (f Family) Tables() ([]string, error) {
	raw, err := os.ReadFile(f.names)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return strings.Fields(string(raw)), err
}

// The options and structures are the same in linux/netfilter_ipv4/ip_tables.h and
// linux/netfilter_ipv6/ip6_tables.h.
const (
	soGetInfo    = 64
	soGetEntries = 65
	tableNameLen = 32
)

type getInfo struct {
	name       [tableNameLen]byte
	validHooks uint32
	hookEntry  [5]uint32
	underflow  [5]uint32
	numEntries uint32
	size       uint32
}

// getEntries begins what is read; the entries follow at a multiple of 8.
type getEntries struct {
	name [tableNameLen]byte
	size uint32
	_    uint32
}

// Table is one table as the kernel keeps it.
type Table struct {
	Entries []Entry
	// The offsets of each hook's first entry, and of its policy; both absent without such a chain.
	Begin, Policy map[int]int
}

// Entry is a rule.
type Entry struct {
	Offset int    // in the table: jumps lead there
	Next   int    // the next one's
	Match  []byte // struct ipt_ip or ip6t_ip6: addresses, devices, protocol
	// Extensions and Target are structures xt_entry_match and xt_entry_target, with their data.
	Extensions, Target []byte
}

// Table reads a table.
func (f Family) Table(name string) (*Table, error) {
	info, raw, err := f.read(name)
	if err != nil {
		return nil, fmt.Errorf("read %s' table %s: %w", f.Command, name, err)
	}
	t := &Table{Begin: map[int]int{}, Policy: map[int]int{}}
	for hook := range info.hookEntry {
		if info.validHooks&(1<<hook) != 0 {
			t.Begin[hook], t.Policy[hook] = int(info.hookEntry[hook]), int(info.underflow[hook])
		}
	}
	if t.Entries, err = f.split(raw); err != nil {
		return nil, fmt.Errorf("%s' table %s: %w", f.Command, name, err)
	}
	return t, nil
}

func (f Family) read(table string) (*getInfo, []byte, error) {
	fd, err := unix.Socket(f.family, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, err
	}
	defer unix.Close(fd)
	for {
		info := getInfo{}
		copy(info.name[:], table)
		if err := getsockopt(fd, f.level, soGetInfo, unsafe.Slice((*byte)(unsafe.Pointer(&info)), unsafe.Sizeof(info))); err != nil {
			return nil, nil, err
		}
		const header = unsafe.Sizeof(getEntries{})
		buffer := make([]byte, header+uintptr(info.size))
		request := (*getEntries)(unsafe.Pointer(&buffer[0]))
		request.name, request.size = info.name, info.size
		err := getsockopt(fd, f.level, soGetEntries, buffer)
		if errors.Is(err, unix.EAGAIN) { // it was replaced in between
			continue
		}
		return &info, buffer[header:], err
	}
}

func getsockopt(fd, level, option int, value []byte) error {
	length := uint32(len(value))
	_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), uintptr(level), uintptr(option),
		uintptr(unsafe.Pointer(&value[0])), uintptr(unsafe.Pointer(&length)), 0)
	if errno != 0 {
		return errno
	}
	return nil
}

// layout gives the offsets within struct ipt_entry or ip6t_entry: of target_offset, which
// next_offset follows, and of the extensions.
func (f Family) layout() (offsets, extensions int) {
	if f.IPv6 {
		return 140, 168
	}
	return 88, 112
}

func (f Family) split(raw []byte) ([]Entry, error) {
	offsets, extensions := f.layout()
	var all []Entry
	for at := 0; len(raw)-at >= extensions; {
		e := raw[at:]
		target := int(binary.NativeEndian.Uint16(e[offsets:]))
		next := int(binary.NativeEndian.Uint16(e[offsets+2:]))
		if target < extensions || next <= target || next > len(e) {
			return nil, errors.New("the kernel's entries are not understood")
		}
		all = append(all, Entry{at, at + next, e[:offsets], e[extensions:target], e[target:next]})
		at += next
	}
	return all, nil
}

// Extension is an xt_entry_match or xt_entry_target.
type Extension struct {
	Name     string
	Revision uint8
	Data     []byte
}

// The layout of both: size, name, revision, data.
const (
	nameAt     = 2
	revisionAt = 31
	dataAt     = 32
)

// cut takes the first extension from what holds several.
func cut(raw []byte) (Extension, []byte, error) {
	if len(raw) < dataAt {
		return Extension{}, nil, errors.New("an extension of the kernel's is not understood")
	}
	size := int(binary.NativeEndian.Uint16(raw))
	if size < dataAt || size > len(raw) {
		return Extension{}, nil, errors.New("an extension of the kernel's is not understood")
	}
	return Extension{unix.ByteSliceToString(raw[nameAt:revisionAt]), raw[revisionAt], raw[dataAt:size]}, raw[size:], nil
}

// Matches are what the entry asks for beside addresses, devices and protocol.
func (e Entry) Matches() ([]Extension, error) {
	var all []Extension
	for rest := e.Extensions; len(rest) > 0; {
		var one Extension
		var err error
		if one, rest, err = cut(rest); err != nil {
			return nil, err
		}
		all = append(all, one)
	}
	return all, nil
}

// Does is the entry's target.
func (e Entry) Does() (Extension, error) {
	one, _, err := cut(e.Target)
	return one, err
}

// ChainName is the name of a user-defined chain, in the entry that begins it: its target is called
// ERROR and holds the name (struct xt_error_target of linux/netfilter/x_tables.h).
func (e Entry) ChainName() (string, bool) {
	one, err := e.Does()
	if err != nil || one.Name != "ERROR" {
		return "", false
	}
	return unix.ByteSliceToString(one.Data), true
}
