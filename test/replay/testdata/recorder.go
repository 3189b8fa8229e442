// SPDX-License-Identifier: Apache-2.0

// This file is compiled into kube-proxy's packages nftables and, with that name in the place of this
// one, iptables.
package nftables

import (
	"encoding/json"
	"maps"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"
	discovery "k8s.io/api/discovery/v1"
)

// objects are those that a proxier has.
type objects struct {
	services map[string]*v1.Service
	slices   map[string]*discovery.EndpointSlice
}

var recorded = map[*Proxier]*objects{}

func objectsOf(p *Proxier) *objects {
	if recorded[p] == nil {
		recorded[p] = &objects{map[string]*v1.Service{}, map[string]*discovery.EndpointSlice{}}
	}
	return recorded[p]
}

func recordService(p *Proxier, before, after *v1.Service) {
	o := objectsOf(p)
	if before != nil {
		delete(o.services, before.Namespace+"/"+before.Name)
	}
	if after != nil {
		o.services[after.Namespace+"/"+after.Name] = after.DeepCopy()
	}
}

func recordSlice(p *Proxier, slice *discovery.EndpointSlice, gone bool) {
	o := objectsOf(p)
	name := slice.Namespace + "/" + slice.Name
	delete(o.slices, name)
	if !gone {
		o.slices[name] = slice.DeepCopy()
	}
}

func recordRows(t *testing.T, fake any, nodeIPs []string, rows []packetFlowTest) {
	c := recordedCase{Package: "nftables", Test: t.Name(), NodeIPs: nodeIPs}
	for p, o := range recorded {
		if any(p.nftables) == fake {
			c.take(p, o)
		}
	}
	for _, r := range rows {
		c.Rows = append(c.Rows, recordedRow{
			r.name, r.sourceIP, string(r.protocol), r.destIP, r.destPort, r.output, r.masq,
		})
	}
	line, err := json.Marshal(c)
	if err == nil {
		err = appendTo(os.Getenv("WAGGLE_RECORDING"), append(line, '\n'))
	}
	if err != nil {
		t.Fatal(err)
	}
}

func (c *recordedCase) take(p *Proxier, o *objects) {
	c.Objects = true
	c.NodeName, c.NodeIP = p.nodeName, p.nodeIP.String()
	c.NodePortAddresses, c.MasqueradeAll = p.nodePortAddresses.String(), p.masqueradeAll
	c.LocalDetector = strings.Join(p.localDetector.IfLocalNFT(), " ")
	// iptables has no such field
	if cidrs := reflect.ValueOf(p).Elem().FieldByName("serviceCIDRs"); cidrs.IsValid() {
		c.ServiceCIDRs = cidrs.String()
	}
	for _, name := range slices.Sorted(maps.Keys(o.services)) {
		c.Services = append(c.Services, o.services[name])
	}
	for _, name := range slices.Sorted(maps.Keys(o.slices)) {
		c.Slices = append(c.Slices, o.slices[name])
	}
}

func appendTo(name string, line []byte) error {
	f, err := os.OpenFile(name, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	if _, err := f.Write(line); err != nil {
		f.Close()
		return err
	}
	return f.Close()
}
