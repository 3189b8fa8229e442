// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"

	"github.com/waggle-lb/waggle/test/topo"
)

// The clients' operations on sockets.
const (
	doConnect = "connect"  // connect, close
	doCRR     = "crr"      // connect, request, response, close
	doRR      = "rr"       // request and response on an open connection
	doUDP     = "udp-conn" // connect of a UDP socket: the hook and nothing else
)

const socketArgument = "bench-socket-client"

// socketMain does the work of a client process, and exits, if this process was started as one.
func socketMain() {
	if len(os.Args) != 2 || os.Args[1] != socketArgument {
		return
	}
	runtime.LockOSThread()
	in, out := json.NewDecoder(os.Stdin), json.NewEncoder(os.Stdout)
	for {
		var r socketRequest
		if err := in.Decode(&r); errors.Is(err, io.EOF) {
			os.Exit(0)
		} else if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		var reply socketReply
		var err error
		if reply.Nanoseconds, err = r.answer(); err != nil {
			reply.Err = err.Error()
		}
		if err := out.Encode(reply); err != nil {
			os.Exit(1)
		}
	}
}

// socketRequest asks for a number of rounds.
type socketRequest struct {
	What  string
	To    netip.AddrPort
	Times int
	Among []netip.AddrPort // the destinations of first packets, in turn
	For   time.Duration    // instead of Times
	Want  byte             // the answer of the endpoint that is waited for
}

type socketReply struct {
	Nanoseconds []float64 // of one round: the median, or p50 and p99
	Err         string
}

func (r socketRequest) answer() ([]float64, error) {
	switch r.What {
	case doFirstTCP, doFirstUDP:
		return r.first()
	case doFollow:
		at, err := r.follow()
		return []float64{at}, err
	}
	median, err := r.run()
	return []float64{median}, err
}

func (r socketRequest) run() (float64, error) {
	to := &unix.SockaddrInet4{Port: int(r.To.Port()), Addr: r.To.Addr().As4()}
	if r.What == doRR {
		fd, err := dialTCP(to)
		if err != nil {
			return 0, err
		}
		defer unix.Close(fd)
		return r.time(func() error { return exchange(fd) })
	}
	if r.What == doUDP {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return 0, err
		}
		defer unix.Close(fd)
		return r.time(func() error { return unix.Connect(fd, to) })
	}
	return r.time(func() error {
		fd, err := dialTCP(to)
		if err != nil {
			return err
		}
		if r.What == doCRR {
			err = exchange(fd)
		}
		return errors.Join(err, unix.Close(fd))
	})
}

// time returns the median of single rounds, so that rounds that were preempted don't count.
func (r socketRequest) time(round func() error) (float64, error) {
	var all []float64
	for range r.Times {
		started := time.Now()
		if err := round(); err != nil {
			return 0, err
		}
		all = append(all, float64(time.Since(started).Nanoseconds()))
	}
	return median(all), nil
}

func dialTCP(to unix.Sockaddr) (int, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, err
	}
	// A reset instead of a FIN: no ports stay in TIME_WAIT.
	linger := unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
	if err := errors.Join(linger, unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1), unix.Connect(fd, to)); err != nil {
		return 0, errors.Join(err, unix.Close(fd))
	}
	return fd, nil
}

func exchange(fd int) error {
	var b [64]byte
	if _, err := unix.Write(fd, b[:]); err != nil {
		return err
	}
	for got := 0; got < len(b); {
		n, err := unix.Read(fd, b[got:])
		if err != nil || n == 0 {
			return errors.Join(err, errors.New("the connection ended"))
		}
		got += n
	}
	return nil
}

// socketClient is a client process in a pod.
type socketClient struct {
	cmd *topo.Command
	in  *json.Encoder
	out *json.Decoder
}

func startSocketClient(pod *topo.Pod) (*socketClient, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	c := &socketClient{cmd: pod.Command(self, socketArgument)}
	c.cmd.Stderr = os.Stderr
	in, err := c.cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := c.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	c.in, c.out = json.NewEncoder(in), json.NewDecoder(out)
	return c, c.cmd.Start()
}

// ask returns microseconds.
func (c *socketClient) ask(r socketRequest) (float64, error) {
	ns, err := c.send(r)
	if err != nil {
		return 0, err
	}
	return ns[0] / 1000, nil
}

func (c *socketClient) send(r socketRequest) ([]float64, error) {
	if err := c.in.Encode(r); err != nil {
		return nil, err
	}
	var reply socketReply
	if err := c.out.Decode(&reply); err != nil {
		return nil, err
	}
	if reply.Err != "" {
		return nil, errors.New(reply.Err)
	}
	return reply.Nanoseconds, nil
}

// serveAll serves each connection in a goroutine until the listener is closed.
func serveAll(l net.Listener, serve func(net.Conn)) {
	for {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer conn.Close()
			serve(conn)
		}()
	}
}

