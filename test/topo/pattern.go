// SPDX-License-Identifier: Apache-2.0

package topo

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
)

// pattern is an endless stream of bytes. Two with the same seed are equal, so a
// receiver can verify an echo without a copy of what was sent.
func pattern(seed uint64) io.Reader {
	var key [32]byte
	for i := range 8 {
		key[i] = byte(seed >> (8 * i))
	}
	return rand.NewChaCha8(key)
}

// verify reads n bytes that must be the next n of want.
func verify(got, want io.Reader, n int) error {
	var have, expected [32 << 10]byte
	for done := 0; done < n; {
		chunk := min(n-done, len(have))
		if read, err := io.ReadFull(got, have[:chunk]); err != nil {
			return fmt.Errorf("after %d of %d bytes: %w", done+read, n, err)
		}
		if _, err := io.ReadFull(want, expected[:chunk]); err != nil {
			return err
		}
		if !bytes.Equal(have[:chunk], expected[:chunk]) {
			return fmt.Errorf("echo differs within bytes %d..%d", done, done+chunk-1)
		}
		done += chunk
	}
	return nil
}
