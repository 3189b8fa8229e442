// SPDX-License-Identifier: Apache-2.0

package takeover

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/waggle-lb/waggle/control/leftovers"
)

// kubeProxyEvery is the interval between looks for kube-proxy's rules: they may be removed at any time.
const kubeProxyEvery = time.Minute

// LookForKubeProxy looks at intervals, until ctx is done, for rules that kube-proxy has left. It calls
// report with an error that says what to do about them, or with nil. Such rules go stale: they lead packets that waggle
// leaves to the kernel to endpoints that are gone.
func LookForKubeProxy(ctx context.Context, report func(error)) {
	for {
		report(kubeProxySeen())
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
