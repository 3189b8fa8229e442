// SPDX-License-Identifier: Apache-2.0

package ipvs

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"golang.org/x/sys/unix"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// all reads a text a byte at a time, so that no line comes in one piece.
func all(t *testing.T, text string) (connections []Connection, bad int) {
	t.Helper()
	bad, err := read(iotest.OneByteReader(strings.NewReader(text)), func(c Connection) { connections = append(connections, c) })
	must(t, err)
	return connections, bad
}

const heading = "Pro FromIP   FPrt ToIP     TPrt DestIP   DPrt State       Expires PEName PEData\n"

// line is one of a good connection, of its own client.
func line(n int) string {
	return fmt.Sprintf("TCP 0A%06X 88B8 0A600001 0007 0AF40002 1B9E ESTABLISHED     899\n", n)
}

// TestCaptured: a text of Linux 6.12. One line is a template: it has no port of the client.
func TestCaptured(t *testing.T) {
	text, err := os.ReadFile("testdata/ip_vs_conn")
	must(t, err)
	got, bad := all(t, string(text))
	connection := func(proto uint8, client, virtual, server string, state State, seconds time.Duration) Connection {
		return Connection{
			proto, netip.MustParseAddrPort(client), netip.MustParseAddrPort(virtual), netip.MustParseAddrPort(server), state, seconds * time.Second,
		}
	}
	const tcp, udp = unix.IPPROTO_TCP, unix.IPPROTO_UDP
	want := []Connection{
		connection(tcp, "10.244.0.3:35012", "10.96.0.1:7", "10.244.0.4:7070", Reset, 6),
		connection(udp, "10.244.0.3:35013", "10.96.0.1:53", "10.244.0.4:5353", Open, 274),
		connection(tcp, "[fd00:192:168:1::10]:35018", "[fd00:192:168:1::2]:30027", "[fd00:10:244:1::3]:7070", Reset, 7),
		connection(tcp, "10.96.0.1:37390", "10.96.0.1:7", "10.244.0.5:7070", Open, 896),
		connection(udp, "[fd00:192:168:1::10]:35007", "[2001:db8::1]:53", "[fd00:10:244::5]:5353", Open, 273),
		connection(tcp, "10.244.0.3:47170", "10.96.0.9:7", "10.244.0.99:7070", Open, 53),
		connection(tcp, "[fd00:10:244::3]:35014", "[fd00:10:96::1]:7", "[fd00:10:244::4]:7070", Open, 894),
		connection(tcp, "192.168.1.10:60004", "192.168.1.2:30027", "10.244.1.2:7070", Open, 56),
	}
	if !slices.Equal(got, want) || bad != 0 {
		t.Errorf("%d bad, got\n%+v\nwant\n%+v", bad, got, want)
	}
}

// TestStates: what each of the kernel's states (ip_vs_proto_tcp.c, ip_vs_proto_sctp.c) means.
func TestStates(t *testing.T) {
	for proto, states := range map[string]map[string]State{
		"TCP": {
			"NONE": Open, "ESTABLISHED": Open, "SYN_SENT": Open, "SYN_RECV": Open, "FIN_WAIT": HalfClosed, "TIME_WAIT": Closed,
			"CLOSE": Reset, "CLOSE_WAIT": HalfClosed, "LAST_ACK": Closed, "LISTEN": Open, "SYNACK": Open,
		},
		"UDP": {"UDP": Open, "NONE": Open, "ASSURED": Open},
		"SCTP": {
			"NONE": Open, "INIT1": Open, "INIT": Open, "COOKIE_SENT": Open, "COOKIE_REPLIED": Open, "COOKIE_WAIT": Open, "COOKIE": Open,
			"COOKIE_ECHOED": Open, "ESTABLISHED": Open, "SHUTDOWN_SENT": HalfClosed, "SHUTDOWN_RECEIVED": HalfClosed,
			"SHUTDOWN_ACK_SENT": Closed, "REJECTED": Reset, "CLOSED": Reset,
		},
	} {
		for name, want := range states {
			text := fmt.Sprintf("%s%-3s 0A000001 88B8 0A600001 0007 0AF40002 1B9E %-11s %7d\n", heading, proto, name, 5)
			got, bad := all(t, text)
			if len(got) != 1 || bad != 0 || got[0].State != want || got[0].Expires != 5*time.Second {
				t.Errorf("%s %s: %+v, %d bad, want state %d", proto, name, got, bad, want)
			}
		}
	}
}

