// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/waggle-lb/waggle/control/explain"
	"github.com/waggle-lb/waggle/loader"
)

type explainFlags struct {
	to, from, proto, flags string
	device, pod            string
	pcap, netns            string
	socket, sends, leaving bool
	ttl                    uint8
	size                   int
}

func newExplain(g *globals) *cobra.Command {
	var out output
	var f explainFlags
	cmd := &cobra.Command{
		Use:   "explain",
		Short: "Say what becomes of a packet or of a process's connection, and why; nothing changes by it",
		Long: `Say what becomes of a packet, or of a connection of a process on this node, and why.

The programs that run are loaded once more, such that they write nothing, and are asked about the packet on the
live maps. Run it on the node, in its network namespace, with the build of the command that the agent runs.`,
		Example: `  waggle explain --to 192.168.1.2:30008 --from 192.168.1.10:4000
  waggle explain --to 10.96.0.10:53 --proto udp --socket
  waggle explain --to 10.96.0.10:80 --pod web-7d4b9
  waggle explain --to 192.168.1.240 --proto arp
  tcpdump -i eth0 -w file.pcap; waggle explain --pcap file.pcap --device eth0`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := f.check(cmd); err != nil {
				return err
			}
			answers, err := fromPins(g, f.answers)
			if len(answers) == 0 && err != nil {
				return err
			}
			if printed := out.printAs(cmd.OutOrStdout(), answers, func(w io.Writer) error { return writeAnswers(w, answers) }); printed != nil {
				return printed
			}
			return err
		},
	}
	out.addFlag(cmd)
	flags := cmd.Flags()
	flags.StringVar(&f.to, "to", "", "destination, as address:port; of a ping, and where a MAC is asked for, the address")
	flags.StringVar(&f.from, "from", "", "source, as address:port; of a socket the address that it is bound to (default: a client outside of the cluster)")
	flags.StringVar(&f.proto, "proto", "tcp", "protocol: tcp, udp, sctp, icmp for a ping, or arp or ndp for a host that asks for the MAC of --to")
	flags.StringVar(&f.flags, "flags", "syn", "flags of TCP: some of syn, ack, fin, rst, psh; of SCTP chunks of that meaning")
	flags.StringVar(&f.device, "device", "", "the device that the packet comes in by (default: the one that leads to its source)")
	flags.StringVar(&f.pod, "pod", "", "the packet, or with --socket the process, is of this pod of the node, by its name")
	flags.BoolVar(&f.leaving, "leaving", false, "the packet is about to leave by --device")
	flags.Uint8Var(&f.ttl, "ttl", 64, "TTL or hop limit of the packet")
	flags.IntVar(&f.size, "size", 0, "size of the packet in bytes, from its IP header on (default: headers only)")
	flags.StringVar(&f.pcap, "pcap", "", "explain each packet of this pcap or pcapng file instead")
	flags.BoolVar(&f.socket, "socket", false, "explain a process that connects, not a packet")
	flags.BoolVar(&f.sends, "sendto", false, "with --socket: it sends a datagram without being connected")
	flags.StringVar(&f.netns, "netns", "", "with --socket: the process's network namespace, as /proc/PID/ns/net (default: the node's)")
	return cmd
}

// check finds flags that don't go together.
func (f *explainFlags) check(cmd *cobra.Command) error {
	set := cmd.Flags().Changed
	if f.pcap != "" {
		for _, other := range []string{"to", "from", "proto", "flags", "ttl", "size", "socket", "pod"} {
			if set(other) {
				return fmt.Errorf("--%s: not with --pcap, which has whole packets", other)
			}
		}
		return nil
	}
	if f.to == "" {
		return errors.New("name a destination with --to, or a file with --pcap")
	}
	if !f.socket {
		for _, other := range []string{"netns", "sendto"} {
			if set(other) {
				return fmt.Errorf("--%s: only with --socket", other)
			}
		}
		for _, other := range []string{"device", "leaving"} {
			if set("pod") && set(other) {
				return fmt.Errorf("--%s: not with --pod, whose packets come in by its device", other)
			}
		}
		return nil
	}
	if set("pod") && set("netns") {
		return errors.New("--netns: not with --pod, which has its own")
	}
	for _, other := range []string{"device", "leaving", "flags", "ttl", "size"} {
		if set(other) {
			return fmt.Errorf("--%s: not with --socket, which is about no packet", other)
		}
	}
	return nil
}

func (f *explainFlags) answers(v *loader.View) (answers []*explain.Answer, err error) {
	question, err := f.question()
	if err != nil {
		return nil, err
	}
	var file *os.File
	if f.pcap != "" {
		if file, err = os.Open(f.pcap); err != nil {
			return nil, fmt.Errorf("--pcap: %w", err)
		}
		defer file.Close()
	}
	e, err := explain.New(v)
	if err != nil {
		return nil, err
	}
	defer e.Close()
	if file != nil {
		return f.captured(e, file)
	}
	a, err := question(e)
	if err != nil {
		return nil, err
	}
	return []*explain.Answer{a}, nil
}

// captured explains the packets of a file up to the first that can't be read.
func (f *explainFlags) captured(e *explain.Explainer, file io.Reader) (answers []*explain.Answer, err error) {
	for c, err := range explain.Capture(file) {
		if err != nil {
			return answers, fmt.Errorf("--pcap %s: %w", f.pcap, err)
		}
		a, err := e.Captured(c, f.device, f.leaving)
		if err != nil {
			return answers, err
		}
		answers = append(answers, a)
	}
	return answers, nil
}