// serveEcho answers in a pod until the listener is closed. Open connections go on until they end.
func serveEcho(pod *topo.Pod) (net.Listener, error) {
	var l net.Listener
	err := pod.Do(func() (err error) {
		l, err = net.Listen("tcp", netip.AddrPortFrom(pod.IP4, targetPort).String())
		return err
	})
	if err != nil {
		return nil, err
	}
	go serveAll(l, func(conn net.Conn) { _, _ = io.Copy(conn, conn) }) // a reset ends it
	return l, nil
}

// socketPlace is a client pod and a server pod on one node, with the address that the client
// connects to.
type socketPlace struct {
	name   string
	client *socketClient
	to     netip.AddrPort
	other  bool // a direct connection beside a peer: only whole connections are measured
}

func measureSockets(o options) (results []Result, err error) {
	services, times := 5000, 2000
	if o.quick {
		services, times = 100, 300
	}
	f, err := newFabric(o, 4)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	places, err := f.socketPlaces(services)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	for _, p := range places {
		err := await(ctx, p.name+" to serve", 100*time.Millisecond, func() (bool, error) {
			_, err := p.client.ask(socketRequest{What: doCRR, To: p.to, Times: 1})
			return err == nil, err
		})
		if err != nil {
			return nil, err
		}
	}
	for _, what := range []string{doUDP, doConnect, doCRR, doRR} {
		got, err := socketResults(what, places, services, times, o.runs)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", what, err)
		}
		results = append(results, got...)
	}
	return results, nil
}

// socketPlaces prepares the way through each proxy, on a node for each, and the direct way, on
// waggle's node and on one without a proxy.
func (f *fabric) socketPlaces(services int) (places []socketPlace, err error) {
	var backends []netip.Addr
	var clients []*topo.Pod
	for i, node := range f.Nodes {
		server, err := node.AddPod("server-"+strconv.Itoa(i), topo.PodOptions{})
		if err != nil {
			return nil, err
		}
		client, err := node.AddPod("client-"+strconv.Itoa(i), topo.PodOptions{})
		if err != nil {
			return nil, err
		}
		l, err := serveEcho(server)
		if err != nil {
			return nil, err
		}
		f.close = append(f.close, l.Close)
		// a client sends to the service whose only endpoint is on its node
		f.store.Put(serviceObject(i, corev1.ProtocolTCP), sliceObject(i, corev1.ProtocolTCP, node.Name, server.IP4))
		backends, clients = append(backends, server.IP4), append(clients, client)
	}
	f.fill(len(f.Nodes), services-len(f.Nodes), 1, corev1.ProtocolTCP)
	if _, err := f.startWaggle(f.Nodes[0], "--xdp=off"); err != nil {
		return nil, err
	}
	names := []string{"waggle"}
	if f.havePeers() {
		for i, mode := range []string{"nftables", "iptables"} {
			if _, err := f.startKubeProxy(f.Nodes[i+1], mode); err != nil {
				return nil, err
			}
			names = append(names, mode)
		}
	}
	for i, name := range names {
		c, err := startSocketClient(clients[i])
		if err != nil {
			return nil, err
		}
		places = append(places, socketPlace{name, c, netip.AddrPortFrom(serviceAddr(i), servicePort), false},
			socketPlace{direct + " beside " + name, c, netip.AddrPortFrom(backends[i], targetPort), name != "waggle"})
	}
	bare := len(f.Nodes) - 1
	c, err := startSocketClient(clients[bare])
	return append(places, socketPlace{direct, c, netip.AddrPortFrom(backends[bare], targetPort), false}), err
}

// direct is the way that needs no proxy.
const direct = "direct"

// socketResults measures what clients do by a cluster IP and, if it is a connection from its
// beginning to its end, the same to a pod itself, which needs no proxy.
func socketResults(what string, places []socketPlace, services, times, runs int) ([]Result, error) {
	whole := what == doConnect || what == doCRR
	var subjects []*subject
	for _, p := range places {
		if p.other && !whole {
			continue
		}
		subjects = append(subjects, &subject{name: p.name, measure: func() (float64, error) {
			return p.client.ask(socketRequest{What: what, To: p.to, Times: times})
		}})
	}
	if err := takeTurns(runs, subjects); err != nil {
		return nil, err
	}
	metric := map[string]string{
		doUDP: "connect() of a UDP socket", doConnect: "connect and close", doCRR: "connect, request, response, close", doRR: "request and response",
	}[what]
	among := fmt.Sprintf(", among %d services", services)
	results := []Result{socketResult(metric+among, "waggle", subjects, []string{"nftables", "iptables", direct, direct + " beside waggle"})}
	if whole {
		results = append(results, socketResult(metric+", to a pod itself"+among, direct+" beside waggle", subjects,
			[]string{direct, direct + " beside nftables", direct + " beside iptables"}))
	}
	return results, nil
}

// socketResult compares one of the subjects with the others.
func socketResult(metric, waggle string, subjects []*subject, peers []string) Result {
	r := Result{Metric: metric, Unit: "us", Peers: map[string]float64{}}
	for _, s := range subjects {
		if s.name == waggle {
			r.Waggle, r.Runs = s.median(), s.runs
		} else if slices.Contains(peers, s.name) {
			r.Peers[s.name] = s.median()
		}
	}
	return r
}
