// SPDX-License-Identifier: Apache-2.0

package node

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/waggle-lb/waggle/control/atomicfile"
	"github.com/waggle-lb/waggle/control/rundir"
)

// reservedPorts lists the ports of this network namespace that the kernel keeps out of its
// ephemeral range (Documentation/networking/ip-sysctl.rst).
const reservedPorts = "net/ipv4/ip_local_reserved_ports"

// bootID changes at each boot, and the kernel's list is empty then.
const bootID = "/proc/sys/kernel/random/boot_id"

// reservation is what the agent has added to the reserved ports. What the administrator has
// reserved is not in it.
type reservation struct {
	Boot  string `json:"boot"`
	Ports string `json:"ports"`
	// Pending: a change of the kernel's list was begun, and may not be done. Ports has the agent's
	// ports from before and after it, so some of them may not be reserved.
	Pending bool `json:"pending,omitempty"`
}

// ReservePorts removes the range that SNAT uses from the kernel's ephemeral ports, so that no
// socket of the node gets the port of a translated flow. It gives back other ports that an earlier
// agent has reserved. sysctlDir is /proc/sys, or a writable mount of it: containers have it
// read-only.
func ReservePorts(sysctlDir, runDir string, r PortRange) error {
	record, err := readReservation(runDir)
	if err != nil {
		return err
	}
	if record == nil {
		record = inherited(runDir, r)
	}
	_, err = changeReserved(sysctlDir, runDir, record, portsOf(r))
	return err
}

// ReleasePorts gives back what agents have reserved, and leaves what the administrator has
// reserved. It returns what it gives back: ports and ranges, separated by commas.
func ReleasePorts(sysctlDir, runDir string) (released string, err error) {
	record, err := readReservation(runDir)
	if err != nil || record == nil {
		return "", err
	}
	if released, err = changeReserved(sysctlDir, runDir, record, portsOf()); err != nil {
		return released, err
	}
	return released, os.Remove(rundir.ReservedPortsFile(runDir))
}

// readReservation returns nil if nothing is recorded for this boot. An unreadable record counts as
// none.
func readReservation(runDir string) (*reservation, error) {
	raw, err := os.ReadFile(rundir.ReservedPortsFile(runDir))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("which ports are reserved for the agent: %w", err)
	}
	boot, err := os.ReadFile(bootID)
	if err != nil {
		return nil, err
	}
	record := &reservation{}
	if err := json.Unmarshal(raw, record); err != nil || record.Boot != string(boot) {
		return nil, nil
	}
	return record, nil
}

// inherited guesses what an agent of an earlier release, which kept no record, has reserved: if an
// agent has run here, what this one wants. See ours: it counts only if all of it is reserved.
func inherited(runDir string, r PortRange) *reservation {
	if _, err := os.Stat(rundir.StatusFile(runDir)); err != nil {
		return nil
	}
	return &reservation{Ports: r.String()}
}

func (r *reservation) write(runDir string) error {
	boot, err := os.ReadFile(bootID)
	if err != nil {
		return err
	}
	r.Boot = string(boot)
	raw, err := json.Marshal(r)
	if err != nil {
		return err
	}
	if err := rundir.Make(runDir); err != nil {
		return err
	}
	return atomicfile.Write(rundir.ReservedPortsFile(runDir), append(raw, '\n'), 0o644)
}

// ours returns the reserved ports that are the agent's. If some of them are no longer reserved,
// another program has replaced the whole list since, and all of the list belongs to it.
func (r *reservation) ours(reserved *portSet) *portSet {
	if r == nil {
		return portsOf()
	}
	recorded, err := parsePorts(r.Ports)
	if err != nil || !r.Pending && !reserved.holds(recorded) {
		return portsOf()
	}
	return recorded.common(reserved)
}

// changeReserved makes the kernel reserve the wanted ports, and what others have reserved. It
// records what it adds before and after the change, so that the record stays right if the process
// is killed in between.
func changeReserved(sysctlDir, runDir string, record *reservation, want *portSet) (released string, err error) {
	file := filepath.Join(sysctlDir, reservedPorts)
	raw, err := os.ReadFile(file)
	if err != nil {
		return "", fmt.Errorf("reserving ports: %w", err)
	}
	reserved, err := parsePorts(strings.TrimSpace(string(raw)))
	if err != nil {
		return "", fmt.Errorf("%s: %w", file, err)
	}
	ours := record.ours(reserved)
	theirs := reserved.without(ours)
	added := want.without(theirs)
	if after := theirs.with(added); *after != *reserved {
		pending := reservation{Ports: ours.with(added).String(), Pending: true}
		if err := pending.write(runDir); err != nil {
			return "", err
		}
		if err := os.WriteFile(file, []byte(after.String()+"\n"), 0o644); err != nil {
			return "", fmt.Errorf("reserving ports: %w", err)
		}
	}
	return ours.without(added).String(), (&reservation{Ports: added.String()}).write(runDir)
}
