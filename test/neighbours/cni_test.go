// SPDX-License-Identifier: Apache-2.0

package neighbours

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"text/template"

	"github.com/waggle-lb/waggle/test/topo"
)

// hostPort is the port of a node at which portmap shows a pod to the outside.
const hostPort = 18070

// hostPorts are the mappings of the pods that have any.
var hostPorts = map[string]string{local: mappings, remote: mappings, self: "[]", sockets: "[]", packets: "[]"}

var mappings = fmt.Sprintf(`[{"hostPort": %[1]d, "containerPort": %[2]d, "protocol": "tcp"},
	{"hostPort": %[1]d, "containerPort": %[3]d, "protocol": "udp"}]`, hostPort, serverPorts.Echo[0], serverPorts.UDP[0])

// attachByCNI has the environment's CNI plugins attach a pod, as a kubelet's container runtime does.
func (s *setup) attachByCNI(pod *topo.Pod) error {
	dir := filepath.Join(s.dir, pod.Node.Name)
	conf := filepath.Join(dir, "net.d.conflist")
	if _, err := os.Stat(conf); os.IsNotExist(err) {
		if err := s.writeNetwork(pod.Node, dir, conf); err != nil {
			return err
		}
	}
	cmd := pod.Node.Command(filepath.Join(s.parts, "cni"), "-plugins", pluginsDir, "-cache", dir,
		"-conf", conf, "-id", pod.Name, "-netns", pod.NamespacePath(), "-ports", hostPorts[pod.Name])
	var complaints bytes.Buffer
	cmd.Stderr = &complaints
	out, err := cmd.Output()
	if err != nil {
		return fmt.Errorf("%w: %s%s", err, out, &complaints)
	}
	if err := takeResult(pod, out); err != nil {
		return err
	}
	return s.awaitPod(pod)
}

// writeNetwork fills the list of plugins in for a node.
func (s *setup) writeNetwork(node *topo.Node, dir, file string) error {
	list, err := template.ParseFiles(filepath.Join("networks", s.network))
	if err != nil {
		return err
	}
	mtu, err := s.podMTU(node)
	if err != nil {
		return err
	}
	var text bytes.Buffer
	err = list.Execute(&text, map[string]any{"Dir": dir, "Pods4": node.PodCIDR4, "Pods6": node.PodCIDR6, "MTU": mtu})
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	return os.WriteFile(file, text.Bytes(), 0o644)
}

// takeResult reads what a plugin has made, in the words of the CNI specification.
func takeResult(pod *topo.Pod, out []byte) error {
	var result struct {
		Interfaces []struct{ Name, Sandbox string }
		IPs        []struct{ Address netip.Prefix }
	}
	if err := json.Unmarshal(out, &result); err != nil {
		return fmt.Errorf("result %q: %w", out, err)
	}
	for _, ip := range result.IPs {
		if ip.Address.Addr().Is4() {
			pod.IP4 = ip.Address.Addr()
		} else {
			pod.IP6 = ip.Address.Addr()
		}
	}
	for _, i := range result.Interfaces {
		if link, err := pod.Node.Link(i.Name); err == nil && i.Sandbox == "" && link.Type() == "veth" {
			pod.HostVeth = i.Name
		}
	}
	if len(result.IPs) != 2 || pod.HostVeth == "" {
		return fmt.Errorf("result %s: want an address of each family, and a veth on the node", out)
	}
	return nil
}

// awaitPod waits until a pod's device carries packets.
func (s *setup) awaitPod(pod *topo.Pod) error {
	if err := pod.AwaitCarrier("eth0"); err != nil {
		return err
	}
	return pod.Node.AwaitCarrier(pod.HostVeth)
}
