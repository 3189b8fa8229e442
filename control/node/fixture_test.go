// SPDX-License-Identifier: Apache-2.0

package node

import (
	"io"
	"testing"

	"github.com/sirupsen/logrus"
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
