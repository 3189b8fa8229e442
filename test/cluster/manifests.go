// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/waggle-lb/waggle/test/topo"
)

// Manifests is a directory of YAML that tests write.
type Manifests struct {
	Dir string
}

// Write replaces a file in one step, as an editor or a deployment tool would.
func (m Manifests) Write(name, content string) error {
	temp := filepath.Join(m.Dir, "."+name+".tmp")
	if err := os.WriteFile(temp, []byte(content), 0o644); err != nil {
		return err
	}
	return os.Rename(temp, filepath.Join(m.Dir, name))
}

// Remove deletes a file.
func (m Manifests) Remove(name string) error { return os.Remove(filepath.Join(m.Dir, name)) }

// WriteNode writes the Node object of a node.
func (m Manifests) WriteNode(node *topo.Node) error {
	return m.Write("node-"+node.Name+".yaml", fmt.Sprintf(`apiVersion: v1
kind: Node
metadata:
  name: %s
status:
  addresses:
  - {type: InternalIP, address: %s}
  - {type: InternalIP, address: "%s"}
`, node.Name, node.IP4, node.IP6))
}

// WritePod writes the Pod object of a pod, with the labels given as "app: web".
func (m Manifests) WritePod(pod *topo.Pod, labels ...string) error {
	return m.Write("pod-"+pod.Name+".yaml", fmt.Sprintf(`apiVersion: v1
kind: Pod
metadata:
  name: %s
  labels: {%s}
spec:
  nodeName: %s
  containers:
  - name: server
    image: example.invalid/server
status:
  podIP: %s
  podIPs:
  - ip: %s
  - ip: "%s"
`, pod.Name, strings.Join(labels, ", "), pod.Node.Name, pod.IP4, pod.IP4, pod.IP6))
}