// question reads the flags that describe a packet or a socket.
func (f *explainFlags) question() (func(*explain.Explainer) (*explain.Answer, error), error) {
	if f.pcap != "" {
		return nil, nil
	}
	to, err := parseEnd("--to", f.to)
	if err != nil {
		return nil, err
	}
	var from netip.AddrPort
	if f.from != "" {
		if from, err = parseEnd("--from", f.from); err != nil {
			return nil, err
		}
	}
	if f.socket {
		netns, err := f.namespace()
		if err != nil {
			return nil, err
		}
		s := explain.Socket{To: to, From: from.Addr(), Proto: f.proto, Netns: netns, Sends: f.sends}
		return func(e *explain.Explainer) (*explain.Answer, error) { return e.Socket(s) }, nil
	}
	q := explain.Question{To: to, From: from, Proto: f.proto, TTL: f.ttl, Size: f.size, Device: f.device, Pod: f.pod, Leaving: f.leaving}
	if f.flags != "" {
		q.Flags = strings.Split(strings.ToLower(f.flags), ",")
	}
	if f.ttl == 0 {
		return nil, errors.New("--ttl 0: no host sends such a packet")
	}
	return func(e *explain.Explainer) (*explain.Answer, error) { return e.Packet(q) }, q.Check()
}

// namespace is the cookie of the network namespace of the socket that is asked about. 0: the node's.
func (f *explainFlags) namespace() (uint64, error) {
	if f.pod != "" {
		return explain.PodNetns(f.pod)
	}
	return netnsCookie(f.netns)
}

// parseEnd reads an address with or without a port.
func parseEnd(flag, s string) (netip.AddrPort, error) {
	if ap, err := netip.ParseAddrPort(s); err == nil {
		return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port()), nil
	}
	a, err := netip.ParseAddr(s)
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("%s %s: want address:port, as 10.0.0.1:80 or [fd00::1]:80", flag, s)
	}
	return netip.AddrPortFrom(a.Unmap(), 0), nil
}

// netnsCookie identifies a network namespace, by the path of its file; 0: none is named.
func netnsCookie(path string) (uint64, error) {
	if path == "" {
		return 0, nil
	}
	file, err := os.Open(path)
	if err != nil {
		return 0, fmt.Errorf("--netns: %w", err)
	}
	defer file.Close()
	type result struct {
		cookie uint64
		err    error
	}
	got := make(chan result)
	go func() {
		runtime.LockOSThread() // and the thread ends with the goroutine
		if err := unix.Setns(int(file.Fd()), unix.CLONE_NEWNET); err != nil {
			got <- result{0, fmt.Errorf("--netns %s: enter the network namespace: %w", path, err)}
			return
		}
		cookie, err := loader.NetnsCookie()
		got <- result{cookie, err}
	}()
	r := <-got
	return r.cookie, r.err
}

func writeAnswers(w io.Writer, answers []*explain.Answer) error {
	tw := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	for i, a := range answers {
		if i > 0 {
			fmt.Fprintln(tw)
		}
		fmt.Fprintln(tw, a.Asked)
		if a.Note != "" {
			fmt.Fprintf(tw, "(%s)\n", a.Note)
		}
		for _, h := range a.Hooks {
			writeHook(tw, h)
		}
	}
	return tw.Flush()
}

func writeHook(w io.Writer, h explain.Hook) {
	at := ""
	if h.Device != "" {
		at = " at " + h.Device
	}
	fmt.Fprintf(w, "\n%s%s (%s)\n", h.Hook, at, h.Program)
	for _, s := range h.Steps {
		fmt.Fprintf(w, "  %s\t%s\n", s.Name, s.Is)
	}
	for _, group := range h.Groups() {
		writeGroup(w, group, len(h.Outcomes))
	}
}

// writeGroup writes outcomes that differ by their endpoint only.
func writeGroup(w io.Writer, group []explain.Outcome, all int) {
	o := group[0]
	var endpoints []string
	for _, one := range group {
		if one.Endpoint.IsValid() {
			endpoints = append(endpoints, one.Endpoint.String())
		}
	}
	if len(endpoints) > 0 {
		share := ""
		if all > 1 {
			share = fmt.Sprintf(" (%.0f%% of new flows)", 100*o.Share*float64(len(group)))
		}
		fmt.Fprintf(w, "  endpoint\t%s%s\n", strings.Join(endpoints, ", "), share)
	}
	dest := o.Dest
	if dest != "" && len(group) > 1 {
		dest = "the endpoint"
	}
	for _, line := range []struct{ name, is string }{
		{"way", o.Way}, {"source", o.Source}, {"destination", dest}, {"next hop", o.NextHop},
	} {
		if line.is != "" {
			fmt.Fprintf(w, "  %s\t%s\n", line.name, line.is)
		}
	}
	fmt.Fprintf(w, "  verdict\t%s%s: %s\n", o.Verdict, eventWords(o), o.Reason)
	if o.Advice != "" {
		fmt.Fprintf(w, "  what to do\t%s\n", o.Advice)
	}
}

func eventWords(o explain.Outcome) string {
	switch {
	case o.Opens:
		return " (" + o.Action + ", opens a flow)"
	case o.Confirms:
		return " (" + o.Action + ", confirms the flow)"
	}
	return " (" + o.Action + ")"
}
