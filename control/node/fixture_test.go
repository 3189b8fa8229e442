// SPDX-License-Identifier: Apache-2.0

package node

import (
	"io"
	"testing"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/waggle-lb/waggle/test/topo"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func quiet() *logrus.Entry {
	log := logrus.New()
	log.SetOutput(io.Discard)
	return logrus.NewEntry(log)
}

// await polls until done, and fails with the last message if that takes too long.
func await(t *testing.T, look func() (message string, done bool)) {
	t.Helper()
	for deadline := time.Now().Add(topo.Patient(20 * time.Second)); ; time.Sleep(10 * time.Millisecond) {
		message, done := look()
		if done {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal(message)
		}
	}
}
