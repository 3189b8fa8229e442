// SPDX-License-Identifier: Apache-2.0

package monitor

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"text/tabwriter"
	"time"

	"github.com/waggle-lb/waggle/test/await"
	"github.com/waggle-lb/waggle/test/topo"
)

var rates = flag.Bool("rates", false, "measure what is lost at several rates of events (docs/performance.md)")

// TestRates prints a table of what a monitor loses that shows each packet as an event, at rates that packets come in
// at. It asserts the sums, never the losses.
func TestRates(t *testing.T) {
	if !*rates {
		t.Skip("a measurement: -rates")
	}
	s := newSetup(t)
	node, err := s.node.MAC("eth0")
	check(t, err)
	injector, err := s.Link.Injector(s.node.BridgePort(), synTemplate(t, s.Laptop, node, s.node.IP4))
	check(t, err)
	defer injector.Close()
	w := tabwriter.NewWriter(os.Stdout, 0, 8, 2, ' ', 0)
	fmt.Fprintln(w, "format\tpackets a second\tevents a second\tshown\tlost\tCPU of the monitor\t")
	for _, c := range []struct {
		format string
		rate   uint32 // packets a second
	}{{"json", 5_000}, {"json", 30_000}, {"json", 65_000}, {"table", 65_000}} {
		cmd := s.agent.Command("monitor", "-o", c.format, "--rate", "0", "--verdict", "flow-opened,express,left-to-tc")
		out, err := os.Create(filepath.Join(t.TempDir(), "events"))
		check(t, err)
		var messages text
		cmd.Stdout, cmd.Stderr = out, &messages
		check(t, cmd.Start())
		await.Until(t, func() (string, bool) { return "no monitor", s.word(t) != 0 })
		before, err := s.agent.Counters()
		check(t, err)
		took := s.paced(t, injector, c.rate, 5*time.Second)
		after, err := s.agent.Counters()
		check(t, err)
		check(t, cmd.Process.Signal(os.Interrupt))
		check(t, cmd.Wait())
		counted := after.Since(before)
		events := counted["xdp/flow-opened"] + counted["xdp/express"] + counted["xdp/left-to-tc"] + counted["tc-ingress/flow-opened"] + counted["tc-ingress/express"]
		shown, lost := sums(t, out, messages.String())
		fmt.Fprintf(w, "%s\t%d\t%.0f\t%d\t%d\t%.0f%%\t\n", c.format, c.rate, float64(events)/took.Seconds(), shown, lost,
			100*(cmd.ProcessState.UserTime()+cmd.ProcessState.SystemTime()).Seconds()/took.Seconds())
		if shown+lost != events {
			t.Errorf("%s at %d: %d events, of which %d are shown and %d lost", c.format, c.rate, events, shown, lost)
		}
		out.Close()
	}
	w.Flush()
}

// paced sends packets of which most give two events, a flow and its packet, in a burst each millisecond.
func (s *setup) paced(t *testing.T, injector *topo.Injector, rate uint32, long time.Duration) time.Duration {
	t.Helper()
	const bursts = 1000
	begun := time.Now()
	sent := uint32(0)
	for time.Since(begun) < long {
		due := uint32(time.Since(begun).Seconds() * float64(rate))
		if due > sent {
			check(t, injector.Send(due-sent))
			sent = due
		}
		time.Sleep(time.Second / bursts)
	}
	took := time.Since(begun)
	time.Sleep(200 * time.Millisecond) // frames that are under way
	return took
}

// sums reads the summary, which is at the end of the objects or of the messages.
func sums(t *testing.T, out *os.File, messages string) (shown, lost uint64) {
	t.Helper()
	if messages == "" {
		tail := make([]byte, 4096)
		size, err := out.Seek(0, io.SeekEnd)
		check(t, err)
		n, err := out.ReadAt(tail, max(0, size-int64(len(tail))))
		if err != nil && !errors.Is(err, io.EOF) {
			t.Fatal(err)
		}
		lines := strings.Split(strings.TrimSpace(string(tail[:n])), "\n")
		var e event
		check(t, json.Unmarshal([]byte(lines[len(lines)-1]), &e))
		for _, by := range []map[string]uint64{e.Lost.Limited, e.Lost.Full} {
			for _, n := range by {
				lost += n
			}
		}
		return e.Shown, lost
	}
	lines := strings.Split(strings.TrimSpace(messages), "\n")
	end := lines[len(lines)-1]
	fmt.Sscanf(end, "waggle: %d events shown", &shown)
	_, end, _ = strings.Cut(end, "lost: ")
	for _, part := range strings.Split(end, "; ") {
		var n uint64
		fmt.Sscanf(part, "%d", &n)
		lost += n
	}
	return shown, lost
}
