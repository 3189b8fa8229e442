// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"context"
	"fmt"
	"net"
	"slices"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	utilnode "k8s.io/kubernetes/pkg/util/node"
)

// ownNode is what the sink knows of our Node.
type ownNode struct {
	name      string
	latest    *v1.Node
	uid       types.UID
	addresses []net.IP      // the last addresses that the Node had
	delivered chan struct{} // closed when the sink knows the Node
	known     bool
	patient   bool // wait for addresses
}

// onNode follows our Node. The sink gets it only when it has addresses, since they decide which
// devices are external. Later changes of addresses are passed on like any change.
func (r *run) onNode(old, new *v1.Node) {
	if r.err != nil {
		return
	}
	o := &r.own
	if new == nil {
		o.latest = nil
		if o.known {
			r.fail(fmt.Errorf("our Node %s was deleted", o.name))
		}
		return
	}
	o.latest = new
	switch {
	case !o.known && o.patient && len(hostIPs(new)) == 0:
	case !o.known:
		r.deliverNode()
	case new.UID != o.uid:
		r.fail(fmt.Errorf("our Node %s was deleted, and made anew", o.name))
	default:
		r.noteAddresses(hostIPs(new))
		r.sink.OnNode(old, new)
	}
}

// hostIPs returns the addresses of a Node that kube-proxy takes, at most one of each family.
func hostIPs(node *v1.Node) []net.IP {
	addresses, _ := utilnode.GetNodeHostIPs(node) // the error means that there are none
	return addresses
}

// noteAddresses logs a change of our Node's addresses. A moment without any is no change: kubelets
// and cloud controllers write them in turns.
func (r *run) noteAddresses(addresses []net.IP) {
	o := &r.own
	if len(addresses) == 0 || slices.EqualFunc(addresses, o.addresses, net.IP.Equal) {
		return
	}
	r.log.Infof("the addresses of our Node %s have changed from %v to %v", o.name, o.addresses, addresses)
	o.addresses = addresses
}

// deliverNode passes our Node to the sink for the first time.
func (r *run) deliverNode() {
	o := &r.own
	o.uid = o.latest.UID
	o.addresses = hostIPs(o.latest)
	o.known = true
	r.sink.OnNode(nil, o.latest)
	close(o.delivered)
}

// awaitNode waits until the sink has our Node, once the Nodes are listed. A Node that gets no
// addresses is passed on without: the program that sets them may need Services that we serve.
func (r *run) awaitNode(ctx context.Context) bool {
	addresses, node := time.NewTimer(r.pace.addresses), time.NewTimer(r.pace.node)
	defer addresses.Stop()
	defer node.Stop()
	for {
		select {
		case <-ctx.Done():
			return false
		case <-r.own.delivered:
			return true
		case <-addresses.C:
			r.settleForNoAddresses()
		case <-node.C:
			r.mu.Lock()
			defer r.mu.Unlock()
			r.fail(fmt.Errorf("there is no Node %s, and was none for %s (--node-name)", r.own.name, r.pace.node))
			return false
		}
	}
}

func (r *run) settleForNoAddresses() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.own.patient = false
	if r.own.latest != nil && !r.own.known {
		r.log.Warnf("our Node %s has no addresses yet", r.own.name)
		r.deliverNode()
	}
}
