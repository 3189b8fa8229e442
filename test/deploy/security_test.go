// SPDX-License-Identifier: Apache-2.0

package deploy

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestSecurityClaims: each sentence of the tables of SECURITY.md names tests, and they exist.
func TestSecurityClaims(t *testing.T) {
	raw, err := os.ReadFile(filepath.Join(root, "SECURITY.md"))
	check(t, err)
	claims := 0
	for line := range strings.Lines(string(raw)) {
		cells := strings.Split(strings.Trim(strings.TrimSpace(line), "|"), "|")
		if len(cells) != 2 || !strings.HasPrefix(line, "|") || strings.HasPrefix(line, "|---") || strings.TrimSpace(cells[1]) == "test" {
			continue
		}
		claims++
		for claim := range strings.SplitSeq(cells[1], ",") {
			dir, name, _ := strings.Cut(strings.TrimSpace(claim), " ")
			if !regexp.MustCompile(`^(Test|Fuzz)\w+$`).MatchString(name) {
				t.Errorf("%q names no test: %q", strings.TrimSpace(cells[0]), claim)
				continue
			}
			files, err := filepath.Glob(filepath.Join(root, dir, "*_test.go"))
			check(t, err)
			if exec.Command("grep", append([]string{"-qE", "^func " + name + `\(`}, files...)...).Run() != nil {
				t.Errorf("%q: there is no %s in %s", strings.TrimSpace(cells[0]), name, dir)
			}
		}
	}
	if claims < 30 {
		t.Errorf("only %d sentences are found", claims)
	}
}
