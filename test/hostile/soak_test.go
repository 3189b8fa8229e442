// SPDX-License-Identifier: Apache-2.0

package hostile

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/waggle-lb/waggle/control/status"
	"github.com/waggle-lb/waggle/test/topo"
)

// needs are the resources that an agent uses.
type needs struct {
	rss        int // KiB
	files      int
	goroutines int
	maps       int // bytes locked by BPF maps
}

// TestSoak churns services and connections, and fails when what the agent needs grows after the
// first third of the time: its memory by more than a tenth and 4 MiB, its goroutines or open
// files by more than 8, the memory of its maps by more than a tenth.
func TestSoak(t *testing.T) {
	if *soak == 0 {
		t.Skip("only with -soak (make soak)")
	}
	s, laptop := newExhausted(t)
	load := topo.StartLoad(8, 10*time.Millisecond, func(i int) topo.Reply {
		return laptop.Get(topo.Request{To: s.nodePort([]service{local, remote}[i%2], httpDigit, i >= 4)})
	})
	started := time.Now()
	var early, late needs
	changes := 0
	for next := started; time.Since(started) < *soak; changes++ {
		s.churn(t, changes)
		time.Sleep(50 * time.Millisecond)
		if time.Now().Before(next) {
			continue
		}
		next = next.Add(*soak / 90)
		now := s.needs(t)
		t.Logf("%4.0f s: RSS %d KiB, %d files, %d goroutines, maps %d KiB",
			time.Since(started).Seconds(), now.rss, now.files, now.goroutines, now.maps>>10)
		switch share := float64(time.Since(started)) / float64(*soak); {
		case share > 1./3 && share <= 2./3:
			early = early.max(now)
		case share > 2./3:
			late = late.max(now)
		}
	}
	report := load.Stop()
	t.Logf("%d changes; clients: %s; most in the second third %+v, in the last %+v", changes, report, early, late)
	if report.Failed > 0 {
		t.Errorf("clients: %s", report)
	}
	check(t, s.agent.Await("no problem with an object", func(st *status.Status) bool {
		return len(st.Problems)+len(st.Proxy.Failures) == 0
	}))
	if late.rss > early.rss*11/10+4<<10 || late.files > early.files+8 ||
		late.goroutines > early.goroutines+8 || late.maps > early.maps*11/10 {
		t.Errorf("the agent grows: at most %+v in the second third of the time, %+v in the last", early, late)
	}
}

// churn makes, changes and removes one of fifty services, each with endpoints of its own.
func (s *setup) churn(t *testing.T, n int) {
	t.Helper()
	name := fmt.Sprintf("churn-%d", n%50)
	if n/50%7 == 6 {
		check(t, s.manifests.Remove(name+".yaml"))
		return
	}
	slice := fmt.Sprintf(`apiVersion: v1
kind: Service
metadata: {name: %[1]s}
spec: {ipFamilyPolicy: RequireDualStack, ports: [{name: a, port: 80}, {name: b, port: 53, protocol: UDP}]}
`, name)
	for family, format := range map[string]string{"IPv4": "10.77.%d.%d", "IPv6": "fd00:77::%d:%d"} {
		slice += fmt.Sprintf(`---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: %[1]s-%[2]s, labels: {kubernetes.io/service-name: %[1]s}}
addressType: %[3]s
ports: [{name: a, port: 8080}, {name: b, port: 53, protocol: UDP}]
endpoints:
`, name, strings.ToLower(family), family)
		for e := range 1 + n%13 {
			slice += fmt.Sprintf("- addresses: [\""+format+"\"]\n", 1+n%50, 1+(n+e)%250)
		}
	}
	check(t, s.manifests.Write(name+".yaml", slice))
}

func (n needs) max(other needs) needs {
	return needs{max(n.rss, other.rss), max(n.files, other.files), max(n.goroutines, other.goroutines), max(n.maps, other.maps)}
}

// needs measures the agent.
func (s *setup) needs(t *testing.T) (n needs) {
	t.Helper()
	proc := fmt.Sprintf("/proc/%d", s.agent.Pid())
	status, err := os.ReadFile(proc + "/status")
	check(t, err)
	n.rss = number(t, status, "VmRSS:")
	n.goroutines = number(t, []byte(s.metrics(t)), "go_goroutines ")
	files, err := filepath.Glob(proc + "/fdinfo/*")
	check(t, err)
	n.files = len(files)
	for _, file := range files {
		if info, err := os.ReadFile(file); err == nil && bytes.Contains(info, []byte("map_type:")) {
			n.maps += number(t, info, "memlock:")
		}
	}
	return n
}

// number returns the number after a word at the beginning of a line.
func number(t *testing.T, text []byte, word string) int {
	t.Helper()
	for lines := bufio.NewScanner(bytes.NewReader(text)); lines.Scan(); {
		if rest, ok := strings.CutPrefix(lines.Text(), word); ok {
			value, err := strconv.ParseFloat(strings.Fields(rest)[0], 64)
			check(t, err)
			return int(value)
		}
	}
	t.Fatalf("no %q in %s", word, text)
	return 0
}
