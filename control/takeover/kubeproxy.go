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
// told with what to do about them, or nil. Such rules go stale, and lead packets that waggle leaves to the
// kernel to endpoints that are gone.
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
