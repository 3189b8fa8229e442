// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"fmt"
	"slices"
	"time"

	"github.com/waggle-lb/waggle/loader"
	"github.com/waggle-lb/waggle/maps"
	"github.com/waggle-lb/waggle/test/topo"
)

// AwaitNamespace waits until the agent has found the network namespace of a pod on its node.
func (a *Agent) AwaitNamespace(pod *topo.Pod) error {
	var cookie uint64
	err := pod.Do(func() (err error) {
		cookie, err = loader.NetnsCookie()
		return err
	})
	if err != nil {
		return err
	}
	p, err := loader.Open(a.PinDir)
	if err != nil {
		return err
	}
	defer p.Close()
	table := maps.NewPodNamespaces(p)
	for deadline := time.Now().Add(startTimeout); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		all, err := table.All()
		if err != nil || slices.Contains(all, cookie) {
			return err
		}
	}
	return fmt.Errorf("agent on %s: the network namespace of pod %s is not found; the log ends:\n%s", a.Node.Name, pod.Name, a.logTail())
}
