// SPDX-License-Identifier: Apache-2.0

package node

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// ConntrackParameter is a parameter of the kernel's connection tracking that kube-proxy would set
// at its start. With waggle in its place no program sets it, at the latest after the next boot.
type ConntrackParameter struct {
	From  string // the fields of kube-proxy's configuration that set it
	Name  string // below net/netfilter
	Want  int
	Given bool // the configuration sets it; else it is kube-proxy's default
}

const (
	netfilterParameters = "/proc/sys/net/netfilter"
	mostConnections     = "nf_conntrack_max"
)

// ConntrackNotices returns a notice for each parameter that has another value in the kernel.
func ConntrackNotices(parameters []ConntrackParameter) (notices []string) {
	for _, p := range parameters {
		if notice := p.notice(netfilterParameters); notice != "" {
			notices = append(notices, notice)
		}
	}
	return notices
}

// notice compares a parameter with the kernel's value. For kube-proxy's mere defaults it returns a
// notice only where something may fail: when the table is full the kernel drops new connections.
func (p ConntrackParameter) notice(dir string) string {
	have := "no such parameter, as long as it tracks no connections"
	raw, err := os.ReadFile(filepath.Join(dir, p.Name))
	switch {
	case errors.Is(err, fs.ErrNotExist) && !p.Given:
		return ""
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		have = err.Error()
	default:
		have = strings.TrimSpace(string(raw))
		if n, err := strconv.Atoi(have); !p.Given && (p.Name != mostConnections || err != nil || n >= p.Want) {
			return ""
		}
	}
	return fmt.Sprintf("%s: kube-proxy would set net.netfilter.%s to %d; the kernel has %s, and waggle leaves it to its owner (sysctl)",
		p.From, p.Name, p.Want, have)
}
