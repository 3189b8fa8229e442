// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"time"

	"github.com/waggle-lb/waggle/control/netfilter"
	"github.com/waggle-lb/waggle/control/rundir"
	"github.com/waggle-lb/waggle/loader"
)

// bundleParts are the files of a bundle.
var bundleParts = []part{
	{"version.txt", "versions of the command and of the agent", writeVersions},
	{"status.json", "the agent's status file", writeStatusFile},
	{"status.txt", "`waggle status -o wide`", writeStatusText},
	{"counters.txt", "packets and bytes by hook and verdict", writeCounters},
	{"maps/services.txt", "services, and the frontends of each", writeServices},
	{"maps/backends.txt", "backends", writeBackends},
	{"maps/flows.txt", "flow records (--flows)", writeFlows},
	{"maps/addresses.txt", "node addresses, cluster IPs and their ranges, source ranges", writeMapAddresses},
	{"maps/devices.txt", "devices, and pods' network namespaces", writeMapDevices},
	{"maps/nexthops.txt", "next hops", writeNextHops},
	{"explain.txt", "what happens to a packet to one frontend of each kind, and why", writeExplain},
	{"events.txt", "decisions of the programs during a short time (--events)", writeEvents},
	{"maps/sizes.txt", "the maps' sizes", writeMapSizes},
	{"metrics.txt", "/metrics of the agent", writeMetrics},
	{"health.txt", "answers of /livez, /readyz and /healthz", writeHealth},
	{"configz.json", "/configz of the agent: its configuration, from flags and file", writeConfigz},
	{"configuration.txt", "flags and environment of the agent, configuration file, kubeconfig without credentials", writeConfiguration},
	{"net/links.txt", "devices", writeLinks},
	{"net/addresses.txt", "their addresses", writeAddresses},
	{"net/routes.txt", "routes of all tables", writeRoutes},
	{"net/rules.txt", "rules of routing", writeRules},
	{"net/neighbours.txt", "neighbours", writeNeighbours},
	{"net/netfilter.txt", "chains and rules of nf_tables; tables of iptables-legacy", writeNetfilter},
	{"programs.txt", "programs at waggle's hooks, including other programs, by device and cgroup", writePrograms},
	{"kernel.txt", "kernel version, configuration and parameters that matter, mounts", writeKernel},
	{"log.txt", "end of the agent's log, or where it is", writeLog},
}

func writeVersions(b *bundle, w io.Writer) error {
	fmt.Fprintf(w, "command: %s\n", versionLine())
	if b.agent.status == nil {
		return b.agent.err
	}
	fmt.Fprintf(w, "agent:   %s\n", b.agent.status.Version)
	return nil
}

func writeStatusFile(b *bundle, w io.Writer) error {
	raw, err := os.ReadFile(rundir.StatusFile(b.g.runDir))
	if err != nil {
		return err
	}
	_, err = w.Write(raw)
	return err
}

func writeStatusText(b *bundle, w io.Writer) error {
	view, err := readStatus(b.g)
	if err != nil {
		return err
	}
	return view.write(w, true)
}

// writeNetfilter writes a limited number of rules: kube-proxy's iptables mode may have a hundred thousand.
func writeNetfilter(_ *bundle, w io.Writer) error { return netfilter.WriteText(w, 20000) }

func writePrograms(b *bundle, w io.Writer) error {
	all, err := loader.AttachedPrograms(b.agent.cgroup())
	t := table{header: []string{"AT", "HOOK", "KIND", "PROGRAM", "ID"}, empty: "No programs."}
	for _, p := range all {
		t.rows = append(t.rows, []string{p.At, p.Hook, p.Kind, p.Program, fmt.Sprint(p.ID)})
	}
	if len(all) == 0 && err != nil {
		return err
	}
	return errors.Join(t.write(w), err)
}

const askTimeout = 10 * time.Second

// ask writes the agent's answer at an address that it listens on, if wanted with the status code as the first line.
func (b *bundle) ask(w io.Writer, address, path string, withStatus bool) error {
	if b.agent.flags == nil {
		return b.agent.flagsErr
	}
	at, err := netip.ParseAddrPort(address)
	if err != nil {
		return fmt.Errorf("the agent does not serve it: no address is configured (%s)", path)
	}
	switch {
	case at.Addr() == netip.IPv4Unspecified():
		at = netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), at.Port())
	case at.Addr() == netip.IPv6Unspecified():
		at = netip.AddrPortFrom(netip.IPv6Loopback(), at.Port())
	}
	ctx, cancel := context.WithTimeout(context.Background(), askTimeout)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+at.String()+path, nil)
	if err != nil {
		return err
	}
	client := http.Client{Transport: &http.Transport{DialContext: (&net.Dialer{}).DialContext}} // and no proxy
	defer client.CloseIdleConnections()
	answer, err := client.Do(request)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	if withStatus {
		fmt.Fprintf(w, "%s: %s\n", request.URL, answer.Status)
	} else if answer.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", request.URL, answer.Status)
	}
	_, err = io.Copy(w, answer.Body)
	return err
}

func writeMetrics(b *bundle, w io.Writer) error {
	return b.ask(w, b.agent.serve().metrics, "/metrics", false)
}

func writeConfigz(b *bundle, w io.Writer) error {
	return b.ask(w, b.agent.serve().metrics, "/configz", false)
}

func writeHealth(b *bundle, w io.Writer) error {
	if b.agent.flags == nil {
		return b.agent.flagsErr
	}
	at := b.agent.serve()
	var errs []error
	for _, of := range [][2]string{{at.healthz, "/livez"}, {at.healthz, "/healthz"}, {at.metrics, "/readyz"}} {
		errs = append(errs, b.ask(w, of[0], of[1], true))
		fmt.Fprintln(w)
	}
	return errors.Join(errs...)
}

// logTail is how much of a log's end goes into a bundle, in bytes.
const logTail = 1 << 20

func writeLog(b *bundle, w io.Writer) error {
	path, err := b.logFile()
	if err != nil {
		fmt.Fprintln(w, err)
		fmt.Fprintln(w, "The agent logs to its standard error: for a service of systemd see journalctl -u NAME, for a pod")
		fmt.Fprintln(w, "kubectl -n kube-system logs POD (and --previous). --log names a file.")
		return err
	}
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return err
	}
	if cut := info.Size() - logTail; cut > 0 {
		if _, err := file.Seek(cut, io.SeekStart); err != nil {
			return err
		}
		fmt.Fprintf(w, "(the last %d of %d bytes)\n", logTail, info.Size())
	}
	_, err = io.Copy(w, io.LimitReader(file, logTail))
	return err
}

// logFile finds the file that the agent logs to.
func (b *bundle) logFile() (string, error) {
	if b.flags.log != "" {
		return b.flags.log, nil
	}
	if b.agent.flags == nil {
		return "", b.agent.flagsErr
	}
	stderr := fmt.Sprintf("/proc/%d/fd/2", b.agent.status.PID)
	info, err := os.Stat(stderr)
	if err != nil {
		return "", err
	}
	if !info.Mode().IsRegular() {
		where, _ := os.Readlink(stderr)
		return "", fmt.Errorf("the agent's standard error is not a file, but %s", strings.TrimSuffix(where, " (deleted)"))
	}
	return stderr, nil
}
