// SPDX-License-Identifier: Apache-2.0

package topo

import (
	"crypto/ecdh"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"github.com/vishvananda/netlink"
)

const (
	tunnelMTU     = 1400 // less than the MTU of any of these tunnels
	wireGuardPort = 51820
)

// tunnelName is the node's device to a peer. Each peer has its own, so that a route is enough to
// choose the peer.
func tunnelName(peer *Node) string { return "tun-" + peer.Name }

// pointTo makes the device to a peer, and routes the peer's pods there.
func (node *Node) pointTo(peer *Node) error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU = tunnelName(peer), tunnelMTU
	if err := node.ns.netlink.LinkAdd(node.tunnel(attrs, peer)); err != nil {
		return fmt.Errorf("%s: %s: %w", node.Name, attrs.Name, err)
	}
	if node.network.opts.PodNetwork == WireGuard {
		if err := node.encrypt(peer); err != nil {
			return err
		}
	}
	ip4, ip6 := podAddr(node.index, 0)
	err := errors.Join(node.SetUp(attrs.Name), node.AddAddr(attrs.Name, Single(ip4)), node.routeInto(peer, peer.PodCIDR4))
	if node.network.opts.PodNetwork == IPIP { // it carries IPv4 alone
		return errors.Join(err, node.AddRoute(peer.PodCIDR6, peer.IP6))
	}
	return errors.Join(err, node.AddAddr(attrs.Name, Single(ip6)), node.routeInto(peer, peer.PodCIDR6))
}

func (node *Node) tunnel(attrs netlink.LinkAttrs, peer *Node) netlink.Link {
	switch node.network.opts.PodNetwork {
	case IPIP:
		return &netlink.Iptun{LinkAttrs: attrs, Local: node.IP4.AsSlice(), Remote: peer.IP4.AsSlice()}
	case GRE:
		return &netlink.Gretun{LinkAttrs: attrs, Local: node.IP4.AsSlice(), Remote: peer.IP4.AsSlice()}
	}
	return &netlink.Wireguard{LinkAttrs: attrs}
}

func (node *Node) routeInto(peer *Node, pods netip.Prefix) error {
	link, err := node.Link(tunnelName(peer))
	if err != nil {
		return err
	}
	route := &netlink.Route{LinkIndex: link.Attrs().Index, Dst: ipNet(pods), Scope: netlink.SCOPE_LINK}
	if err := node.ns.netlink.RouteReplace(route); err != nil {
		return fmt.Errorf("%s: route %s into %s: %w", node.Name, pods, tunnelName(peer), err)
	}
	return nil
}

// encrypt configures both ends of a WireGuard tunnel with wg(8), which only this kind of network
// needs.
func (node *Node) encrypt(peer *Node) error {
	mine, err1 := node.keyTo(peer)
	theirs, err2 := peer.keyTo(node)
	if err := errors.Join(err1, err2); err != nil {
		return err
	}
	wg := node.Command("wg", "set", tunnelName(peer),
		"listen-port", fmt.Sprint(wireGuardPort+peer.index), "private-key", "/dev/stdin",
		"peer", base64.StdEncoding.EncodeToString(theirs.PublicKey().Bytes()),
		"endpoint", netip.AddrPortFrom(peer.IP4, uint16(wireGuardPort+node.index)).String(),
		"allowed-ips", "0.0.0.0/0,::/0")
	wg.Stdin = strings.NewReader(base64.StdEncoding.EncodeToString(mine.Bytes()))
	if out, err := wg.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %v: %w: %s", node.Name, wg.Args, err, out)
	}
	return nil
}

// keyTo returns the same key at each call, so that either end can be made first.
func (node *Node) keyTo(peer *Node) (*ecdh.PrivateKey, error) {
	seed := sha256.Sum256([]byte(node.Name + " to " + peer.Name))
	return ecdh.X25519().NewPrivateKey(seed[:])
}
