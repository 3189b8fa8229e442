// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
)

// TestDocs keeps docs/maps.md, which people read beside bpftool's numbers, in step with the
// numbers.
func TestDocs(t *testing.T) {
	raw, err := os.ReadFile("../docs/maps.md")
	if err != nil {
		t.Fatal(err)
	}
	doc := string(raw)
	want := []string{fmt.Sprintf("index = hook * %d + verdict", VerdictCount)}
	for v := Verdict(0); v < VerdictCount; v++ {
		name := VerdictName(v)
		if v >= VerdictSockConnect && v <= VerdictSockGetpeername {
			continue // in one row
		}
		want = append(want, fmt.Sprintf("| %d | %s |", v, name))
	}
	want = append(want, fmt.Sprintf("| %d-%d | sock-connect, -sendmsg, -recvmsg, -getpeername |", VerdictSockConnect, VerdictSockGetpeername))
	for h := Hook(0); h < HookCount; h++ {
		want = append(want, fmt.Sprintf("| %d | %s", h, strings.Split(HookName(h), "-")[0]))
	}
	for _, row := range want {
		if !strings.Contains(doc, row) && !strings.Contains(doc, strings.Replace(row, "sock", "sockets", 1)) {
			t.Errorf("docs/maps.md has no %q", row)
		}
	}
	spec, err := Spec()
	if err != nil {
		t.Fatal(err)
	}
	for name, m := range spec.Maps {
		if m.Pinning != ebpf.PinByName {
			continue // the programs' own
		}
		if !strings.Contains(doc, name) {
			t.Errorf("docs/maps.md does not mention the map %s", name)
		}
	}
}
