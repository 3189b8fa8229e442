// SPDX-License-Identifier: Apache-2.0

package names

import (
	"context"
	"errors"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/miekg/dns"
	"github.com/sirupsen/logrus"
	"golang.org/x/net/netutil"
	"golang.org/x/sync/errgroup"

	"github.com/waggle-lb/waggle/control/status"
)

// The listener has addresses of its own on the node's loopback device, so that only what the datapath leads there, and
// what is routed to the Service, reaches it: on an address of the node's, a resolver would be open to the world.
var (
	Listen4 = netip.MustParseAddr("169.254.87.53")
	Listen6 = netip.MustParseAddr("fd77:6167:676c:6500::53") // RFC 4193; the global ID spells "waggle"
)

// ListenPort is next to kube-proxy's ports, so that a resolver of the node may have port 53 of all addresses.
const ListenPort = 10253

// Options configure a Server.
type Options struct {
	// Addresses are those of the Service, at most one of each family.
	Addresses []netip.Addr
	// Domain is that of the cluster, such as "cluster.local".
	Domain string
	// ResolvConf is the file that names the resolvers for the rest, in the format of resolv.conf(5).
	ResolvConf string
	NodeName   string
	// ServeAs is the service.kubernetes.io/service-proxy-name of what the agent serves; "": none.
	ServeAs string
	// Hold gives the node the addresses that are listened on. It is called again and again.
	Hold func(addrs []netip.Addr) error
	// Warn replaces what is wrong; no message: nothing is.
	Warn func(about string, messages []string)
	Log  *logrus.Entry
}

// Server answers queries on this node.
type Server struct {
	opts      Options
	zone      *Zone
	forwarder *forwarder
	responder responder
	counts    counts

	mu       sync.Mutex
	served   []netip.Addr        // of opts.Addresses, those that the Service has
	problems map[string][]string // by what they are about
}

// What problems are about, beside each address that is listened on.
const (
	aboutService   = "service"
	aboutHold      = "hold"
	aboutResolvers = "resolvers"
	aboutLoops     = "loops"
)

// New makes a server. Run serves.
func New(opts Options) *Server {
	s := &Server{
		opts: opts, zone: NewZone(opts.Domain, opts.Addresses), forwarder: newForwarder(), problems: map[string][]string{},
	}
	s.responder = responder{zone: s.zone, forward: func(ctx context.Context, query *dns.Msg) (*dns.Msg, error) {
		s.counts.forward()
		return s.forwarder.ask(ctx, query)
	}}
	return s
}

// listenAddrs are those that are listened on, of the families of the Service's addresses.
func (o Options) listenAddrs() (all []netip.Addr) {
	for _, a := range o.Addresses {
		all = append(all, listenAddr(a))
	}
	return all
}

func listenAddr(serves netip.Addr) netip.Addr {
	if serves.Is4() {
		return Listen4
	}
	return Listen6
}

// How often what may have changed is looked at.
const (
	lookSoon    = 500 * time.Millisecond // after the start, for the first time
	lookEvery   = 5 * time.Second
	listenAgain = 2 * time.Second
	probeAgain  = 6 // looks
)

// Run serves until ctx is done.
func (s *Server) Run(ctx context.Context) {
	s.hold()
	s.look()
	var all errgroup.Group
	for _, a := range s.opts.listenAddrs() {
		all.Go(func() error {
			s.listen(ctx, netip.AddrPortFrom(a, ListenPort))
			return nil
		})
	}
	s.keepLooking(ctx)
	_ = all.Wait() // no error is returned
}

// keepLooking follows the resolvers, and probes each when it is listened here: once, and those that loop again and again.
func (s *Server) keepLooking(ctx context.Context) {
	next := time.NewTimer(lookSoon)
	defer next.Stop()
	for n := 0; ; n++ {
		select {
		case <-ctx.Done():
			return
		case <-next.C:
		}
		s.hold()
		if changed := s.look(); changed || n%probeAgain == 0 {
			s.forwarder.probe(ctx, n > 0 && !changed)
			s.report(aboutLoops, s.forwarder.loops())
		}
		next.Reset(lookEvery)
	}
}

