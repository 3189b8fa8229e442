// SPDX-License-Identifier: Apache-2.0

package topo

import "errors"

// Ports are the ports of a server, on all IPv4 and IPv6 addresses.
type Ports struct {
	// HTTP answers a GET with JSON that names the server and the client, and
	// echoes the body of a POST.
	HTTP []uint16
	// UDP answers each datagram with one of the same size: JSON as in HTTP, a
	// newline, and the rest of the datagram. The reply has as its source the
	// address that the datagram was sent to.
	UDP []uint16
	// Echo sends a line of JSON as in HTTP, and then echoes over TCP.
	Echo []uint16
	// SCTP is like Echo. See HaveSCTP.
	SCTP []uint16
}

// Server is a server process in a host.
type Server struct{ child *child }

// Serve starts a server process, which listens when Serve returns.
func (h *Host) Serve(ports Ports) (*Server, error) {
	c, err := h.startRole(serverRole, serverConfig{Name: h.Name, Ports: ports})
	if err != nil {
		return nil, err
	}
	cancel := c.killAfter(startTime)
	line, err := c.stdout.ReadString('\n')
	cancel()
	if err != nil || line != readyLine {
		_ = c.stdin.Close()
		return nil, c.failure(errors.Join(errors.New("not ready"), c.Wait()))
	}
	return &Server{child: c}, nil
}

// Stop ends the server process. The kernel resets or closes its connections as
// for any process that dies.
func (s *Server) Stop() error { return s.child.stop() }

// Pid is the process id of the server.
func (s *Server) Pid() int { return s.child.Process.Pid }
