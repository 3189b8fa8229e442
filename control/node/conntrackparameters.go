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

// ConntrackParameter is one of the kernel's connection tracking that kube-proxy would set at its
// start. With waggle in its place nobody does, at the latest after the next boot.
type ConntrackParameter struct {
	From  string // the fields of kube-proxy's configuration that ask for it
	Name  string // below net/netfilter
	Want  int
	Given bool // somebody has asked for it; else it is kube-proxy's default
}

const (
	netfilterParameters = "/proc/sys/net/netfilter"
	mostConnections     = "nf_conntrack_max"
)

// ConntrackNotices tells of the parameters that the kernel has otherwise now.
func ConntrackNotices(parameters []ConntrackParameter) (notices []string) {
	for _, p := range parameters {
		if notice := p.notice(netfilterParameters); notice != "" {
			notices = append(notices, notice)
		}
	}
	return notices
}

// notice compares a parameter with the kernel's. What is only kube-proxy's default is told where
// something may fail for it: of a full table the kernel drops new connections.
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
