// SPDX-License-Identifier: Apache-2.0

package leftovers

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"slices"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// legacy is one family of the x_tables half of the kernel, which nf_tables' interface doesn't show.
type legacy struct {
	names   string // lists its tables
	family  int    // of sockets
	level   int    // of socket options
	offsets int    // of target_offset in struct ipt_entry or ip6t_entry; next_offset follows it
	command string // iptables-legacy's
}

var legacies = []legacy{
	{"/proc/thread-self/net/ip_tables_names", unix.AF_INET, unix.SOL_IP, 88, "iptables-legacy"},
	{"/proc/thread-self/net/ip6_tables_names", unix.AF_INET6, unix.SOL_IPV6, 140, "ip6tables-legacy"},
}

// tables lists what is there already: asking for another one would make it.
func (l legacy) tables() ([]string, error) {
	raw, err := os.ReadFile(l.names)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(strings.Fields(string(raw)),
		func(t string) bool { return !slices.Contains(iptablesTables, t) }), nil
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

// entries reads a table as the kernel keeps it.
func (l legacy) entries(table string) ([]byte, error) {
	fd, err := unix.Socket(l.family, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	for {
		info := getInfo{}
		copy(info.name[:], table)
		if err := getsockopt(fd, l.level, soGetInfo, unsafe.Slice((*byte)(unsafe.Pointer(&info)), unsafe.Sizeof(info))); err != nil {
			return nil, err
		}
		const header = unsafe.Sizeof(getEntries{})
		buffer := make([]byte, header+uintptr(info.size))
		request := (*getEntries)(unsafe.Pointer(&buffer[0]))
		request.name, request.size = info.name, info.size
		err := getsockopt(fd, l.level, soGetEntries, buffer)
		if errors.Is(err, unix.EAGAIN) { // it was replaced in between
			continue
		}
		return buffer[header:], err
	}
}

// chains lists the chains that somebody has made. Each begins with an entry whose target is called
// ERROR and holds the chain's name (struct xt_error_target of linux/netfilter/x_tables.h).
func (l legacy) chains(table string) ([]string, error) {
	entries, err := l.entries(table)
	if err != nil {
		return nil, fmt.Errorf("read %s' table %s: %w", l.command, table, err)
	}
	var chains []string
	for len(entries) >= l.offsets+4 {
		target := int(binary.NativeEndian.Uint16(entries[l.offsets:]))
		next := int(binary.NativeEndian.Uint16(entries[l.offsets+2:]))
		if next <= target || next > len(entries) {
			return nil, fmt.Errorf("%s' table %s: the kernel's entries are not understood", l.command, table)
		}
		const nameAt, errorNameAt = 2, 32
		if t := entries[target:next]; len(t) > errorNameAt && unix.ByteSliceToString(t[nameAt:errorNameAt]) == "ERROR" {
			chains = append(chains, unix.ByteSliceToString(t[errorNameAt:]))
		}
		entries = entries[next:]
	}
	return chains, nil
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

// seen lists the tables that have kube-proxy's chains.
func (l legacy) seen() ([]string, error) {
	tables, err := l.tables()
	if err != nil {
		return nil, err
	}
	var seen []string
	for _, table := range tables {
		chains, err := l.chains(table)
		if err != nil {
			return seen, err
		}
		if slices.ContainsFunc(chains, isTelling) {
			seen = append(seen, table)
		}
	}
	return seen, nil
}

func seenLegacy() ([]string, error) {
	var all []string
	var errs []error
	for _, l := range legacies {
		seen, err := l.seen()
		for _, table := range seen {
			all = append(all, fmt.Sprintf("%s' table %s", l.command, table))
		}
		errs = append(errs, err)
	}
	return all, errors.Join(errs...)
}

func removeLegacy(r *Report) error {
	var errs []error
	for _, l := range legacies {
		seen, err := l.seen()
		errs = append(errs, err)
		for _, table := range seen {
			if _, err := exec.LookPath(l.command + "-save"); err != nil {
				r.left("kube-proxy's chains in %s' table %s: it takes that program, which is not installed here, to remove them "+
					"(on the host: waggle cleanup --kube-proxy, or kube-proxy --cleanup)", l.command, table)
				continue
			}
			if err := l.remove(table, r); err != nil {
				errs = append(errs, fmt.Errorf("%s' table %s: %w", l.command, table, err))
			}
		}
	}
	return errors.Join(errs...)
}

func (l legacy) remove(table string, r *Report) error {
	saved, err := exec.Command(l.command+"-save", "-t", table).Output()
	if err != nil {
		return fmt.Errorf("%s-save: %w", l.command, err)
	}
	plan := planRemoval(parseSaved(string(saved)))
	restore := exec.Command(l.command+"-restore", "--noflush")
	restore.Stdin = strings.NewReader(restoreInput(table, plan.rules, plan.chains))
	if out, err := restore.CombinedOutput(); err != nil {
		return fmt.Errorf("%s-restore: %w: %s", l.command, err, bytes.TrimSpace(out))
	}
	plan.report(r, l.command+"' table "+table)
	return nil
}

// parseSaved reads the output of iptables-save for one table. A rule is known by its arguments.
func parseSaved(saved string) (chains []string, jumps []jump[string]) {
	builtin := map[string]bool{}
	for line := range strings.Lines(saved) {
		line = strings.TrimSpace(line)
		fields := strings.Fields(line)
		switch {
		case len(fields) > 1 && strings.HasPrefix(line, ":"):
			name := fields[0][1:]
			chains = append(chains, name)
			builtin[name] = fields[1] != "-" // has a policy
		case len(fields) > 3 && fields[0] == "-A":
			// Comments are quoted, and targets' own options come last, but jumps have none.
			if kind := fields[len(fields)-2]; kind == "-j" || kind == "-g" {
				jumps = append(jumps, jump[string]{fields[1], fields[len(fields)-1], builtin[fields[1]], strings.TrimPrefix(line, "-A ")})
			}
		}
	}
	return chains, jumps
}

// restoreInput is what makes iptables-restore --noflush do it, in one transaction.
func restoreInput(table string, rules, chains []string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "*%s\n", table)
	for _, chain := range chains {
		fmt.Fprintf(&b, ":%s - [0:0]\n", chain) // empties it
	}
	for _, rule := range rules {
		fmt.Fprintf(&b, "-D %s\n", rule)
	}
	for _, chain := range chains {
		fmt.Fprintf(&b, "-X %s\n", chain)
	}
	b.WriteString("COMMIT\n")
	return b.String()
}
