// SPDX-License-Identifier: Apache-2.0

package control

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/waggle-lb/waggle/maps"
)

// families are those that the node serves something of.
type families struct{ ipv4, ipv6 bool }

// families returns the families that there are services of.
func (p *Proxy) families() families {
	p.mu.Lock()
	defer p.mu.Unlock()
	services := p.reconciler.Size().Services
	return families{services[maps.IPv4] > 0, services[maps.IPv6] > 0}
}

// checkForwarding tells of a node that doesn't forward packets of a family that it serves: without
// that, the FIB answers no question about packets that merely cross the node. A family without
// services is the owner's own affair.
func checkForwarding(sysctlDir string, serves families) error {
	var errs []error
	for _, family := range []struct {
		served bool
		name   string
	}{
		{serves.ipv4, "net/ipv4/ip_forward"},
		{serves.ipv6, "net/ipv6/conf/all/forwarding"},
	} {
		if !family.served {
			continue
		}
		raw, err := os.ReadFile(filepath.Join(sysctlDir, family.name))
		switch {
		case os.IsNotExist(err): // a kernel without IPv6
		case err != nil:
			errs = append(errs, err)
		case strings.TrimSpace(string(raw)) == "0":
			errs = append(errs, fmt.Errorf("%s is 0: backends on other nodes and pods can't be reached; set it to 1",
				strings.ReplaceAll(family.name, "/", ".")))
		}
	}
	return errors.Join(errs...)
}

// judgeForwarding warns of a node that does not forward what it serves.
func (a *Agent) judgeForwarding() {
	a.warn("forwarding", checkForwarding("/proc/sys", a.proxy.families()))
}