// hold makes sure that the node has the addresses.
func (s *Server) hold() {
	var problems []string
	if err := s.opts.Hold(s.opts.listenAddrs()); err != nil {
		problems = []string{err.Error()}
	}
	s.report(aboutHold, problems)
}

// look reads which resolvers the node has.
func (s *Server) look() (changed bool) {
	r, problems := readResolvers(s.opts.ResolvConf, slices.Concat(s.opts.Addresses, s.opts.listenAddrs()))
	s.report(aboutResolvers, problems)
	return s.forwarder.use(r)
}

// report replaces the problems of one thing.
func (s *Server) report(about string, problems []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if slices.Equal(s.problems[about], problems) {
		return
	}
	s.problems[about] = problems
	var all []string
	for _, about := range slices.Sorted(maps.Keys(s.problems)) {
		for _, p := range s.problems[about] {
			all = append(all, "names of services (--dns): "+p)
		}
	}
	s.opts.Warn("names of services", all)
}

// listen serves at an address, and tries again if it can't be had.
func (s *Server) listen(ctx context.Context, at netip.AddrPort) {
	for ctx.Err() == nil {
		err := s.serve(ctx, at)
		if ctx.Err() != nil {
			return
		}
		s.report(at.String(), []string{err.Error()})
		select {
		case <-ctx.Done():
		case <-time.After(listenAgain):
		}
	}
}

// Limits of clients by TCP.
const (
	maxConnections = 200
	readTimeout    = 2 * time.Second
)

func (s *Server) serve(ctx context.Context, at netip.AddrPort) error {
	packets, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(at))
	if err != nil {
		return err
	}
	stream, err := net.ListenTCP("tcp", net.TCPAddrFromAddrPort(at))
	if err != nil {
		return errors.Join(err, packets.Close())
	}
	s.report(at.String(), nil)
	servers := []*dns.Server{
		{PacketConn: packets, UDPSize: dns.MinMsgSize * 4, Handler: s.handler(ctx, true)},
		{Listener: netutil.LimitListener(stream, maxConnections), ReadTimeout: readTimeout, Handler: s.handler(ctx, false)},
	}
	all, ctx := errgroup.WithContext(ctx)
	for _, server := range servers {
		server.MsgAcceptFunc = accept
		all.Go(func() error {
			if err := server.ActivateAndServe(); err != nil {
				return err
			}
			return net.ErrClosed // both end together
		})
	}
	all.Go(func() error {
		<-ctx.Done()
		for _, server := range servers {
			_ = server.ShutdownContext(ctx) // ends its connections, and waits for nothing
		}
		return errors.Join(packets.Close(), stream.Close())
	})
	return all.Wait()
}

// accept leaves to reply what it has words for.
func accept(h dns.Header) dns.MsgAcceptAction {
	const response = 1 << 15
	if h.Bits&response != 0 {
		return dns.MsgIgnore
	}
	return dns.MsgAccept
}

func (s *Server) handler(ctx context.Context, udp bool) dns.HandlerFunc {
	return func(w dns.ResponseWriter, query *dns.Msg) {
		s.counts.query(udp)
		if len(query.Question) == 1 && s.forwarder.returned(query.Question[0].Name) {
			return // the resolver that sent it needs no answer
		}
		reply := s.responder.reply(ctx, query, limitOf(query, udp))
		if reply == nil {
			return
		}
		s.counts.reply(reply)
		if err := w.WriteMsg(reply); err != nil {
			s.opts.Log.WithError(err).Debug("answering a query for a name")
		}
	}
}

// Status describes what is served, and counts queries since the agent started.
func (s *Server) Status() *status.Names {
	s.mu.Lock()
	served := slices.Clone(s.served)
	s.mu.Unlock()
	st := &status.Names{Domain: strings.TrimSuffix(s.zone.domain, ".")}
	for _, a := range served {
		st.Addresses = append(st.Addresses, a.String())
	}
	for _, r := range s.forwarder.order().servers {
		st.Resolvers = append(st.Resolvers, r.Addr().String())
	}
	s.counts.into(st)
	return st
}
