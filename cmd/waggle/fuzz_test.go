// SPDX-License-Identifier: Apache-2.0

package main

import (
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/waggle-lb/waggle/control/status"
)

// FuzzStatus: whatever an agent has left as its status, it is shown, or refused.
func FuzzStatus(f *testing.F) {
	for _, seed := range []string{
		"", "{}", "null", `{"pid":-1,"proxy":{"heldDeletions":["x"],"failures":[""]},"devices":[{}],"links":[{}]}`,
		`{"blind":{"since":"0001-01-01T00:00:00Z"},"problems":[{"message":"a\nb","document":-1}]}`, `{"pid":1e99}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "status.json"), data, 0o600); err != nil {
			t.Fatal(err)
		}
		agent, err := status.Read(dir)
		if err != nil {
			return
		}
		view := &statusView{Agent: agent}
		if err := view.write(io.Discard, true); err != nil {
			t.Error(err)
		}
	})
}
