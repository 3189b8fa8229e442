// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

func TestMissingCapabilities(t *testing.T) {
	for _, tt := range []struct {
		name      string
		effective uint64
		want      []string
	}{
		{"none", 0, []string{"CAP_NET_ADMIN", "CAP_BPF", "CAP_PERFMON"}},
		{"all", ^uint64(0), nil},
		{"fine-grained", 1<<unix.CAP_NET_ADMIN | 1<<unix.CAP_BPF | 1<<unix.CAP_PERFMON, nil},
		{"before Linux 5.8", 1<<unix.CAP_NET_ADMIN | 1<<unix.CAP_SYS_ADMIN, nil},
		{"no network", 1 << unix.CAP_SYS_ADMIN, []string{"CAP_NET_ADMIN"}},
		{"no perfmon", 1<<unix.CAP_NET_ADMIN | 1<<unix.CAP_BPF, []string{"CAP_PERFMON"}},
	} {
		if got := missingCapabilities(tt.effective); !slices.Equal(got, tt.want) {
			t.Errorf("%s: got %v, want %v", tt.name, got, tt.want)
		}
	}
}

func TestMissingOptionalCapabilities(t *testing.T) {
	if err := missingOptional(^uint64(0)); err != nil {
		t.Errorf("with all: %v", err)
	}
	err := missingOptional(^uint64(1 << unix.CAP_SYS_ADMIN))
	if err == nil || !strings.Contains(err.Error(), "CAP_SYS_ADMIN") || strings.Contains(err.Error(), "CAP_SYS_PTRACE") {
		t.Errorf("without CAP_SYS_ADMIN: %v", err)
	}
	err = missingOptional(1<<unix.CAP_NET_ADMIN | 1<<unix.CAP_BPF | 1<<unix.CAP_PERFMON)
	if err == nil || !strings.Contains(err.Error(), "CAP_SYS_ADMIN") || !strings.Contains(err.Error(), "CAP_SYS_PTRACE") {
		t.Errorf("with the least: %v", err)
	}
}

func TestKernelHasWhatIsNeeded(t *testing.T) {
	needRoot(t)
	for _, n := range needs {
		if err := n.probe(); err != nil {
			t.Errorf("%s: %v", n.what, err)
		}
	}
}

// The README names the kernel that is tested.
func TestOldestKernel(t *testing.T) {
	readme, err := os.ReadFile("../README.md")
	must(t, err)
	if want := "Linux " + OldestTested + " or later"; !strings.Contains(string(readme), want) {
		t.Errorf("README.md has no %q", want)
	}
}

// TestOldKernelIsNamed, of contract 37: the refusal names each thing that is missing, and the kernel
// that has it.
//
// Contract: 37.
func TestOldKernelIsNamed(t *testing.T) {
	lacking := func() error { return ebpf.ErrNotSupported }
	err := checkNeeds([]need{
		{"one thing", "5.18", lacking},
		{"another", "5.17", lacking},
		{"what there is", "4.1", func() error { return nil }},
	})
	for _, want := range []string{kernelRelease(), "one thing (Linux 5.18)", "another (Linux 5.17)", "Linux " + OldestTested + " has them all"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want an error with %q", err, want)
		}
	}
	if err != nil && strings.Contains(err.Error(), "what there is") {
		t.Errorf("got %v", err)
	}
	err = checkNeeds([]need{{"bpf", "4.1", func() error { return unix.EPERM }}})
	if !errors.Is(err, unix.EPERM) {
		t.Errorf("got %v, want EPERM", err)
	}
}
