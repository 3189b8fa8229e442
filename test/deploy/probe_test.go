// SPDX-License-Identifier: Apache-2.0

package deploy

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"time"

	v1 "k8s.io/api/core/v1"

	"github.com/waggle-lb/waggle/test/topo"
)

// probes are the manifest's.
func (c *container) probes() map[string]*v1.Probe {
	return map[string]*v1.Probe{"startup": c.spec.StartupProbe, "liveness": c.spec.LivenessProbe, "readiness": c.spec.ReadinessProbe}
}

// awaitProbe asks as the kubelet of the container's node does, until the answer is a success or a
// failure, as wanted.
func (c *container) awaitProbe(name string, p *v1.Probe, success bool) error {
	var last error
	for deadline := time.Now().Add(topo.Patient(30 * time.Second)); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		if last = c.probe(p); (last == nil) == success {
			return nil
		}
	}
	return fmt.Errorf("the %s probe's last answer: %v; want success: %v", name, last, success)
}

func (c *container) probe(p *v1.Probe) error {
	return c.get(probeAddress(c.spec, p.HTTPGet), p.HTTPGet.Path)
}

// get fails unless the answer of a server on the container's node is what a kubelet takes for a success.
func (c *container) get(address, path string) error {
	client := http.Client{
		Timeout:   topo.Patient(5 * time.Second),
		Transport: &http.Transport{DialContext: c.node.DialContext, DisableKeepAlives: true},
	}
	request, err := http.NewRequestWithContext(context.Background(), http.MethodGet, "http://"+address+path, nil)
	if err != nil {
		return err
	}
	response, err := client.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err == nil && (response.StatusCode < http.StatusOK || response.StatusCode >= http.StatusBadRequest) {
		err = fmt.Errorf("%s: %s", response.Status, body)
	}
	return err
}
