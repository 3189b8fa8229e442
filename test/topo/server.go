// SPDX-License-Identifier: Apache-2.0

package topo

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
)

const (
	readyLine   = "ready\n"
	helloHeader = "X-Topo-Hello"
)

type serverConfig struct {
	Name  string
	Ports Ports
}

// hello describes a server and its client.
type hello struct {
	Pod    string         `json:"pod"`
	Remote netip.AddrPort `json:"remote"`
	Local  netip.AddrPort `json:"local"`
	// Of the datagram, in UDP.
	Len int    `json:"len,omitempty"`
	CRC uint32 `json:"crc,omitempty"`
}

func serverMain(config string) error {
	var s serverConfig
	if err := json.Unmarshal([]byte(config), &s); err != nil {
		return err
	}
	failed := make(chan error, 1)
	report := func(err error) {
		select {
		case failed <- err:
		default:
		}
	}
	if err := s.listen(report); err != nil {
		return err
	}
	if _, err := io.WriteString(os.Stdout, readyLine); err != nil {
		return err
	}
	go func() {
		_, err := io.Copy(io.Discard, os.Stdin) // until the parent closes it
		report(err)
	}()
	return <-failed
}

func (s serverConfig) listen(report func(error)) error {
	for _, port := range s.Ports.HTTP {
		err := listenTCP(port, report, func(l net.Listener) error {
			server := http.Server{Handler: s}
			return server.Serve(l)
		})
		if err != nil {
			return fmt.Errorf("HTTP: %w", err)
		}
	}
	for _, port := range s.Ports.Echo {
		if err := listenTCP(port, report, s.serveEcho); err != nil {
			return fmt.Errorf("echo: %w", err)
		}
	}
	for _, port := range s.Ports.SCTP {
		if err := listenSCTP(port, report, s.serveEcho); err != nil {
			return fmt.Errorf("SCTP: %w", err)
		}
	}
	for _, port := range s.Ports.UDP {
		if err := s.listenUDP(port, report); err != nil {
			return fmt.Errorf("UDP: %w", err)
		}
	}
	return nil
}

func listenTCP(port uint16, report func(error), serve func(net.Listener) error) error {
	for _, network := range []string{"tcp4", "tcp6"} {
		l, err := net.Listen(network, fmt.Sprintf(":%d", port))
		if err != nil {
			return err
		}
		go func() { report(serve(l)) }()
	}
	return nil
}

// ServeHTTP sends hello and echoes.
func (s serverConfig) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	remote, _ := netip.ParseAddrPort(r.RemoteAddr)
	local, _ := r.Context().Value(http.LocalAddrContextKey).(*net.TCPAddr)
	encoded := hello{Pod: s.Name, Remote: remote, Local: local.AddrPort()}.encode()
	w.Header().Set(helloHeader, string(encoded))
	if r.Method != http.MethodPost {
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write(append(encoded, '\n')) // the client sees a failure
		return
	}
	// Without this, the server would read and drop a large body before the
	// reply.
	_ = http.NewResponseController(w).EnableFullDuplex() // HTTP/1 always can
	if _, err := io.Copy(w, r.Body); err != nil {
		panic(http.ErrAbortHandler) // shows the client a broken connection, not a short body
	}
}

func (s serverConfig) serveEcho(l net.Listener) error {
	for {
		conn, err := l.Accept()
		if err != nil {
			return err
		}
		go func() {
			defer conn.Close()
			greeting := hello{Pod: s.Name, Remote: addrPort(conn.RemoteAddr()), Local: addrPort(conn.LocalAddr())}
			if _, err := conn.Write(append(greeting.encode(), '\n')); err == nil {
				_, _ = io.Copy(conn, conn) // until either side ends it
			}
		}()
	}
}

func (h hello) encode() []byte {
	encoded, err := json.Marshal(h)
	if err != nil {
		panic(err) // strings and numbers can always be encoded
	}
	return encoded
}

// addrPort converts a TCP or UDP address, and IPv4 in IPv6 to IPv4.
func addrPort(addr net.Addr) netip.AddrPort {
	a, ok := addr.(interface{ AddrPort() netip.AddrPort })
	if !ok || addr == nil {
		return netip.AddrPort{}
	}
	return unmap(a.AddrPort())
}

func unmap(a netip.AddrPort) netip.AddrPort {
	return netip.AddrPortFrom(a.Addr().Unmap(), a.Port())
}
