// SPDX-License-Identifier: Apache-2.0

package control

import (
	"net/netip"
	"slices"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/kubernetes/pkg/proxy/apis"
)

// served decides by their labels which objects are for this proxy: those for no proxy in particular
// or, if it has a name, those for the proxy of this name only. A proxy with a name is one beside
// the cluster's own, which serves the others.
type served string

func (name served) takes(labels map[string]string) bool {
	if _, headless := labels[v1.IsHeadlessService]; headless {
		return false
	}
	proxy, named := labels[apis.LabelServiceProxyName]
	return named == (name != "") && proxy == string(name)
}

// ours returns the object, or nil if it is not for this proxy: an object that gains such a label is
// gone for us. kube-proxy's informers select by these labels. Here the proxy does it, so that no
// source can forget to.
func ours[T any, P interface {
	*T
	metav1.Object
}](s served, object P) P {
	if object == nil || !s.takes(object.GetLabels()) {
		return nil
	}
	return object
}

// ServeAs selects the objects that are labelled for the proxy of this name. Call it before the
// source runs.
func (p *Proxy) ServeAs(name string) { p.served = served(name) }

// othersServices are the cluster IPs of services that are not for this proxy, by service. They are
// allocated, so packets to them must not be dropped.
type othersServices map[types.NamespacedName][]netip.Addr

// follow reports whether anything has changed.
func (o othersServices) follow(name served, old, new *v1.Service) bool {
	service := new
	if new == nil {
		service = old
	}
	key := types.NamespacedName{Namespace: service.Namespace, Name: service.Name}
	var ips []netip.Addr
	if new != nil && !name.takes(new.Labels) {
		for _, s := range append([]string{new.Spec.ClusterIP}, new.Spec.ClusterIPs...) {
			if ip, err := netip.ParseAddr(s); err == nil { // not "None"
				ips = append(ips, ip.Unmap())
			}
		}
	}
	before := o[key]
	o[key] = ips
	if len(ips) == 0 {
		delete(o, key)
	}
	return !slices.Equal(before, ips)
}

func (o othersServices) clusterIPs() map[netip.Addr]bool {
	all := map[netip.Addr]bool{}
	for _, ips := range o {
		for _, ip := range ips {
			all[ip] = true
		}
	}
	return all
}
