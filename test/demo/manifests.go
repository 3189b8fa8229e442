// SPDX-License-Identifier: Apache-2.0

package main

import (
	"embed"
	"fmt"
	"io/fs"
	"net/netip"
	"path"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"sigs.k8s.io/yaml"

	"github.com/waggle-lb/waggle/control/manifest"
)

//go:embed manifests
var files embed.FS

const (
	atStart = "manifests"
	forLive = "manifests/later" // what is added while traffic flows
)

// copyManifests writes the manifests to the directory that the agents read, where the demo and its user may
// change them.
func (d *demo) copyManifests() error {
	names, err := fs.Glob(files, atStart+"/*.yaml")
	if err != nil {
		return err
	}
	for _, name := range names {
		if err := d.copyManifest(name); err != nil {
			return err
		}
	}
	return nil
}

func (d *demo) copyManifest(name string) error {
	raw, err := files.ReadFile(name)
	if err != nil {
		return err
	}
	return d.manifests.Write(path.Base(name), string(raw))
}

// readPods reads the Pods of a directory of manifests, in the order of their files.
func readPods(dir string) ([]*v1.Pod, error) {
	names, err := fs.Glob(files, dir+"/*.yaml")
	if err != nil {
		return nil, err
	}
	var pods []*v1.Pod
	for _, name := range names {
		raw, err := files.ReadFile(name)
		if err != nil {
			return nil, err
		}
		var kind metav1.TypeMeta
		if err := yaml.Unmarshal(raw, &kind); err != nil || kind.Kind != "Pod" {
			continue // the agents complain of what is no YAML
		}
		pod := &v1.Pod{}
		if err := yaml.UnmarshalStrict(raw, pod); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		pods = append(pods, pod)
	}
	return pods, nil
}

// readServices reads the Services as the agents see them, with the cluster IPs that these have
// given them.
func (d *demo) readServices() error {
	snapshot, err := manifest.Load(manifest.Options{Dir: d.manifests.Dir, Log: silent()})
	if err != nil {
		return err
	}
	for _, p := range snapshot.Problems {
		return fmt.Errorf("%s: %s %s: %s", p.File, p.Object, p.Field, p.Message)
	}
	for _, s := range snapshot.Services {
		d.services[s.Name] = s
	}
	return nil
}

// podsOf are the pods that a service selects, worked out apart from waggle.
func (d *demo) podsOf(service string) []*place {
	selector := labels.SelectorFromSet(d.services[service].Spec.Selector)
	var out []*place
	for _, p := range d.pods {
		if selector.Matches(labels.Set(p.object.Labels)) {
			out = append(out, p)
		}
	}
	return out
}

// Frontends of a service in one family.

func (d *demo) clusterIP(service string, v6 bool) netip.AddrPort {
	s := d.services[service]
	return netip.AddrPortFrom(ofFamily(s.Spec.ClusterIPs, v6), uint16(s.Spec.Ports[0].Port))
}

func (d *demo) nodePort(service string, addr netip.Addr) netip.AddrPort {
	return netip.AddrPortFrom(addr, uint16(d.services[service].Spec.Ports[0].NodePort))
}

func (d *demo) publicIP(service string, v6 bool) netip.AddrPort {
	s := d.services[service]
	var addrs []string
	for _, i := range s.Status.LoadBalancer.Ingress {
		addrs = append(addrs, i.IP)
	}
	return netip.AddrPortFrom(ofFamily(addrs, v6), uint16(s.Spec.Ports[0].Port))
}

func ofFamily(addrs []string, v6 bool) netip.Addr {
	for _, s := range addrs {
		if a, err := netip.ParseAddr(s); err == nil && a.Is6() == v6 {
			return a
		}
	}
	return netip.Addr{}
}
