// SPDX-License-Identifier: Apache-2.0

// Package leftovers recognises what kube-proxy has left in a network namespace, in each of its
// modes, and removes it: the tables of nftables mode, the chains of iptables (iptables-nft's and
// iptables-legacy's), and IPVS' device and sets. What belongs to kubelet, CNI plugins and people
// stays.
//
// It runs no other program but iptables-legacy, and that only where it is installed.
package leftovers

import (
	"errors"
	"fmt"
)

// Report is the result of a removal, in words.
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

// Seen names what kube-proxy has left in the network namespace of the calling thread. The list is
// empty if there is nothing. Seen reads the names of chains, tables and devices, and no rules.
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

// Remove removes everything that Seen names from the network namespace of the calling thread. It
// does as much as it can, and may be repeated. kube-proxy must not run any more: it would write its
// rules again.
func Remove() (*Report, error) {
	r := &Report{}
	var errs []error
	for _, remove := range []func(*Report) error{removeNFT, removeLegacy, removeIPVS} {
		errs = append(errs, remove(r))
	}
	return r, errors.Join(errs...)
}
