// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/waggle-lb/waggle/control/node"
	"github.com/waggle-lb/waggle/control/rundir"
	"github.com/waggle-lb/waggle/loader"
)

// TestCleanupNamesAll, of contract 36: what `waggle cleanup` takes away it names, a line for each.
func TestCleanupNamesAll(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: it makes a network namespace")
	}
	runtime.LockOSThread() // for good: the thread ends with the test
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Fatal(err)
	}
	l := load(t)
	l.must(netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "w0"}, PeerName: "w1"}))
	w0, err := netlink.LinkByName("w0")
	l.must(err)
	l.must(l.dp.AttachTC(w0.Attrs().Index, loader.External))
	links, err := l.dp.Links()
	l.must(err)
	l.must(l.dp.Close()) // the agent ends
	dir := filepath.Join(t.TempDir(), "run")
	l.must(os.MkdirAll(rundir.Cache(dir), 0o700))
	l.writeStatus(dir, someStatus(l.pinDir))
	l.must(node.ReservePorts("/proc/sys", dir, node.PortRange{Min: 10000, Max: 10009}))
	nft, err := nftables.New()
	l.must(err)
	nft.AddTable(&nftables.Table{Name: "waggle-takeover", Family: nftables.TableFamilyINet})
	l.must(nft.Flush())

	out := l.run("cleanup --run-dir " + dir)
	want := []string{
		"ports 10000-10009 from net.ipv4.ip_local_reserved_ports", "nftables table inet waggle-takeover",
		rundir.Cache(dir), filepath.Join(dir, "status.json"), dir,
		"map flows4", "program waggle_ingress", "directory " + l.pinDir,
	}
	for _, link := range links {
		if link.Kind == "clsact" {
			want = append(want, link.Hook+" filter "+link.Program+" on w0")
		} else {
			want = append(want, "link "+strings.Replace(link.Hook, "tc", "tcx", 1)+"-w0-")
		}
	}
	for _, what := range want {
		if !strings.Contains(out, "removed "+what) {
			t.Errorf("%q is not named:\n%s", what, out)
		}
	}
	for _, path := range []string{dir, l.pinDir} {
		if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s is left (%v)", path, err)
		}
	}
	if again := l.run("cleanup --run-dir " + dir); again != "" {
		t.Errorf("a second cleanup has removed %q", again)
	}
}
