// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/waggle-lb/waggle/control/status"
)

func newAddress(g *globals) *cobra.Command {
	return newGroup("address", []string{"addresses"}, "Show the addresses of pools that Services have", newAddressList(g), newAddressGet(g))
}

func newAddressList(g *globals) *cobra.Command {
	var out output
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List addresses of pools",
		Long: "List the addresses of pools that Services of type LoadBalancer have, as the agent of this node knows them\n" +
			"(docs/addresses.md).",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			agent, err := status.Read(g.runDir)
			if err != nil {
				return err
			}
			return out.print(cmd.OutOrStdout(), addressViews(agent), func(wide bool) table { return addressTable(agent, addressViews(agent), wide) })
		},
	}
	out.addFlag(cmd)
	return cmd
}

func newAddressGet(g *globals) *cobra.Command {
	var out output
	cmd := &cobra.Command{
		Use:   "get ADDRESS | NAMESPACE/NAME",
		Short: "Show one address of a pool, or those of a Service",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			agent, err := status.Read(g.runDir)
			if err != nil {
				return err
			}
			if addr, err := netip.ParseAddr(args[0]); err == nil {
				return getAddress(cmd, &out, agent, addr)
			}
			in, name, err := splitName(args[0], "default", false)
			if err != nil {
				return err
			}
			found := slices.DeleteFunc(addressViews(agent), func(a status.Address) bool { return !slices.Contains(a.Services, in+"/"+name) })
			if len(found) == 0 {
				return fmt.Errorf("service %s/%s has no address of a pool", in, name)
			}
			return out.print(cmd.OutOrStdout(), found, func(wide bool) table { return addressTable(agent, found, wide) })
		},
	}
	out.addFlag(cmd)
	return cmd
}

func getAddress(cmd *cobra.Command, out *output, agent *status.Status, addr netip.Addr) error {
	all := addressViews(agent)
	i := slices.IndexFunc(all, func(a status.Address) bool { return a.Address == addr.String() })
	if i < 0 {
		return fmt.Errorf("no Service has the address %s of a pool", addr)
	}
	return out.print(cmd.OutOrStdout(), all[i], func(wide bool) table { return addressTable(agent, all[i:i+1], wide) })
}

func addressViews(agent *status.Status) []status.Address {
	return append([]status.Address{}, agent.Addresses...)
}

func addressTable(agent *status.Status, addresses []status.Address, wide bool) table {
	t := table{
		header: []string{"ADDRESS", "POOL", "SERVICES", "HOLDER", "SINCE", "WHY"},
		empty:  "No Service has an address of a pool.",
	}
	if !agent.Pools {
		t.empty = "The agent does not follow pools (--load-balancer-pools)."
	}
	if wide {
		t.header = append(t.header, "GIVEN")
	}
	for _, a := range addresses {
		pool := a.Pool
		if pool == "" {
			pool = "<none>"
		}
		if a.PoolGone {
			pool += " (gone)"
		}
		row := append([]string{a.Address, pool, orNone(a.Services)}, holderCells(agent, a.Announced)...)
		if wide {
			given := "<unknown>"
			if !a.Since.IsZero() {
				given = a.Since.Format(time.RFC3339)
			}
			row = append(row, given)
		}
		t.rows = append(t.rows, row)
	}
	return t
}

// holderCells are who announces an address, for how long, and why.
func holderCells(agent *status.Status, a *status.Announced) []string {
	switch {
	case a == nil && !agent.Announces:
		return []string{"<none>", "", "the agent announces nothing (--members-key-file)"}
	case a == nil:
		return []string{"<none>", "", "no L2Advertisement or CiliumL2AnnouncementPolicy is for it"}
	case a.Holder == "":
		return []string{"<none>", "", a.Why}
	}
	return []string{a.Holder, time.Since(a.Since).Truncate(time.Second).String(), a.Why}
}
