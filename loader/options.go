// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"fmt"
	"math"
	"path/filepath"
	"strings"
	"time"

	"github.com/sirupsen/logrus"
)

// DefaultPinDir is where the datapath is pinned unless Options say otherwise.
const DefaultPinDir = "/sys/fs/bpf/waggle"

// Options are the parameters of Load. The zero value is a working configuration.
type Options struct {
	// PinDir is on a bpf file system; DefaultPinDir if empty.
	PinDir string
	// NodePortMin and NodePortMax are 30000 and 32767 if both are 0.
	NodePortMin, NodePortMax uint16
	// SNATMin and SNATMax are 49152 and 65535 if both are 0.
	SNATMin, SNATMax uint16
	Timeouts         Timeouts
	// MasqueradeAll translates the source of all packets for a cluster IP.
	MasqueradeAll bool
	// AnswerPing replies to pings of cluster IPs. Without it they are refused.
	AnswerPing bool
	// SocketLBHost leaves the sockets of pods to the hooks on their devices.
	SocketLBHost bool
	// MapSizes overrides max_entries, by the map's name.
	MapSizes map[string]uint32
	// PodsLater leaves the program of pods' devices to the first such device, or to LoadRest: the node has
	// none yet.
	PodsLater bool
	// Claimed is called once this process holds the pin directory, before it loads the programs, which takes
	// a while. nil: no call.
	Claimed func()
	// ForceClsact attaches tc programs as clsact filters even if the kernel has TCX.
	ForceClsact bool
	// Log is logrus' standard logger if nil.
	Log *logrus.Entry
}

// Timeouts say how long a flow's records outlive its last packet. 0 means the default.
type Timeouts struct {
	New           time.Duration // not answered yet, or not acknowledged: 60s
	TCP           time.Duration // established: 24h
	TCPHalfClosed time.Duration // one side has sent FIN: 1h
	TCPClosed     time.Duration // both have, TIME_WAIT: 60s
	TCPReset      time.Duration // either has sent RST: 10s
	UDP           time.Duration // answered: 120s
}

// The programs note a flow's last packet once a second, and compare jiffies as signed 32 bits.
const (
	minTimeout  = 2 * time.Second
	maxTimeouts = math.MaxInt32
)

func (o Options) complete() (Options, error) {
	if o.PinDir == "" {
		o.PinDir = DefaultPinDir
	}
	var err error
	if o.PinDir, err = cleanPinDir(o.PinDir); err != nil {
		return o, err
	}
	if o.NodePortMin == 0 && o.NodePortMax == 0 {
		o.NodePortMin, o.NodePortMax = 30000, 32767
	}
	if o.SNATMin == 0 && o.SNATMax == 0 {
		o.SNATMin, o.SNATMax = 49152, 65535
	}
	o.Timeouts = o.Timeouts.complete()
	if o.Log == nil {
		o.Log = logrus.NewEntry(logrus.StandardLogger())
	}
	return o, o.checkPorts()
}

func (o Options) checkPorts() error {
	switch {
	case o.NodePortMin == 0 || o.NodePortMin > o.NodePortMax:
		return fmt.Errorf("node port range %d-%d: want 0 < min <= max", o.NodePortMin, o.NodePortMax)
	case o.SNATMin == 0 || o.SNATMin > o.SNATMax:
		return fmt.Errorf("SNAT port range %d-%d: want 0 < min <= max", o.SNATMin, o.SNATMax)
	case o.NodePortMin <= o.SNATMax && o.SNATMin <= o.NodePortMax:
		return fmt.Errorf("SNAT port range %d-%d overlaps the node port range %d-%d: choose another",
			o.SNATMin, o.SNATMax, o.NodePortMin, o.NodePortMax)
	}
	return nil
}

func (t Timeouts) complete() Timeouts {
	fill := func(d *time.Duration, byDefault time.Duration) {
		if *d == 0 {
			*d = byDefault
		}
	}
	fill(&t.New, 60*time.Second)
	fill(&t.TCP, 24*time.Hour)
	fill(&t.TCPHalfClosed, time.Hour)
	fill(&t.TCPClosed, 60*time.Second)
	fill(&t.TCPReset, 10*time.Second)
	fill(&t.UDP, 120*time.Second)
	return t
}

// inJiffies returns the timeouts by the names of the programs' variables.
func (t Timeouts) inJiffies(hz uint32) (map[string]uint32, error) {
	jiffies := make(map[string]uint32)
	for name, d := range map[string]time.Duration{
		"timeout_new":             t.New,
		"timeout_tcp":             t.TCP,
		"timeout_tcp_half_closed": t.TCPHalfClosed,
		"timeout_tcp_closed":      t.TCPClosed,
		"timeout_tcp_reset":       t.TCPReset,
		"timeout_udp":             t.UDP,
	} {
		longest := time.Duration(maxTimeouts/hz) * time.Second
		if d < minTimeout || d > longest {
			return nil, fmt.Errorf("%s is %v: want %v to %v", name, d, minTimeout, longest)
		}
		jiffies[name] = uint32(d.Seconds() * float64(hz))
	}
	return jiffies, nil
}

// cleanPinDir normalises the path, because clsact filters know their owner by it.
func cleanPinDir(dir string) (string, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return "", fmt.Errorf("pin directory %s: %w", dir, err)
	}
	if strings.Contains(dir, ".") {
		return "", fmt.Errorf("pin directory %s: a bpf file system allows no '.' in names", dir)
	}
	return dir, nil
}
