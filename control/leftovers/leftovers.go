// SPDX-License-Identifier: Apache-2.0

// Package leftovers recognises what kube-proxy has left in a network namespace, in each of its
// modes, and removes it: nftables' own tables, iptables' chains whichever half of the kernel keeps
// them, and IPVS' device and sets. What belongs to kubelet, to CNI plugins and to people stays.
//
// It runs no program but iptables-legacy, and that only where it is installed.
package leftovers

import (
	"errors"
	"fmt"
)

// Report is what a removal came to, in words.
type Report struct {
	Removed []string
	// Left is what looks like kube-proxy's and was not removed, with the reason.
	Left []string
}

func (r *Report) removed(format string, args ...any) {
	r.Removed = append(r.Removed, fmt.Sprintf(format, args...))
}

func (r *Report) left(format string, args ...any) {
	r.Left = append(r.Left, fmt.Sprintf(format, args...))
}

// Seen names what of kube-proxy's there is in the network namespace of the calling thread, or
// nothing. It reads the names of chains, tables and devices, and no rules.
func Seen() ([]string, error) {
	var seen []string
	var errs []error
	for _, look := range []func() ([]string, error){seenNFT, seenLegacy, seenIPVS} {
		found, err := look()
		seen = append(seen, found...)
		errs = append(errs, err)
	}
	return seen, errors.Join(errs...)
}

// Remove removes all of it from the network namespace of the calling thread. It does as much as
// it can, and may be repeated. kube-proxy must not run any more: it would write its rules again.
func Remove() (*Report, error) {
	r := &Report{}
	var errs []error
	for _, remove := range []func(*Report) error{removeNFT, removeLegacy, removeIPVS} {
		errs = append(errs, remove(r))
	}
	return r, errors.Join(errs...)
}
