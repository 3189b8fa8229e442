// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func claimsOf(t *testing.T, source string) (claims, error) {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "a_test.go"), []byte("package a\n\n"+source), 0o644); err != nil {
		t.Fatal(err)
	}
	return findClaims(dir)
}

// TestClaims finds rows in doc comments, and the rows that no test claims.
func TestClaims(t *testing.T) {
	c, err := claimsOf(t, "// TestA does.\n//\n// Contract: 3, 41.\nfunc TestA() {}\n\n// TestB does not.\nfunc TestB() {}\n")
	if err != nil {
		t.Fatal(err)
	}
	want := test{"./.", "TestA"}
	if len(c) != 2 || len(c[3]) != 1 || c[3][0] != want || len(c[41]) != 1 || c[41][0] != want {
		t.Errorf("claims are %v", c)
	}
	err = c.verdict(nil, false)
	if err == nil || !strings.Contains(err.Error(), "40 (fragments)") || strings.Contains(err.Error(), "41 (path MTU)") {
		t.Errorf("verdict: %v", err)
	}
}

// TestClaimAtTheBeginning takes rows from how a doc comment begins.
func TestClaimAtTheBeginning(t *testing.T) {
	c, err := claimsOf(t, "// TestA, of contract 27: does.\nfunc TestA() {}\n\n// Rows 21 and 22: does.\nfunc TestB() {}\n\n// Row 33.\nfunc TestC() {}\n")
	if err != nil {
		t.Fatal(err)
	}
	if len(c) != 4 || len(c[27]) != 1 || len(c[21]) != 1 || len(c[22]) != 1 || len(c[33]) != 1 {
		t.Errorf("claims are %v", c)
	}
}

// TestClaimByName takes the row from a test's name.
func TestClaimByName(t *testing.T) {
	c, err := claimsOf(t, "func TestRow6Start() {}\n\n// TestRow7Retry does.\n//\n// Contract: 6.\nfunc TestRow7Retry() {}\n")
	if err != nil {
		t.Fatal(err)
	}
	if len(c[6]) != 2 || len(c[7]) != 1 || c[7][0].name != "TestRow7Retry" {
		t.Errorf("claims are %v", c)
	}
}

// TestVerdict fails rows whose tests did not pass, skipped ones too.
func TestVerdict(t *testing.T) {
	c := claims{}
	one := test{"./x", "TestX"}
	for _, r := range contract {
		c[r.number] = []test{one}
	}
	for r, fails := range map[result]bool{pass: false, "fail": true, "skip": true, notRun: true} {
		if err := c.verdict(map[test]result{one: r}, true); (err != nil) != fails {
			t.Errorf("a test with result %q: %v", r, err)
		}
	}
}

// TestResultOfRow prefers the subtest of a row.
func TestResultOfRow(t *testing.T) {
	one := test{"./x", "TestX"}
	results := map[test]result{one: "fail", {"./x", "TestX/row_14"}: pass}
	if got := resultOf(results, one, 14); got != pass {
		t.Errorf("row 14: %s", got)
	}
	if got := resultOf(results, one, 15); got != "fail" {
		t.Errorf("row 15: %s", got)
	}
}

// TestBadClaims refuses what would silently claim nothing.
func TestBadClaims(t *testing.T) {
	for _, line := range []string{"Contract: 99.", "Contract: 0.", "Contract: row 3.", "see Contract: 3."} {
		if c, err := claimsOf(t, "// TestA does.\n//\n// "+line+"\nfunc TestA() {}\n"); err == nil {
			t.Errorf("%q is taken, as %v", line, c)
		}
	}
}
