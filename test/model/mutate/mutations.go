// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// mutation replaces a piece of a file, which must be there once.
type mutation struct {
	name, file, old, new string
}

func (m mutation) apply(dir string) error {
	if m.file == "" {
		return nil
	}
	path := filepath.Join(dir, m.file)
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if n := strings.Count(string(b), m.old); n != 1 {
		return fmt.Errorf("%s holds %q %d times: mend mutations.go", m.file, m.old, n)
	}
	return os.WriteFile(path, []byte(strings.Replace(string(b), m.old, m.new, 1)), 0o644)
}

var mutations = []mutation{
	// checksums
	{"a fold of the checksum dropped", "checksum.h", "\tsum = (sum & 0xffffffff) + (sum >> 32);\n\tsum = (sum & 0xffff) + (sum >> 16);\n\tsum = (sum & 0xffff) + (sum >> 16);\n\tsum = (sum & 0xffff) + (sum >> 16);\n\treturn ~sum;", "\tsum = (sum & 0xffffffff) + (sum >> 32);\n\tsum = (sum & 0xffff) + (sum >> 16);\n\treturn ~sum;"},
	{"destination port left out of the checksum", "xdp.c", " +\n\t\t\t\t       csum_u16_diff(p->tuple.dport, to->dport)", ""},
	{"UDP checksum of zero not sent as ffff", "xdp.c", "udp->check = check ? check : 0xffff", "udp->check = check"},
	{"UDP without a checksum gets one", "xdp.c", "if (!udp->check)", "if (0)"},
	{"SCTP checksum not changed by XDP", "xdp.c", "sctp->checksum = sctp_checksum(", "(void)sctp_checksum("},
	{"SCTP checksum over the wrong length", "rewrite.h", "\tlen = p->len - (p->l4_off - l3_off);", "\tlen = p->len - (p->l4_off - l3_off) - 4;"},
	{"SCTP fragment checksum over its own length", "rewrite.h", "len = sctp_alone(&sctp);", ";"},
	{"address change of SCTP not told to a device's sum", "rewrite.h", "\tif (family == AF_INET6)\n\t\tbpf_csum_update(skb, csum_fold32(addr_diff + ttl_diff));\n\treturn new_ports", "\treturn new_ports"},
	{"IPv4 address change not told to a device's sum", "rewrite.h", "family == AF_INET ? ~addr :", "family == AF_INET ? 0 :"},
	{"hop limit not told to a device's sum", "rewrite.h", ": csum_fold32(ttl_diff)", ": 0"},
	// the rewrite
	{"ports swapped", "xdp.c", "h.ports->source = to->sport;", "h.ports->source = to->dport;"},
	{"TTL not decremented", "xdp.c", "\t\tip->ttl--;\n", ""},
	{"hop limit of 1 forwarded", "xdp.c", "p->ttl <= 1", "p->ttl < 1"},
	{"MACs the wrong way round", "xdp.c", "h.eth->h_dest, hop->dmac", "h.eth->h_dest, hop->smac"},
	{"egress leaves the source", "tc.c", "tc_rewrite(skb, family, l3_off, &p, &to, REWRITE_SOURCE)", "tc_rewrite(skb, family, l3_off, &p, &to, 0)"},
	{"MTU one byte too small", "nexthop.h", "len > f->mtu", "len >= f->mtu"},
	{"epoch of the next hop not looked at", "xdp.c", "if (f->hop.epoch != current_epoch() &&", "if (!f->hop.epoch &&"},
	{"neighbour never asked after", "xdp.c", "neighbour_due(f, p) || ", ""},
	{"neighbour never asked after by tc", "tc.c", " && !neighbour_due(f, p)", ""},
	{"tc writes another device's link layer", "tc.c", "f->flags & FLOW_DIRECT && ", ""},
	// opening a flow
	{"answer recorded at the wrong hook", "open.h", "tuple_reverse(family, to, !snat, reply);", "tuple_reverse(family, to, snat, reply);"},
	{"SNAT port one beyond the range", "open.h", "snat_max - snat_min + 1", "snat_max - snat_min + 2"},
	{"SNAT port of a confirmed flow taken", "open.h", "\tother = flow_lookup_by(family, true, reply, &s->claim);\n\tif (!other)", "\tother = NULL;\n\tif (!other)"},
	{"SNAT port taken before all are tried", "open.h", "i >= PORT_TAKE)\n\t\t\t\t      : claim6", "i >= 1)\n\t\t\t\t      : claim6"},
	{"SNAT port of an established flow taken", "open.h", "!(take && !(other->state & STATE_CONFIRMED))", "!take"},
	{"SNAT port of an unconfirmed flow not given", "open.h", "!(take && !(other->state & STATE_CONFIRMED))", "1"},
	{"SNAT port of a dead flow not given back", "open.h", "(flow_stale(other, t->proto) && flow_dead(family, true, other, reply))", "0"},
	{"hairpin not translated", "open.h", "bool hairpin = addr_equal(family, p->tuple.saddr.word, backend->addr);", "bool hairpin = false;"},
	{"MasqueradeAll for no cluster IP", "open.h", ".masquerade = masquerade_all && cluster_ip", ".masquerade = masquerade_all && !cluster_ip"},
	{"internal policy for clients outside", "open.h", ".inside = local,", ".inside = true,"},
	{"source range ignored for IPv6", "sources.h", "return bpf_map_lookup_elem(&source_ranges6, &v6) != NULL;", "return 1;"},
	{"affinity without a look at the set", "affinity.h", "backend_in_scope(backend, svc, internal) &&", "1 &&"},
	{"affinity not renewed", "affinity.h", "known->last_used = now();\n", ""},
	{"NodePort on every address", "service.h", "if (!node_has_addr(family, addr))", "if (0)"},
	{"policy that drops refuses", "open.h", "SERVICE_INTERNAL_DROP : SERVICE_EXTERNAL_DROP", "SERVICE_EXTERNAL_DROP : SERVICE_INTERNAL_DROP"},
	{"flow recorded though there is no route", "open.h", "return false; /* a flow recorded now would outlive the lack of a route */", "return true;"},
	// following it
	{"record in flows_new not deleted", "newflows.h", "p.tag, TAG_FREE);", "p.tag, p.tag);"},
	{"record in flows_new overwritten", "newflows.h", "if (where >= 0 && noexist)", "if (0)"},
	{"record in flows_new made twice", "newflows.h", "\tway = (where >= 0 ? where : way_take(ways))", "\tway = (where >= 0 && noexist ? where : way_take(ways))"},
	{"confirmed by any ACK", "track.h", "return p->ack - f->expect_ack < ACK_WINDOW;", "return true;"},
	{"SCTP tag not compared", "track.h", "return !f->expect_ack || p->ack == f->expect_ack;", "return true;"},
	{"SYN-ACK not counted in what is expected", "track.h", "p->seq + !!(p->tcp_flags & TCP_SYN)", "p->seq"},
	{"closed connection hit by a SYN", "track.h", "!= start || !flow_closed(f))", "!= start || true)"},
	{"backend's FIN taken for the client's", "track.h", "f->flags & FLOW_REPLY ? STATE_FIN_BACKEND : STATE_FIN_CLIENT", "STATE_FIN_CLIENT"},
	{"reset forgotten by the other half", "track.h", "\tif (m)\n\t\tstate_set(m, bits);\n", ""},
	{"split flow's third record not moved", "track.h", "if (copy->flags & FLOW_SPLIT && open_egress_half(family, true, copy, t, to, s))\n\t\tgoto full;", ""},
	{"lost half made of a record that is there", "track.h", "half, &s->pending.back, BPF_NOEXIST))", "half, &s->pending.back, BPF_ANY))"},
	{"flow goes on by a source that is another's", "track.h", "return whole ? f : NULL;", "return f;"},
	{"lost half not made again", "track.h", "\tif (!m)\n\t\tm = mirror_restore(family, f, &p->tuple, mirror, s);\n", ""},
	{"full table leaves half a flow", "track.h", "full:\n\tflow_delete(family, true, mirror);\n", "full:\n"},
	{"reset connections live as long as closed ones", "flow.h", "return timeout_tcp_reset;", "return timeout_tcp_closed;"},
	{"dead though the other half is fresh", "flow.h", "return stale && flow_stale(m, t->proto);", "return stale;"},
	// what the node says itself
	{"reset's number off by one", "refuse.h", "!!(p->tcp_flags & TCP_SYN) +\n", "0 +\n"},
	{"refusal keeps the sender's MAC", "refuse.h", "return ret || swap_macs(skb, l3_off);", "return ret;"},
	{"ICMP error quotes one byte less", "refuse.h", "#define QUOTED_L4 8", "#define QUOTED_L4 7"},
	{"unallocated cluster IPs routed away", "cluster.h", "return flags & CLUSTER_RANGE_DROP ? VERDICT_DROP_UNALLOCATED : VERDICT_NOT_OURS;", "return VERDICT_NOT_OURS;"},
	{"ICMP answered with ICMP errors", "clusterip.h", "if (head[0] != echo)", "if (0)"},
	// fragments and errors
	{"fragments of other packets taken", "fragment.h", "key->id = p->fragment_id;", "key->id = 0;"},
	{"late fragments taken for ever", "fragment.h", "now() - ports->seen > FRAGMENT_TIME * hz", "0"},
	{"later fragments followed as packets", "open.h", "if (p->fragment == FRAGMENT_LATER)", "if (0)"},
	{"quoted ports not restored", "icmp.h", "struct ports ports = { .source = to->dport, .dest = to->sport };", "struct ports ports = { .source = e->quoted.sport, .dest = e->quoted.dport };"},
	{"errors of dead flows translated", "icmp.h", "return f && flow_stale(f, t->proto) && flow_dead(family, confirmed, f, t) ? NULL : f;", "return f;"},
	{"quoted header's checksum not mended", "icmp.h", "if (store_checksum(skb, e->inner_off + offsetof(struct iphdr, check), addrs))", "if (0)"},
	{"padding taken for quoted ports", "icmp.h", "> l3_off + p->len)", "> l3_off + p->len + 64)"},
	{"padding taken for ports", "packet.h", "|| len < (__s32)sizeof(struct udphdr)", ""},
	{"martians open flows", "open.h", " || !addr_is_sender(family, p->tuple.saddr.word)", ""},
}
