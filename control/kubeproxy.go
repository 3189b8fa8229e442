// SPDX-License-Identifier: Apache-2.0

package control

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/waggle-lb/waggle/control/leftovers"
)

// kubeProxyEvery is how often kube-proxy's rules are looked for: people remove them while we run.
const kubeProxyEvery = time.Minute

// lookForKubeProxy warns of rules that kube-proxy has left: they go stale, and take what waggle
// passes to the kernel to endpoints that are gone.
func (a *Agent) lookForKubeProxy(ctx context.Context) {
	for {
		a.warn("kube-proxy", kubeProxySeen())
		a.poke()
		select {
		case <-ctx.Done():
			return
		case <-time.After(kubeProxyEvery):
		}
	}
}

func kubeProxySeen() error {
	seen, err := leftovers.Seen()
	if err != nil || len(seen) == 0 {
		return err
	}
	return fmt.Errorf("its rules are on this node (%s); once it no longer runs, remove them: waggle cleanup --kube-proxy",
		strings.Join(seen, ", "))
}
