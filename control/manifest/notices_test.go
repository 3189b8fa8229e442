// SPDX-License-Identifier: Apache-2.0

package manifest

import (
	"slices"
	"testing"
)

// TestOtherKindsAreNoticed: what is beside a Service and does nothing here is counted, for as long
// as it is there.
func TestOtherKindsAreNoticed(t *testing.T) {
	const deployment = "---\napiVersion: apps/v1\nkind: Deployment\nmetadata: {name: web}\n"
	d := newDirectory(t, "a.yaml", webYAML+deployment, "b.yaml", dnsYAML+deployment+"---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: c}\n")
	s, sink := runSource(d, patient)
	eventually(t, "synced", sink.isSynced)
	noticed := func(want ...string) func() bool { return func() bool { return slices.Equal(s.Notices(), want) } }
	in := "manifests in " + d.path + ": "
	eventually(t, "a count", noticed(in+"objects that have no effect here, because of their kind: 3 (2 apps/v1 Deployment, 1 v1 ConfigMap)"))
	if problems := s.Problems(); len(problems) > 0 {
		t.Errorf("problems: %+v", problems)
	}
	d.write("b.yaml", dnsYAML)
	eventually(t, "what is left", noticed(in+"objects that have no effect here, because of their kind: 1 (1 apps/v1 Deployment)"))
	d.write("a.yaml", webYAML)
	eventually(t, "nothing", noticed())
}
