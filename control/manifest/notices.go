// SPDX-License-Identifier: Apache-2.0

package manifest

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// notices lists the objects that have no effect: a user that expects the Pods of a Deployment learns
// that waggle makes none.
func (t *tree) notices() []string {
	counts, all := map[string]int{}, 0
	for _, f := range t.files {
		for _, kind := range f.ignored {
			counts[kind]++
			all++
		}
	}
	if all == 0 {
		return nil
	}
	var kinds []string
	for _, kind := range slices.Sorted(maps.Keys(counts)) {
		kinds = append(kinds, fmt.Sprintf("%d %s", counts[kind], kind))
	}
	return []string{fmt.Sprintf("manifests in %s: objects that have no effect here, because of their kind: %d (%s)",
		t.root, all, strings.Join(kinds, ", "))}
}
