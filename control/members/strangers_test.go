// SPDX-License-Identifier: Apache-2.0

package members

import (
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"

	"github.com/hashicorp/memberlist"
	"github.com/sirupsen/logrus"
	logtest "github.com/sirupsen/logrus/hooks/test"

	"github.com/waggle-lb/waggle/test/await"
)

func checked[T any](t *testing.T) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// TestLimits: a host may have so many connections, and all of them together so much in memory. What is closed counts no more.
func TestLimits(t *testing.T) {
	inner := checked[*memberlist.NetTransport](t)(memberlist.NewNetTransport(&memberlist.NetTransportConfig{BindAddrs: []string{"127.7.0.20"}, BindPort: 17947}))
	tr := limit(inner)
	stop := make(chan struct{})
	t.Cleanup(func() {
		if err := inner.Shutdown(); err != nil {
			t.Error(err)
		}
		close(stop)
	})
	go tr.run(stop)
	dial := func() net.Conn {
		conn := checked[net.Conn](t)(net.Dial("tcp", "127.7.0.20:17947"))
		t.Cleanup(func() { conn.Close() })
		return conn
	}
	var theirs, ours []net.Conn
	for range maxStreamsOfHost {
		theirs = append(theirs, dial())
		ours = append(ours, <-tr.StreamCh())
	}
	if n, err := dial().Read(make([]byte, 1)); n > 0 || err == nil {
		t.Errorf("connection %d of a host: %d bytes, %v", maxStreamsOfHost+1, n, err)
	}
	taken, ended := int64(0), error(nil)
	for i := 0; i < len(ours) && ended == nil; i++ {
		const each = 10 << 20
		go func() { _, _ = io.Copy(theirs[i], io.LimitReader(zeros{}, each)) }()
		var n int64
		n, ended = io.CopyN(io.Discard, ours[i], each)
		taken += n
	}
	if taken > maxStreamBytes || !errors.Is(ended, errTooMuch) {
		t.Errorf("%d bytes are taken, and then %v", taken, ended)
	}
	for _, conn := range ours {
		_ = conn.Close()
	}
	dial()
	last := <-tr.StreamCh()
	if tr.open != 1 || tr.bytes != 0 || len(tr.hosts) != 1 {
		t.Errorf("with one connection: %d are open with %d bytes, of %d hosts", tr.open, tr.bytes, len(tr.hosts))
	}
	_ = last.Close()
}

type zeros struct{}

func (zeros) Read(b []byte) (int, error) { return len(b), nil }

// TestGarbage: what hosts without the key send to the port makes few lines in the log, and no member of them.
func TestGarbage(t *testing.T) {
	all := []string{"127.7.0.21", "127.7.0.22"}
	list := func() ([]string, error) { return all, nil }
	a, ea := member(t, "a", all[0], secret, "", list)
	b, eb := member(t, "b", all[1], secret, "", list)
	hook := logtest.NewLocal(a.opts.Log.Logger)
	if n, err := b.Reconnect(t.Context()); n != 1 || err != nil {
		t.Fatalf("b has reached %d others, %v", n, err)
	}
	eb.await(t, "+a")
	at := all[0] + ":17947"
	label := "\xf4\x06waggle"
	for _, raw := range []string{
		"", "\x00", "\x0a", "\xff\xff\xff", label, label + "\x0a\xff\xff\xff\xff", label + "\x0a\x01\x00\x00\x00" + strings.Repeat("x", 70000),
		label + "\x06\x81\xa7Nodes\xd2", label + strings.Repeat("\x07", 1000), "\xf4\xff" + strings.Repeat("y", 300), "GET / HTTP/1.1\r\n\r\n",
	} {
		for range 100 {
			conn := checked[net.Conn](t)(net.Dial("udp", at))
			_, _ = conn.Write([]byte(raw[:min(len(raw), 1400)]))
			conn.Close()
		}
		for range 3 {
			conn := checked[net.Conn](t)(net.Dial("tcp", at))
			_, _ = conn.Write([]byte(raw))
			_ = conn.(*net.TCPConn).CloseWrite()
			_, _ = io.Copy(io.Discard, conn)
			conn.Close()
		}
	}
	// A flood may have kept them from each other for a while.
	await.Until(t, func() (string, bool) {
		a.Send("b", []byte("still here"))
		seen := eb.text()
		return seen, strings.Contains(seen, "a: still here")
	})
	if got := strings.Trim(ea.text(), "+-b "); got != "" {
		t.Errorf("what a has seen: %q", ea.text())
	}
	shown := 0
	for _, e := range hook.AllEntries() {
		if e.Level <= logrus.InfoLevel {
			shown++
		}
	}
	if shown == 0 || shown > 50 {
		t.Errorf("%d lines in the log", shown)
	}
}

// TestHostNames: an agent finds its own name among the peers, and others by theirs.
func TestHostNames(t *testing.T) {
	a, _ := member(t, "a", "127.0.0.1", secret, "", func() ([]string, error) { return []string{"localhost", "no-such-host.invalid"}, nil })
	if n, err := a.Reconnect(t.Context()); n != 0 || err != nil {
		t.Errorf("alone it has reached %d others, %v", n, err)
	}
	if got := fmt.Sprint(a.Missing()); got != "[no-such-host.invalid:17947]" {
		t.Errorf("missing: %s", got)
	}
	b, eb := member(t, "b", "127.7.0.23", secret, "", func() ([]string, error) { return []string{"127.0.0.1"}, nil })
	if n, err := b.Reconnect(t.Context()); n != 1 || err != nil {
		t.Fatalf("b has reached %d others, %v", n, err)
	}
	eb.await(t, "+a")
	if got := b.Missing(); len(got) > 0 {
		t.Errorf("missing: %s", got)
	}
	b.setFound([]string{"localhost"})
	b.resolve(t.Context(), []string{"localhost"})
	if got := b.Missing(); len(got) > 0 {
		t.Errorf("missing, by its name: %s", got)
	}
}

// TestNamesake: the second agent of a name does not know which agents there are, until the first one is gone.
func TestNamesake(t *testing.T) {
	all := []string{"127.7.0.24", "127.7.0.25"}
	list := func() ([]string, error) { return all, nil }
	first, _ := member(t, "same", all[0], secret, "", list)
	second, _ := member(t, "same", all[1], secret, "", list)
	const want = "another agent, at 127.7.0.24:17947, has the name of this node, same (--node-name)"
	if _, err := second.Reconnect(t.Context()); err == nil || err.Error() != want {
		t.Errorf("the second one: %v; want %q", err, want)
	}
	if got := fmt.Sprint(first.Conflicts()); got != "[two agents have the name same (--node-name): 127.7.0.24:17947 and 127.7.0.25:17947]" {
		t.Errorf("the first one has %s", got)
	}
	_ = first.Close()
	if _, err := second.Reconnect(t.Context()); err != nil {
		t.Errorf("the second one, alone: %v", err)
	}
}
