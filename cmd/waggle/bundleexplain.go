// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"strings"

	"github.com/waggle-lb/waggle/control/explain"
	"github.com/waggle-lb/waggle/loader"
	"github.com/waggle-lb/waggle/maps"
)

// asked is a frontend that represents all of its kind, family and protocol in a bundle.
type asked struct {
	service string
	socket  bool // by a process of the node, since clients outside do not use this kind
	to      netip.AddrPort
	proto   string
}

// writeExplain explains what happens to a packet, or a connection, to one frontend of each kind.
func writeExplain(b *bundle, w io.Writer) error {
	return b.withPins(func(p *loader.View) error {
		questions, err := questionsAbout(p)
		if err != nil {
			return err
		}
		e, err := explain.New(p)
		if err != nil {
			return err
		}
		defer e.Close()
		var errs []error
		for _, q := range questions {
			fmt.Fprintf(w, "%s: ", q.service)
			a, err := q.ask(e)
			if err != nil {
				fmt.Fprintf(w, "%v\n\n", err)
				errs = append(errs, fmt.Errorf("%s: %w", q.service, err))
				continue
			}
			errs = append(errs, writeAnswers(w, []*explain.Answer{a}))
			fmt.Fprintln(w)
		}
		return errors.Join(errs...)
	})
}

func (q asked) ask(e *explain.Explainer) (*explain.Answer, error) {
	if q.socket {
		return e.Socket(explain.Socket{To: q.to, Proto: q.proto})
	}
	return e.Packet(explain.Question{To: q.to, Proto: q.proto, Flags: []string{"syn"}})
}

// questionsAbout picks the first frontend of each kind, family and protocol.
func questionsAbout(p *loader.View) (questions []asked, err error) {
	services, err := readServices(p)
	if err != nil {
		return nil, err
	}
	own, err := maps.NewNodeAddrs(p).All()
	if err != nil {
		return nil, err
	}
	seen := map[string]bool{}
	for _, s := range services {
		for _, port := range s.Ports {
			for _, f := range port.Frontends {
				q := asked{service: s.Namespace + "/" + s.Name, socket: f.Kind == maps.ClusterIP.String(), to: f.Address, proto: strings.ToLower(port.Proto)}
				kind := fmt.Sprint(f.Kind, f.Address.Addr().Is4(), port.Proto)
				if f.Address.Addr().IsUnspecified() {
					q.to = atNode(own, f.Address)
				}
				if seen[kind] || !q.to.IsValid() || q.socket && q.proto == "sctp" {
					continue
				}
				seen[kind] = true
				questions = append(questions, q)
			}
		}
	}
	return questions, nil
}

// atNode returns a NodePort's frontend at an address of the node. It is invalid if the node has no address of that
// family.
func atNode(own map[netip.Addr]maps.NodeAddr, f netip.AddrPort) (at netip.AddrPort) {
	for addr, is := range own {
		if is.NodePorts && addr.Is4() == f.Addr().Is4() && (!at.IsValid() || addr.Less(at.Addr())) {
			at = netip.AddrPortFrom(addr, f.Port())
		}
	}
	return at
}

// eventRate is the maximum number of events of each verdict a second.
const eventRate = 100

// writeEvents shows what the programs decide for a while, as `waggle monitor` does.
func writeEvents(b *bundle, w io.Writer) error {
	if b.flags.events == 0 {
		_, err := fmt.Fprintln(w, "(--events 0)")
		return err
	}
	f := monitorFlags{rate: eventRate, duration: b.flags.events}
	if err := f.check(); err != nil {
		return err
	}
	return b.withPins(func(p *loader.View) error {
		return f.run(context.Background(), newMonitorPrinter(&output{format: "table"}, w, w), p)
	})
}
