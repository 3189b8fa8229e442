// SPDX-License-Identifier: Apache-2.0

package node

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// Families says which families the node has services of.
type Families struct{ IPv4, IPv6 bool }

// CheckForwarding returns an error if the node doesn't forward packets of a family that it serves:
// the FIB then returns no route for packets that cross the node. A family without services is not
// checked. sysctlDir is /proc/sys.
func CheckForwarding(sysctlDir string, serves Families) error {
	var errs []error
	for _, family := range []struct {
		served bool
		name   string
	}{
		{serves.IPv4, "net/ipv4/ip_forward"},
		{serves.IPv6, "net/ipv6/conf/all/forwarding"},
	} {
		if !family.served {
			continue
		}
		raw, err := os.ReadFile(filepath.Join(sysctlDir, family.name))
		switch {
		case os.IsNotExist(err): // the kernel has no IPv6
		case err != nil:
			errs = append(errs, err)
		case strings.TrimSpace(string(raw)) == "0":
			errs = append(errs, fmt.Errorf("%s is 0: backends on other nodes and pods can't be reached; set it to 1",
				strings.ReplaceAll(family.name, "/", ".")))
		}
	}
	return errors.Join(errs...)
}
