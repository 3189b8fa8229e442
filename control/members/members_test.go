// SPDX-License-Identifier: Apache-2.0

package members

import (
	"context"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sirupsen/logrus"
)

// events are those of a member.
type events struct {
	mu   sync.Mutex
	list []string
}

func (e *events) add(s string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.list = append(e.list, s)
}
func (e *events) Joined(name string)                   { e.add("+" + name) }
func (e *events) Died(name string)                     { e.add("-" + name) }
func (e *events) Received(from string, message []byte) { e.add(from + ": " + string(message)) }

func (e *events) text() string {
	e.mu.Lock()
	defer e.mu.Unlock()
	return strings.Join(e.list, " ")
}

func (e *events) await(t *testing.T, want string) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		if strings.Contains(e.text(), want) {
			return
		}
	}
	t.Fatalf("no %q in %q", want, e.text())
}

func member(t *testing.T, name, addr, secret, file string, find func() ([]string, error)) (*Members, *events) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(path, []byte(secret), 0o600); err != nil {
		t.Fatal(err)
	}
	key, err := ReadKey(path)
	if err != nil {
		t.Fatal(err)
	}
	log := logrus.New()
	log.SetOutput(io.Discard)
	e := &events{}
	m, err := Start(Options{Name: name, Address: netip.MustParseAddr(addr), Port: 17947, Key: key, File: file, Log: logrus.NewEntry(log),
		Find: func(context.Context) ([]string, error) { return find() }}, e)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = m.Close() })
	return m, e
}

const secret = "a secret of this test"

// TestMembers: agents find each other, send each other messages, notice that one is gone, and find it again by what they
// remember though Find fails.
func TestMembers(t *testing.T) {
	file := filepath.Join(t.TempDir(), "members.json")
	all := []string{"127.7.0.1", "127.7.0.2"}
	list := func() ([]string, error) { return all, nil }
	a, ea := member(t, "a", all[0], secret, "", list)
	b, eb := member(t, "b", all[1], secret, file, list)
	if n, err := a.Reconnect(t.Context()); n != 1 || err != nil {
		t.Fatalf("a has reached %d others, %v", n, err)
	}
	ea.await(t, "+b")
	eb.await(t, "+a")
	a.Send("b", []byte("hello"))
	eb.await(t, "a: hello")
	long := strings.Repeat("x", 100_000)
	b.Send("a", []byte(long))
	ea.await(t, "b: "+long)
	ctx, cancel := context.WithCancel(t.Context())
	go b.Run(ctx)
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		if raw, _ := os.ReadFile(file); strings.Contains(string(raw), "127.7.0.1:17947") {
			break
		} else if time.Now().After(deadline) {
			t.Fatalf("b remembers %q", raw)
		}
	}
	cancel()
	_ = b.Close()
	ea.await(t, "-b")
	if got := fmt.Sprint(a.Missing()); got != "[127.7.0.2:17947]" {
		t.Errorf("missing: %s", got)
	}
	b, _ = member(t, "b", all[1], secret, file, func() ([]string, error) { return nil, os.ErrDeadlineExceeded })
	if n, err := b.Reconnect(t.Context()); n != 1 || err != nil {
		t.Errorf("b has reached %d others by what it remembers, %v", n, err)
	}
	ea.await(t, "-b +b")
}

// TestUnknown: without a list of agents and without a memory of them it is not known which there are.
func TestUnknown(t *testing.T) {
	m, _ := member(t, "c", "127.7.0.3", secret, "", func() ([]string, error) { return nil, os.ErrDeadlineExceeded })
	if _, err := m.Reconnect(t.Context()); err == nil {
		t.Error("it claims to know the agents")
	}
}

// TestOtherKey: an agent with another secret is no member.
func TestOtherKey(t *testing.T) {
	all := []string{"127.7.0.4", "127.7.0.5"}
	list := func() ([]string, error) { return all, nil }
	a, ea := member(t, "a", all[0], secret, "", list)
	_, eb := member(t, "b", all[1], "another secret, as long", "", list)
	if n, err := a.Reconnect(t.Context()); n != 0 || err != nil {
		t.Errorf("it has reached %d, %v", n, err)
	}
	if len(ea.list)+len(eb.list) > 0 {
		t.Errorf("they know each other: %q %q", ea.list, eb.list)
	}
	if got := fmt.Sprint(a.Missing()); got != "[127.7.0.5:17947]" {
		t.Errorf("missing: %s", got)
	}
}

func TestReadKey(t *testing.T) {
	file := filepath.Join(t.TempDir(), "key")
	for content, want := range map[string]string{"short \n": "the secret has 5 bytes; at least 16 are needed", "0123456789abcdef\n": ""} {
		if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := ReadKey(file)
		if got := fmt.Sprint(err); want == "" && err != nil || want != "" && !strings.Contains(got, want) {
			t.Errorf("%q: %v", content, err)
		}
	}
}

func TestParsePeer(t *testing.T) {
	for text, ok := range map[string]bool{
		"192.0.2.1": true, "192.0.2.1:80": true, "2001:db8::1": true, "[2001:db8::1]:80": true, "node-1": true, "node-1:80": true,
		"": false, ":80": false, "a:b": false, "a:0": false, "a b": false, "[::1": false, "a:1:2": false,
	} {
		if err := ParsePeer(text); (err == nil) != ok {
			t.Errorf("%q: %v", text, err)
		}
	}
}
