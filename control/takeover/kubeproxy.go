// SPDX-License-Identifier: Apache-2.0

package takeover

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/waggle-lb/waggle/control/leftovers"
)

// kubeProxyEvery is how often kube-proxy's rules are looked for: people remove them while we run.
const kubeProxyEvery = time.Minute

// LookForKubeProxy looks now and then, until ctx is done, for rules that kube-proxy has left, and has told
// what to do about them, or nil: they go stale, and take what waggle passes to the kernel to endpoints
// that are gone.
func LookForKubeProxy(ctx context.Context, told func(error)) {
	for {
		told(kubeProxySeen())
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
