// SPDX-License-Identifier: Apache-2.0

package main

import (
	"archive/tar"
	"bytes"
	"cmp"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

// bundleFlags are those of `waggle bundle`.
type bundleFlags struct {
	hashAddresses bool
	flows         int
	events        time.Duration
	log           string
}

func newBundle(g *globals) *cobra.Command {
	var f bundleFlags
	cmd := &cobra.Command{
		Use:   "bundle [FILE]",
		Short: "Collect what a bug report needs into one tar.gz",
		Long: "Collect what a bug report needs into one tar.gz: FILE, or waggle-NODE-TIME.tar.gz in the working\n" +
			"directory; - for the standard output. It prints a list of what the bundle holds and what it leaves\n" +
			"out, which is in the bundle, too (MANIFEST). What can't be read is in that list, with the reason.\n\n" +
			"Tokens, passwords, keys and certificates are left out. Addresses of clients are in it, unless\n" +
			"--hash-addresses is given.",
		Args: cobra.MaximumNArgs(1),
		PreRunE: func(*cobra.Command, []string) error {
			if f.flows < 0 {
				return fmt.Errorf("--flows %d: a number of records, or 0 for none", f.flows)
			}
			if f.events < 0 {
				return fmt.Errorf("--events %s: a time, as 2s, or 0 for none", f.events)
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			b := newBundleOf(g, f)
			if len(args) == 1 && args[0] == "-" {
				return b.writeTo(cmd.OutOrStdout(), cmd.ErrOrStderr())
			}
			file := cmp.Or(strings.Join(args, ""), fmt.Sprintf("waggle-%s-%s.tar.gz", b.node(), b.made.Format("20060102T150405Z")))
			if err := b.writeFile(file, cmd.OutOrStdout()); err != nil {
				return err
			}
			_, err := fmt.Fprintln(cmd.OutOrStdout(), "\nWritten:", file)
			return err
		},
	}
	cmd.Flags().BoolVar(&f.hashAddresses, "hash-addresses", false, "replace addresses by hashes, except those of the node, of services and of endpoints")
	cmd.Flags().IntVar(&f.flows, "flows", 10000, "maximum number of flow records")
	cmd.Flags().DurationVar(&f.events, "events", 2*time.Second, "time to watch the programs, as waggle monitor does")
	cmd.Flags().StringVar(&f.log, "log", "", "file of the agent's log (default: the agent's standard error, if that is a file)")
	return cmd
}

// bundle is a bundle that is being written.
type bundle struct {
	g      *globals
	flags  bundleFlags
	made   time.Time
	agent  agentFacts
	redact redactor

	manifest strings.Builder
	missing  []string // what could not be read, and why
}

// part is one file of a bundle. After a failure the bundle keeps what it has written.
type part struct {
	file, about string
	write       func(b *bundle, w io.Writer) error
}

func newBundleOf(g *globals, f bundleFlags) *bundle {
	b := &bundle{g: g, flags: f, made: time.Now().UTC()}
	b.agent = factsOf(g)
	for _, path := range b.agent.kubeconfigs() {
		if c, err := readKubeconfig(path); err == nil {
			b.redact.hideKubeconfig(c)
		}
	}
	b.redact.hideFile(podToken)
	if f.hashAddresses {
		b.redact.hashAddresses()
		b.redact.keep(plainAddresses(g)...)
	}
	return b
}

func (b *bundle) node() string {
	host, _ := os.Hostname()
	if b.agent.status != nil {
		host = b.agent.status.Node
	}
	return strings.ReplaceAll(host, "/", "-")
}

// writeFile makes a new file. It does not overwrite one that exists.
func (b *bundle) writeFile(path string, out io.Writer) error {
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, os.ErrExist) {
		return fmt.Errorf("%s: the file exists already", path)
	}
	if err != nil {
		return err
	}
	err = b.writeTo(file, out)
	if err = errors.Join(err, file.Close()); err != nil {
		return errors.Join(err, os.Remove(path))
	}
	return nil
}

// writeTo writes the bundle, and its manifest also to out.
func (b *bundle) writeTo(w, out io.Writer) error {
	compressed := gzip.NewWriter(w)
	archive := tar.NewWriter(compressed)
	b.begin()
	for _, p := range bundleParts {
		if err := b.add(archive, p); err != nil {
			return err
		}
	}
	b.end()
	text := b.redact.clean(b.manifest.String())
	if err := b.put(archive, "MANIFEST", text); err != nil {
		return err
	}
	if err := errors.Join(archive.Close(), compressed.Close()); err != nil {
		return err
	}
	_, err := io.WriteString(out, text)
	return err
}

// largestPart is the largest size of a part, in bytes: a node may have a million routes.
const largestPart = 4 << 20

var errTooLarge = fmt.Errorf("cut at %d MiB", largestPart>>20)

// bounded is a buffer of limited size.
type bounded struct{ bytes.Buffer }

func (b *bounded) Write(p []byte) (int, error) {
	if room := largestPart - b.Len(); len(p) > room {
		n, _ := b.Buffer.Write(p[:max(room, 0)])
		return n, errTooLarge
	}
	return b.Buffer.Write(p)
}

func (b *bundle) add(archive *tar.Writer, p part) error {
	var text bounded
	err := p.write(b, &text)
	if err != nil {
		what := "not there"
		if text.Len() > 0 {
			what = "not complete"
		}
		b.missing = append(b.missing, fmt.Sprintf("%s: %s: %s", p.file, what, strings.ReplaceAll(err.Error(), "\n", "; ")))
	}
	if text.Len() == 0 {
		if err == nil {
			b.missing = append(b.missing, p.file+": not there: it would be empty")
		}
		return nil
	}
	fmt.Fprintf(&b.manifest, "  %-28s %s\n", p.file, p.about)
	return b.put(archive, p.file, b.redact.clean(text.String()))
}

func (b *bundle) put(archive *tar.Writer, name, text string) error {
	err := archive.WriteHeader(&tar.Header{Name: "waggle-bundle/" + name, Mode: 0o600, Size: int64(len(text)), ModTime: b.made})
	if err != nil {
		return err
	}
	_, err = io.WriteString(archive, text)
	return err
}

func (b *bundle) begin() {
	fmt.Fprintf(&b.manifest, "waggle bundle of node %s, made at %s by waggle %s\n", b.node(), b.made.Format(time.RFC3339), version)
	if user := os.Geteuid(); user != 0 {
		fmt.Fprintf(&b.manifest, "User %d made it: only root can read everything that belongs in it.\n", user)
	}
	fmt.Fprintf(&b.manifest, "\nHolds\n")
}

func (b *bundle) end() {
	w := &b.manifest
	fmt.Fprintf(w, "  %-28s %s\n", "MANIFEST", "this list")
	if len(b.missing) > 0 {
		fmt.Fprintf(w, "\nCould not be read\n")
		for _, m := range b.missing {
			fmt.Fprintln(w, "  "+m)
		}
	}
	fmt.Fprintf(w, "\nLeaves out\n")
	for _, what := range leftOut {
		fmt.Fprintln(w, "  "+what)
	}
	if b.redact.key != nil {
		fmt.Fprintln(w, "  addresses, and MAC addresses: each is a hash with a key that exists only in this run, so that")
		fmt.Fprintln(w, "    equal ones are equal here. Addresses of the node, of services and of endpoints stay, and networks")
	} else {
		fmt.Fprintln(w, "  no addresses: those of clients are in it (--hash-addresses)")
	}
}

// leftOut lists what no bundle holds.
var leftOut = []string{
	"tokens, passwords, keys and certificates: of kubeconfigs and service accounts, and what looks like one",
	"manifests, and objects of the cluster, except the parts of Services and endpoints that are in the maps",
	"the seed of the flow tables' hash",
	"the maps affinity, directs, fragments, sock_flows and sock_peers, what is in sets of nftables, and what",
	"  extensions of iptables match",
}
