// SPDX-License-Identifier: Apache-2.0

package main

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestChoose(t *testing.T) {
	const names = `linux-image-6.1.0-9-amd64
linux-image-6.1.0-56-amd64
linux-image-6.1.0-57-cloud-amd64
linux-image-6.1.0-57-amd64-unsigned
linux-image-6.12-amd64
linux-image-6.12.94+deb13-amd64
linux-image-6.12.117+deb12-amd64
linux-image-6.12.117+deb13-amd64
linux-image-6.19.6+deb13-amd64
linux-image-6.12.118+deb13-arm64
linux-image-6.12.119+deb13-arm64-16k
linux-image-amd64`
	for _, tt := range []struct{ arch, version, host, want string }{
		{"amd64", "6.1", "", "6.1.0-56-amd64"},
		{"amd64", "6.12", "", "6.12.117+deb13-amd64"},
		{"amd64", "6.18", "", ""},
		{"amd64", "new", "", ""},
		{"amd64", hostLike, "6.12.9-arch1", "6.12.117+deb13-amd64"},
		{"amd64", hostLike, "6.18.44-fc", "6.19.6+deb13-amd64"},
		{"amd64", hostLike, "5.15.0", "6.1.0-56-amd64"},
		{"arm64", "6.12", "", "6.12.118+deb13-arm64"},
		{"arm64", "6.12-16k", "", "6.12.119+deb13-arm64-16k"},
		{"amd64", "6.12-16k", "", ""},
		{"arm64", "6.1", "", ""},
	} {
		got, err := choose(names, tt.arch, tt.version, tt.host)
		if got != tt.want || (err == nil) != (tt.want != "") {
			t.Errorf("%s, %s, host %s: %q, %v, want %q", tt.arch, tt.version, tt.host, got, err, tt.want)
		}
	}
}

// TestSources: packages come from where this machine's do.
func TestSources(t *testing.T) {
	const mirror = "http://mirror.example/debian"
	got, err := sources([]string{"http://other.example/tools", mirror, mirror + "-security"})
	if err != nil {
		t.Fatal(err)
	}
	want := `deb [signed-by=` + keyring + `] http://mirror.example/debian bookworm main
deb [signed-by=` + keyring + `] http://mirror.example/debian-security bookworm-security main
deb [signed-by=` + keyring + `] http://mirror.example/debian trixie main
deb [signed-by=` + keyring + `] http://mirror.example/debian-security trixie-security main
deb [signed-by=` + keyring + `] http://mirror.example/debian trixie-backports main
`
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if _, err := sources([]string{mirror}); err == nil {
		t.Error("no error though there is no source of security updates")
	}
}

func TestRead(t *testing.T) {
	got := read([]byte(`=== RUN   TestA
=== RUN   TestA/one
--- FAIL: TestA (0.01s)
    --- PASS: TestA/one (0.00s)
    --- FAIL: TestA/two (0.00s)
        a_test.go:1: wrong
=== RUN   TestB
=== RUN   TestB/one
=== PAUSE TestB/one
=== RUN   TestB/two
    b_test.go:2: something
=== CONT  TestB/one
    b_test.go:3: TCP only
=== NAME  TestB/two
    b_test.go:3: not here
--- PASS: TestB (0.00s)
    --- SKIP: TestB/one (0.00s)
    --- SKIP: TestB/two (0.00s)
--- PASS: TestC (0.00s)
FAIL
`))
	want := outcome{passed: 2, skipped: []skip{{"TestB/one", "TCP only"}, {"TestB/two", "not here"}}, failed: []string{"TestA/two"}}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(outcome{}, skip{})); diff != "" {
		t.Error(diff)
	}
}
