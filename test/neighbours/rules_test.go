// SPDX-License-Identifier: Apache-2.0

package neighbours

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/waggle-lb/waggle/test/topo"
)

// loaders load a file of rules, by its extension, as the owners of such files do.
var loaders = map[string][]string{
	".nft": {"nft", "-f"},
	".v4":  {"iptables-restore", "--noflush"},
	".v6":  {"ip6tables-restore", "--noflush"},
	".sh":  {"sh", "-e"},
}

// loadRules loads the environment's rules on each node.
func (s *setup) loadRules() error {
	if s.rules == "" {
		return nil
	}
	var errs []error
	loaded := 0
	for extension, loader := range loaders {
		file := filepath.Join("rules", s.rules+extension)
		if _, err := os.Stat(file); err != nil {
			continue
		}
		loaded++
		for i, node := range s.Nodes {
			errs = append(errs, load(node.Host, s.words(node, s.Nodes[1-i]), append(loader, file)...))
		}
	}
	if loaded == 0 {
		return fmt.Errorf("rules/%s: no such file", s.rules)
	}
	return errors.Join(errs...)
}

// checkRules looks for what the environment is known by: without its rules it would be another.
func (s *setup) checkRules() error {
	for _, node := range s.Nodes {
		out, err := node.Command("nft", "list", "ruleset").CombinedOutput()
		if err != nil {
			return fmt.Errorf("%s: nft: %w: %s", node.Name, err, out)
		}
		for _, words := range s.known {
			if !strings.Contains(string(out), words) {
				return fmt.Errorf("%s has no rules with %q, only:\n%s", node.Name, words, out)
			}
		}
	}
	return nil
}

// words are what rules that are a script know of the node that they are for, as environment variables.
func (s *setup) words(node, peer *topo.Node) []string {
	return []string{
		"NODE=" + node.IP4.String(), "PODS=" + node.PodCIDR4.String(),
		"PEER_PODS=" + peer.PodCIDR4.String(), "ENI=" + eni(node).String(), "PEER_ENI=" + eni(peer).String(),
		"GATEWAY=" + s.cp.Host().IP4.String(),
	}
}

func load(h *topo.Host, words []string, command ...string) error {
	cmd := h.Command(command[0], command[1:]...)
	cmd.Env = append(os.Environ(), words...)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %v: %w: %s", h.Name, command, err, out)
	}
	return nil
}