// TestLines: what else may be there.
func TestLines(t *testing.T) {
	const good = "TCP 0A000001 88B8 0A600001 0007 0AF40002 1B9E ESTABLISHED     899"
	for _, c := range []struct {
		name, line string
		good, bad  int
	}{
		{"good", good, 1, 0},
		{"of a persistence engine", good + " sip 1-2193@127.0.0.1", 1, 0},
		{"a template", strings.Replace(good, "88B8", "0000", 1), 0, 0},
		{"a firewall mark", strings.Replace(good, "TCP", "IP ", 1), 0, 0},
		{"ICMP", strings.Replace(good, "TCP", "ICMP", 1), 0, 0},
		{"another family behind", strings.Replace(good, "0AF40002", "fd00:0010:0244:0000:0000:0000:0000:0002", 1), 0, 0},
		{"an address of no length", strings.Replace(good, "0A000001", "0A0001", 1), 0, 1},
		{"an address of no digits", strings.Replace(good, "0A000001", "0A00000G", 1), 0, 1},
		{"a long port", strings.Replace(good, "88B8", "188B8", 1), 0, 1},
		{"no port", strings.Replace(good, "88B8", "----", 1), 0, 1},
		{"no seconds", strings.Replace(good, "899", "-", 1), 0, 1},
		{"negative seconds", strings.Replace(good, "899", "-1", 1), 0, 1},
		{"too short", strings.TrimSuffix(good, "     899"), 0, 1},
		{"empty", "", 0, 1},
		{"too long", good + strings.Repeat(" x", lineSize), 0, 1},
		{"much too long", strings.Repeat("x", 5*lineSize), 0, 1},
	} {
		text := heading + line(1) + c.line + "\n" + line(2)
		got, bad := all(t, text)
		if len(got) != 2+c.good || bad != c.bad {
			t.Errorf("%s: %d connections, %d bad, want %d, %d: %+v", c.name, len(got), bad, 2+c.good, c.bad, got)
		}
	}
}

// TestExpired: of a timer that has just expired the kernel prints how long it has, as an unsigned number.
func TestExpired(t *testing.T) {
	for text, want := range map[string]time.Duration{
		"0": 0, "1": time.Second, "4294967295": 4294967295 * time.Second, "4294967296": 0, "73786976294838206": 0, "18446744073709551": 0,
	} {
		got, err := parseSeconds([]byte(text))
		if got != want || err != nil {
			t.Errorf("%s: %v, %v, want %v", text, got, err, want)
		}
	}
}

// TestEnds: the end of the text, wherever it comes, and an error in reading.
func TestEnds(t *testing.T) {
	for _, text := range []string{"", heading, strings.TrimSuffix(heading, "\n")} {
		if got, bad := all(t, text); len(got) != 0 || bad != 0 {
			t.Errorf("%q: %+v, %d bad", text, got, bad)
		}
	}
	if got, bad := all(t, heading+line(1)+strings.TrimSuffix(line(2), "\n")); len(got) != 2 || bad != 0 {
		t.Errorf("without a last newline: %+v, %d bad", got, bad)
	}
	broken := errors.New("broken")
	n := 0
	_, err := read(io.MultiReader(strings.NewReader(heading+line(1)+line(2)[:9]), iotest.ErrReader(broken)), func(Connection) { n++ })
	if n != 1 || !errors.Is(err, broken) {
		t.Errorf("%d connections, %v", n, err)
	}
}

// TestNoHarm: no text does any, however wrong.
func TestNoHarm(t *testing.T) {
	text := []byte(heading + line(1) + strings.Replace(line(2), "0A600001", "fd00:0010:0096:0000:0000:0000:0000:0001", 1))
	for i := range text {
		for _, b := range []byte{0, ' ', '\n', ':', 'F', 255} {
			broken := bytes.Clone(text)
			broken[i] = b
			_, err := read(bytes.NewReader(broken), func(Connection) {}) // it may have a meaning
			must(t, err)
		}
		_, err := read(bytes.NewReader(text[:i]), func(Connection) {})
		must(t, err)
	}
}

// manyLines is a text of so many connections, made as it is read.
type manyLines struct {
	n, many int
	page    []byte
}

func (m *manyLines) Read(p []byte) (int, error) {
	if len(m.page) == 0 {
		if m.n == m.many {
			return 0, io.EOF
		}
		m.n++
		m.page = append(m.page, line(m.n)...)
	}
	n := copy(p, m.page)
	m.page = m.page[n:]
	return n, nil
}

// TestMemory: what reading takes does not depend on how many connections there are.
func TestMemory(t *testing.T) {
	const many = 300_000
	runtime.GC()
	var before, now runtime.MemStats
	runtime.ReadMemStats(&before)
	n, most := 0, uint64(0)
	bad, err := read(io.MultiReader(strings.NewReader(heading), &manyLines{many: many}), func(Connection) {
		if n++; n%1000 == 0 {
			runtime.ReadMemStats(&now)
			most = max(most, now.HeapInuse)
		}
	})
	must(t, err)
	if n != many || bad != 0 {
		t.Errorf("%d connections, %d bad, want %d", n, bad, many)
	}
	extra := int64(most) - int64(before.HeapInuse)
	t.Logf("%d connections read with %d KiB of heap more than before", many, extra>>10)
	const limit = 8 << 20 // the test's own garbage included
	if extra > limit {
		t.Errorf("%d connections took %d KiB of heap, want at most %d", many, extra>>10, limit>>10)
	}
}
