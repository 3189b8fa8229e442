// SPDX-License-Identifier: Apache-2.0

package control

import (
	"fmt"
	"os"
	"strings"
)

// checkForwarding tells of a node that doesn't forward packets: without that, the FIB answers
// no question about packets that merely cross the node.
func checkForwarding() error {
	for _, name := range []string{"net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"} {
		raw, err := os.ReadFile("/proc/sys/" + name)
		if os.IsNotExist(err) {
			continue // a kernel without IPv6
		}
		if err != nil {
			return err
		}
		if strings.TrimSpace(string(raw)) == "0" {
			return fmt.Errorf("%s is 0: backends on other nodes and pods can't be reached; set it to 1",
				strings.ReplaceAll(name, "/", "."))
		}
	}
	return nil
}
