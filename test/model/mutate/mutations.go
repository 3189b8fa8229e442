// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// mutation replaces a piece of a file, which must occur exactly once.
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

// suite is a set of mutations that a set of tests must notice.
type suite struct {
	tests     string // a regular expression for their names
	mutations []mutation
}

var suites = []suite{
	{"^TestModel$", ofModel},
	{"^Test(FlowsFull.*|FlowsFillUp|ConfirmedStays|DatagramsLeaveRoom|Spilled.*|NewFlowsGiveWay|AnsweredGivesWay|LeastRecentGivesWay|Tenants|SNATPortOfBackend|AnswersAreNotOwn)$", ofFullTables},
	{"^TestSNAT.*$", ofUnconfirmedPorts},
	{"^Test(DatagramsDirectlyFirst|DirectsShareAPlace|DirectsOfAZone|DirectsGiveWay|ServiceBesideDirectly|Model)$", ofDirectConnections},
	{"^TestHairpin.*$", ofTurns},
	{"^Test(ExplainTwinHasNoWrites|Model)$", ofExplain},
	{"^Test(TwoCPUs.*|OneOwner|RepairInFullTable)$", ofTwoCPUs},
	{"^TestStats.*$", ofCounters},
	{"^Test(ARP.*|NDP.*|AnswersLapse|TaggedNotAnswered|AnswerKeepsDeviceSum|PodsNotAnswered)$", ofAnnouncements},
}

// ofModel are mutations that a single packet shows, in a table that is never full.
var ofModel = []mutation{
	// checksums
	{"a fold of the checksum dropped", "checksum.h", "\tsum = (sum & 0xffffffff) + (sum >> 32);\n\tsum = (sum & 0xffff) + (sum >> 16);\n\tsum = (sum & 0xffff) + (sum >> 16);\n\tsum = (sum & 0xffff) + (sum >> 16);\n\treturn ~sum;", "\tsum = (sum & 0xffffffff) + (sum >> 32);\n\tsum = (sum & 0xffff) + (sum >> 16);\n\treturn ~sum;"},
	{"destination port left out of the checksum", "xdp.c", " +\n\t\t\t\t       csum_u16_diff(p->tuple.dport, to->dport)", ""},
	{"UDP checksum of zero not sent as ffff", "xdp.c", "udp->check = check ? check : 0xffff", "udp->check = check"},
	{"UDP without a checksum gets one", "xdp.c", "if (!udp->check)", "if (0)"},
	{"SCTP checksum not changed by XDP", "xdp.c", "sctp->checksum = sctp_checksum(", "(void)sctp_checksum("},
	{"SCTP checksum over the wrong length", "rewrite.h", "\tlen = p->len - (p->l4_off - p->l3_off);", "\tlen = p->len - (p->l4_off - p->l3_off) - 4;"},
	{"SCTP fragment checksum over its own length", "rewrite.h", "len = sctp_alone(&sctp);", ";"},
	{"address change of SCTP left out of a device's sum", "rewrite.h", "\tif (family == AF_INET6)\n\t\tbpf_csum_update(skb, csum_fold32(addr_diff + ttl_diff));\n\treturn new_ports", "\treturn new_ports"},
	{"IPv4 address change left out of a device's sum", "rewrite.h", "family == AF_INET ? ~addr :", "family == AF_INET ? 0 :"},
	{"hop limit left out of a device's sum", "rewrite.h", ": csum_fold32(ttl_diff)", ": 0"},
	// the rewrite
	{"ports swapped", "xdp.c", "h.ports->source = to->sport;", "h.ports->source = to->dport;"},
	{"TTL not decremented", "xdp.c", "\t\tip->ttl--;\n", ""},
	{"hop limit of 1 forwarded", "xdp.c", "p->ttl <= 1", "p->ttl < 1"},
	{"MACs the wrong way round", "xdp.c", "h.eth->h_dest, hop->dmac", "h.eth->h_dest, hop->smac"},
	{"egress leaves the source", "tc.c", "tc_rewrite(skb, s, REWRITE_SOURCE)", "tc_rewrite(skb, s, 0)"},
	{"MTU one byte too small", "hop.h", "len > h->mtu", "len >= h->mtu"},
	{"next hop of an old generation used", "nexthop.h", "\tif (generation != current_generation())\n\t\treturn false;\n", "\tif (!generation)\n\t\treturn false;\n"},
	{"MACs of a neighbour used that is not resolved", "nexthop.h", "n->generation == generation && h->flags & HOP_RESOLVED;", "n->generation == generation;"},
	{"next hop of an unresolved neighbour kept", "nexthop.h", "\tif (!resolved)\n\t\treturn 0;\n", "\tif (resolved == 2)\n\t\treturn 0;\n"},
	{"next hops of two MTUs are one", "nexthop.h", "n->hop.mtu != fib->mtu_result ||\n\t    ", ""},
	{"next hop does not know its generation", "nexthop.h", "return (__u64)generation << 32 | index;", "return index;"},
	{"reply begins with the client's next hop", "open.h", "\treply->hop = reply_hop(s, s->record.flags);\n", ""},
	{"next hop without its record's version", "flowtable.h", "return (hop & ~(255ULL << HOP_VERSION_SHIFT)) | version << HOP_VERSION_SHIFT;", "return hop;"},
	{"neighbour never asked after", "xdp.c", "neighbour_due(r, p) || ", ""},
	{"neighbour never asked after by tc", "tc.c", " && !neighbour_due(r, p)", ""},
	{"tc writes another device's link layer", "tc.c", "hop->flags & HOP_TC && ", ""},
	// opening a flow
	{"answer recorded in the wrong zone", "open.h", "r->flags = ZONE_LEAVING * FLOW_MIRROR_ZONE;", "r->flags = ZONE_OUTSIDE * FLOW_MIRROR_ZONE;"},
	{"answer of a pod recorded outside", "open.h", "if (flags & DEVICE_POD)\n\t\t\treply = ZONE_POD;", ";"},
	{"answer to oneself recorded outside", "open.h", "FLOW_TURN | ZONE_POD * FLOW_MIRROR_ZONE", "FLOW_TURN | ZONE_OUTSIDE * FLOW_MIRROR_ZONE"},
	{"turned packet keeps its MACs", "tc.c", " || swap_macs(skb, s->packet.l3_off))\n\t\treturn VERDICT_DROP_ERROR;\n\tsent_by_us(skb);", ")\n\t\treturn VERDICT_DROP_ERROR;\n\tsent_by_us(skb);"},
	{"own connection from a NodePort not recorded", "own.h", "is_nodeport(port) || ", ""},
	{"direct connection keeps the port of one to a service", "track.h", "!(reply->record.flags & FLOW_REPLY) ||", "1 ||"},
	{"pod's address from outside trusted", "open.h", "if (source_is_pod(ctx, family, ifindex, svc, s))", "if (0)"},
	{"pod's address from outside taken where nothing depends on it", "open.h", "may_be_pod(family, &t->saddr)", "0"},
	{"datagrams to an endpoint not looked at", "track.h", "if (!flow_has_datagrams(family))", "if (1)"},
	{"own connection from an address of others", "own.h", " || !node_has_addr(family, p->tuple.saddr.word)", ""},
	{"answer leaves by the uplink that it was routed to", "return.h", "\tif (!ifindex || ifindex == skb->ifindex", "\tif (1 || !ifindex || ifindex == skb->ifindex"},
	{"client with the node's address", "open.h", "p->tuple.zone == ZONE_OUTSIDE && node_has_addr(", "0 && node_has_addr("},
	{"frame to many taken", "xdp.c", "eth->h_dest[0] & 1", "0"},
	{"other zone's record taken for the flow's own", "flow.h", "return mirror_zone(m->flags) == t->zone &&\n\t       ", "return "},
	{"zone left out of the key", "tuple.h", "(__u64)proto << 32 | (__u64)zone << 40;", "(__u64)proto << 32;"},
	{"SNAT port one beyond the range", "open.h", "snat_max - snat_min + 1", "snat_max - snat_min + 2"},
	{"SNAT port of a translated connection used again at once", "open.h", "!(confirmed && r->flags & (FLOW_EXPRESS | FLOW_SPLIT)) &&", "1 &&"},
	{"SNAT port taken before all are tried", "open.h", "claim_reply(s, i)", "claim_reply(s, PORT_TAKE)"},
	{"SNAT port of an established flow taken", "open.h", "if (!confirmed && unconfirmed_gives_way(other, try, s))", "if (unconfirmed_gives_way(other, try, s))"},
	{"SNAT port of an unconfirmed flow not given", "open.h", "#define PORT_TAKE 8", "#define PORT_TAKE PORT_TRIES"},
	{"SNAT port of a dead flow not given back", "open.h", "return flow_ended(family, &s->other.key, other, &s->work.mirror);", "return false;"},
	{"hairpin not translated", "open.h", "bool hairpin = addr_equal(family, p->tuple.saddr.word, r->to.daddr.word);", "bool hairpin = false;"},
	{"MasqueradeAll for no cluster IP", "open.h", ".masquerade = masquerade_all && cluster_ip", ".masquerade = masquerade_all && !cluster_ip"},
	{"internal policy for clients outside", "open.h", ".internal = internal,", ".internal = true,"},
	{"source range ignored for IPv6", "sources.h", "return bpf_map_lookup_elem(&source_ranges6, &v6) != NULL;", "return 1;"},
	{"affinity without a look at the set", "affinity.h", "backend_in_scope(backend, svc, internal) &&", "1 &&"},
	{"affinity not renewed", "affinity.h", "known->last_used = now();\n", ""},
	{"NodePort on every address", "service.h", "if (!(node_addr_flags(family, addr) & NODE_ADDR_NODE_PORTS))", "if (0)"},
	{"node address where no NodePorts answer is no endpoint of this node", "service.h", "addr) & NODE_ADDR_LOCAL;", "addr) & NODE_ADDR_NODE_PORTS;"},
	{"policy that drops refuses", "open.h", "SERVICE_INTERNAL_DROP : SERVICE_EXTERNAL_DROP", "SERVICE_EXTERNAL_DROP : SERVICE_INTERNAL_DROP"},
	{"flow recorded though there is no route", "open.h", "else if (!o->local && !node_has_addr(family, r->to.daddr.word))\n\t\treturn false;", "else if (!o->local && !node_has_addr(family, r->to.daddr.word))\n\t\treturn true;"},
	// following a flow
	{"record not released", "flowtable.h", "__sync_val_compare_and_swap(at, tag, tag & TAG_VERSION_MASK) != tag)", "__sync_val_compare_and_swap(at, tag, tag) != tag)"},
	{"record made beside the one that it replaces", "claim.h", "\tif (r->tag) {\n\t\tw->chosen.where = r->where;", "\tif (0) {\n\t\tw->chosen.where = r->where;"},
	{"new record has no state", "claim.h", "w->chosen.tag | (r->state & STATE_MASK);", "w->chosen.tag;"},
	{"confirmed by any ACK", "track.h", "return p->ack - r->expect < ACK_WINDOW;", "return true;"},
	{"SCTP tag not compared", "track.h", "return !r->expect || p->ack == r->expect;", "return true;"},
	{"SCTP shutdown answers and confirms", "track.h", "p->tuple.proto == IPPROTO_SCTP && p->tcp_flags & TCP_FIN)", "0)"},
	{"reset answers and confirms", "track.h", "return p->tcp_flags & TCP_RST;", "return false;"},
	{"SYN-ACK not counted in what is expected", "track.h", "p->seq + !!(p->tcp_flags & TCP_SYN)", "p->seq"},
	{"closed connection hit by a SYN", "track.h", "!= start || !flow_closed(r->tag))", "!= start || true)"},
	{"backend's FIN taken for the client's", "track.h", "r->flags & FLOW_REPLY ? STATE_FIN_BACKEND : STATE_FIN_CLIENT", "STATE_FIN_CLIENT"},
	{"reset forgotten by the other half", "track.h", "\tif (mirror_lookup(family, &s->packet.tuple, r, &s->mirror))\n\t\tother = record_close(family, &s->mirror.record, bits);\n", ""},
	{"split flow's third record not confirmed", "track.h", "split_source_mark(family, STATE_CONFIRMED, s))", "split_source_mark(family, 0, s))"},
	{"other flow's record taken for the lost half", "track.h", "\tif (!flow_mirrors(family, m, &s->packet.tuple, &s->record)) /* another flow's */\n\t\treturn 0;\n", ""},
	{"flow goes on by a source that is another's", "track.h", "\tif (!mirror_get(s, r->tag))\n\t\tgoto end;\n", "\tmirror_get(s, r->tag);\n"},
	{"lost half not made again", "track.h", "\t\treturn mirror_restore(family, state, s);\n", "\t\treturn state == 1 ? mirror_restore(family, state, s) : 1;\n"},
	{"lost half made again of what was taken away", "track.h", "if (r->flags & FLOW_REPLY && t->proto == IPPROTO_UDP &&", "if (0 &&"},
	{"reset connections live as long as closed ones", "flow.h", "return timeout_tcp_reset;", "return timeout_tcp_closed;"},
	{"dead though the other half is fresh", "flow.h", "return stale && flow_stale(&m->record, t->proto, r->time);", "return stale;"},
	{"expired record not absent", "track.h", "if (starts_anew(p, r) || flow_ended(family, &p->tuple, r, &s->mirror))", "if (starts_anew(p, r))"},
	{"expired record not released by the walk", "expire.c", "\t\tif (census->release)\n", "\t\tif (0)\n"},
	// packets that the node itself sends
	{"reset's number off by one", "refuse.h", "!!(p->tcp_flags & TCP_SYN) +\n", "0 +\n"},
	{"refusal keeps the sender's MAC", "refuse.h", "return ret || swap_macs(skb, p->l3_off);", "return ret;"},
	{"ICMP error quotes one byte less", "refuse.h", "#define QUOTED_L4 8", "#define QUOTED_L4 7"},
	{"unallocated cluster IPs routed away", "cluster.h", "return flags & CLUSTER_RANGE_DROP ? VERDICT_DROP_UNALLOCATED : VERDICT_NOT_OURS;", "return VERDICT_NOT_OURS;"},
	{"ICMP answered with ICMP errors", "clusterip.h", "if (head[0] != echo)", "if (0)"},
	// fragments and errors
	{"fragments of other packets taken", "fragment.h", "key->id = p->fragment_id;", "key->id = 0;"},
	{"late fragments taken for ever", "fragment.h", "now() - ports->seen > FRAGMENT_TIME * hz", "0"},
	{"later fragments followed as packets", "open.h", "if (p->fragment == FRAGMENT_LATER)", "if (0)"},
	{"quoted ports not restored", "icmp.h", "struct ports ports = { .source = to->dport, .dest = to->sport };", "struct ports ports = { .source = e->quoted.sport, .dest = e->quoted.dport };"},
	{"errors of dead flows translated", "icmp.h", " && !flow_ended(family, t, &s->record, &s->mirror);", ";"},
	{"errors of a pod's split flow not found", "icmp.h", "for (i = 0; i < 2; i++) {", "for (i = 0; i < 1; i++) {"},
	{"quoted header's checksum not mended", "icmp.h", "if (store_checksum(skb, e->inner_off + offsetof(struct iphdr, check), addrs))", "if (0)"},
	{"padding taken for quoted ports", "icmp.h", "> p->l3_off + p->len)", "> p->l3_off + p->len + 64)"},
	{"padding taken for ports", "packet.h", "|| len < (__s32)sizeof(struct udphdr)", ""},
	{"martians open flows", "open.h", " || !addr_is_sender(family, p->tuple.saddr.word)", ""},
}

// ofFullTables are mutations of which records give way to which.
var ofFullTables = []mutation{
	{"confirmed record replaced", "claim.h", "(tag & (WAY_MASK | STATE_CONFIRMED)) != WAY_LIVE ||", "(tag & WAY_MASK) != WAY_LIVE ||"},
	{"version not counted", "claim.h", "tag = ((old + TAG_VERSION) & TAG_VERSION_MASK)", "tag = (old & TAG_VERSION_MASK)"},
	{"unconfirmed record not replaced", "claim.h", "(tag & (WAY_MASK | STATE_CONFIRMED)) != WAY_LIVE ||", "(tag & WAY_MASK) == WAY_LIVE ||"},
	{"unconfirmed record not replaced by age", "claim.h", "age = (__u16)(set->ticks - set->used[way]) + 1;", "age = 1;"},
	{"record that is used does not get younger", "flowtable.h", "\tif (set->used[where & (WAYS - 1)] != (__u16)set->ticks)\n\t\tset->used[where & (WAYS - 1)] = ++set->ticks;\n", ""},
	{"record is as old as its place's last tenant", "claim.h", "\tflow_touch_new(family, r->where);\n", ""},
	{"client's packet does not keep the reply", "track.h", "\tif (!(m->tag & STATE_CONFIRMED))\n\t\tflow_touch(family, m->where);\n", ""},
	{"spilled record not counted", "claim.h", "\tspilled_add(family, hash, w->chosen.choice, 1);\n", ""},
	{"spilled record counted for ever", "flowtable.h", "spilled_add(family, hash, tag_choice(tag), -1);", "spilled_add(family, hash, tag_choice(tag), 0);"},
	{"spilled record that gives way counted for ever", "claim.h", "spilled_add(family, key_hash(family, t), choice, -1);", "spilled_add(family, key_hash(family, t), choice, 0);"},
	{"no look at later choices", "flowtable.h", "return *(volatile __u32 *)&set->spilled && flow_find_any(family, 1, hash, t, r);", "return false;"},
	{"later choices are the first one", "flowtable.h", "\tif (choice) { /* mixed", "\tif (0) { /* mixed"},
	{"no room for the reply where something has expired", "open.h", "(ret && !flow_make_room(family, &s->mirror.key, &s->work))", "ret"},
	{"no room for the client where something has expired", "open.h", "\t       (flow_make_room(family, t, &s->work) &&\n", "\t       (0 &&\n"},
	{"client's record stays where the reply finds no room", "open.h", "\t\tflow_abandon(family, t, client);\n\t\treturn ret ?", "\t\treturn ret ?"},
	{"split flow opened with no room for its third record", "open.h", "ret = split ? open_source(family, s) : 0;\n\tif (ret < 0) {", "ret = split ? open_source(family, s) : 0;\n\tif (ret == -EEXIST) {"},
	{"split flow goes on without its third record", "track.h", "if (r->flags & FLOW_SPLIT && !split_source_mark(family, 0, s))\n\t\tgoto end;", "if (r->flags & FLOW_SPLIT)\n\t\tsplit_source_mark(family, 0, s);"},
	{"datagrams confirm the last records of a set", "track.h", "if (!leaves_room(family, r->where, s) || !leaves_room(family, m->where, s))", "if (0)"},
	{"a flow's own records confirmed beside each other fill a set", "flowtable.h", "at == where || at == second || at == third ||", "at == where || (at == second && at == third) ||"},
	{"third record confirmed into a full set", "track.h", "bits & STATE_CONFIRMED && !leaves_room(", "0 && !leaves_room("},
	{"answer of a service taken for an own connection", "own.h", "(other->record.flags & (FLOW_REPLY | FLOW_FOREIGN)) != FLOW_REPLY)", "0)"},
	{"third record takes the place of another flow's", "open.h", "if (!(other->flags & FLOW_SPLIT_SOURCE) &&\n", "if (0 &&\n"},
	{"what lives gives room as if it had expired", "claim.h", "\t\t    flow_dead(family, &w->judged, &w->mirror))\n", "\t\t    1)\n"},
}

// ofUnconfirmedPorts are mutations of which unconfirmed flow loses its source port.
var ofUnconfirmedPorts = []mutation{
	{"SNAT port of a young flow taken", "open.h", "return silence >= PORT_SILENCE;", "return true;"},
	{"SNAT port not of the oldest flow", "open.h", "if (i == PORT_LOOKS && s->oldest.port)", "if (0)"},
	{"SNAT port of a flow that asks again taken", "track.h", "\t\tflow_seen(family, &s->mirror.record);\n", "\t\t;\n"},
}

// ofDirectConnections are mutations of how a service and its endpoint share a client's port.
var ofDirectConnections = []mutation{
	{"answer to a direct connection taken for the service's", "track.h", "if (answers_directly(p, r))", "if (0 && answers_directly(p, r))"},
	{"refusal taken for a direct connection's", "track.h", "!(p->tcp_flags & (TCP_SYN | TCP_RST));", "!(p->tcp_flags & TCP_SYN);"},
	{"tuple of the answers not looked up", "open.h", "\t\t\t       s->record.where)) {", "\t\t\t       s->record.where) && try) {"},
	{"direct datagrams not noted", "direct.h", "if (!slot || explain)", "if (1 || !slot || explain)"},
	{"direct datagrams noted once and for all", "direct.h", "if (!direct_is(slot, hash, hz))", "if (!direct_is(slot, hash, -1))"},
	{"direct datagrams not looked for", "open.h", "if (port_is_direct(s, try))", "if (0)"},
	{"direct datagrams never forgotten", "direct.h", "direct_is(slot, hash, timeout_udp)", "direct_is(slot, hash, -1)"},
	{"direct datagrams of another client", "direct.h", "(__u32)word == direct_tag(hash) && ", ""},
	{"direct datagrams of two zones in one place", "direct.h", "(hash >> 48) ^ zone", "hash >> 48"},
	{"direct datagrams take all ports", "open.h", "!s || try >= PORT_TAKE || ", "!s || try >= PORT_TRIES || "},
}

// ofTwoCPUs are mutations of the protocol between processors, which are noticed by chance.
var ofTwoCPUs = []mutation{
	{"direct datagrams not looked for again", "open.h", "ret != SETTLED_OWNER || !port_is_direct(s, try)", "1"},
	{"flows of datagrams looked for long before the note", "track.h", "direct_note(direct_hash(hash, &reply->key, p->tuple.zone), p->tuple.zone);\n\t\tif (!flow_has_datagrams(family))", "bool has = flow_has_datagrams(family);\n\t\tfor (int i = 0; i < 40; i++) /* a wider window */\n\t\t\tbpf_ktime_get_ns();\n\t\tdirect_note(direct_hash(hash, &reply->key, p->tuple.zone), p->tuple.zone);\n\t\tif (!has)"},
	{"one-owner check dropped in settle", "claim.h", "\tif (twin_find(family, hash, t, r->where, &w->settling.twin) ||\n", "\tif (0 ||\n"},
	{"record live before it is looked for twins", "claim.h", "\tr->tag = (r->tag & ~WAY_MASK) | WAY_OFFERED;\n", "\tr->tag = (r->tag & ~WAY_MASK) | WAY_LIVE;\n"},
	{"way taken without condition", "claim.h", "\tif (!at || __sync_val_compare_and_swap(at, old, tag) != old)\n\t\treturn false;\n\tw->chosen.tag = tag;", "\tif (!at)\n\t\treturn false;\n\t*(volatile __u32 *)at = tag;\n\tw->chosen.tag = tag;"},
}

// ofExplain are mutations of what only the explain twin does.
var ofExplain = []mutation{
	{"twin marks a record", "flowtable.h", "\tif (explain) /* also of a record that would have been made just now */\n\t\treturn tag | WAY_LIVE;\n", ""},
	{"twin finds no record to mark", "flowtable.h", "just now */\n\t\treturn tag | WAY_LIVE;", "just now */\n\t\treturn 0;"},
	{"twin frees a way", "flowtable.h", "\tif (explain)\n\t\treturn note_freed(where);\n\tfamily = family_of(family);\n\treturn way_free", "\tfamily = family_of(family);\n\treturn way_free"},
	{"twin uses an unconfirmed record", "flowtable.h", "\tif (!set || explain)\n\t\treturn;\n\tasm volatile(\"\" : \"+r\"(set));\n\tif (set->used", "\tif (!set)\n\t\treturn;\n\tasm volatile(\"\" : \"+r\"(set));\n\tif (set->used"},
	{"twin sees a packet", "flowtable.h", "if (f && !explain)\n\t\tf->last_seen", "if (f)\n\t\tf->last_seen"},
	{"twin keeps a next hop", "flowtable.h", "if (f && !explain)\n\t\t__sync_val_compare_and_swap(&f->hop", "if (f)\n\t\t__sync_val_compare_and_swap(&f->hop"},
	{"twin takes a way", "claim.h", "\tif (explain) { /* as if it were taken */\n\t\tnote_taken(hash, w->chosen.where);\n\t\tw->chosen.tag = tag;\n\t\treturn true;\n\t}\n", ""},
	{"twin writes a record", "claim.h", "\tif (explain) { /* it writes nothing, so it always wins */\n\t\tr->tag |= WAY_LIVE;\n\t\treturn SETTLED_OWNER;\n\t}\n", ""},
	{"twin loses what it claims", "claim.h", "\t\tr->tag |= WAY_LIVE;\n\t\treturn SETTLED_OWNER;\n\t}\n\tif (!way_offer", "\t\treturn SETTLED_LOST;\n\t}\n\tif (!way_offer"},
	{"twin renews affinity", "affinity.h", "\t\t\tif (!explain)\n\t\t\t\tknown->last_used", "\t\t\t\tknown->last_used"},
	{"twin remembers a client", "affinity.h", "if (!backend || explain)", "if (!backend)"},
	{"twin stores a next hop", "nexthop.h", "!generation || explain", "!generation"},
	{"twin notes a fragment", "fragment.h", "!p || explain", "!p"},
}

// ofTurns are mutations of flows that go back by the pod's own device: packets at random lose such
// a record too seldom.
var ofTurns = []mutation{
	{"client of a turn restored as express", "track.h", " | (r->flags & FLOW_TURN) |\n", " |\n"},
	{"answer of a turn opened as express", "open.h", "(flags & (FLOW_SPLIT | FLOW_TURN))", "(flags & FLOW_SPLIT)"},
}

// ofCounters are mutations of what is counted in records, and of how it is added up.
var ofCounters = []mutation{
	{"what a replaced record has counted is lost", "claim.h", "\tflow_fold(family, r->where);\n\tflow_write(", "\tflow_write("},
	{"what the record at an abandoned place has counted is lost", "claim.h", "\tflow_fold(family, r->where);\n\t/* its tag", "\t/* its tag"},
	{"what a released record has counted is lost", "flowtable.h", "\tflow_fold(family, where);\n\tif (explain)\n\t\treturn note_freed(where);\n\tfamily", "\tif (explain)\n\t\treturn note_freed(where);\n\tfamily"},
	{"counted for the endpoint that has the id now", "stats.h", "f->flags & FLOW_SPLIT_SOURCE || !ids_hold(family, f)", "f->flags & FLOW_SPLIT_SOURCE"},
	{"third record counted, too", "stats.h", "f->flags & FLOW_SPLIT_SOURCE || !ids_hold(family, f)", "!ids_hold(family, f)"},
}

// ofAnnouncements are mutations of the answers to what asks for announced addresses.
var ofAnnouncements = []mutation{
	{"announced: answered for ever", "announce.h", "|| bpf_ktime_get_ns() >= *until", ""},
	{"announced: lapsed questions counted as answered", "announce.h", "__sync_fetch_and_add(&a->lapsed, 1)", "__sync_fetch_and_add(&a->answered, 1)"},
	{"announced: answers not counted", "announce.h", "\tif (a && !explain)\n\t\t__sync_fetch_and_add(&a->answered, 1);\n", ""},
	{"announced: twin counts answers", "announce.h", "\tif (a && !explain)\n", "\tif (a)\n"},
	{"announced: on every device", "announce.h", ".ifindex = s->ifindex }", ".ifindex = 10 }"},
	{"announced: answered for other hosts", "announce.h", "|| !__builtin_memcmp(w->eth.h_dest, mac, ETH_ALEN)", "|| 1"},
	{"announced: not answered if asked directly", "announce.h", "|| !__builtin_memcmp(w->eth.h_dest, mac, ETH_ALEN)", ""},
	{"announced: announcements answered", "announce.h", " &&\n\t       w->sender.word[0] != w->target.word[0]", ""},
	{"announced: ARP replies answered", "announce.h", "arp->operation == bpf_htons(ARP_REQUEST) && ", ""},
	{"announced: ARP of other networks answered", "announce.h", "arp->hardware == bpf_htons(ARP_ETHERNET) && ", ""},
	{"announced: ARP of other protocols answered", "announce.h", " && arp->protocol == bpf_htons(ETH_P_IP)", ""},
	{"announced: groups answered", "announce.h", "!(mac[0] & 1) && ", ""},
	{"announced: no MAC answered", "announce.h", " && (mac[0] | mac[1] | mac[2] | mac[3] | mac[4] | mac[5])", ""},
	{"announced: reply to the frame's sender", "announce.h", "w->eth.h_dest, arp->sender_mac", "w->eth.h_dest, w->eth.h_source"},
	{"announced: hop limit not looked at", "announce.h", " || ip->hop_limit != ND_HOP_LIMIT", ""},
	{"announced: code not looked at", "announce.h", " || w->nd.code", ""},
	{"announced: type not looked at", "announce.h", "w->nd.type != ND_SOLICITATION || ", ""},
	{"announced: checksum not looked at", "announce.h", " || csum_apply(0xffff, nd_sum(w, len))", ""},
	{"announced: any destination", "announce.h", "if (!many && !addr_equal(AF_INET6, dst, w->target.word))", "if (0)"},
	{"announced: any group of the target", "announce.h", "dst[0] == bpf_htonl(0xff020000) && ", ""},
	{"announced: probes to one host answered", "announce.h", "return many && !source", "return !source"},
	{"announced: probes with a MAC answered", "announce.h", "return many && !source", "return many"},
	{"announced: groups' solicitations answered", "announce.h", "return addr_is_sender(AF_INET6, w->sender.word) && ", "return "},
	{"announced: MAC of the option not used", "announce.h", "\tif (source)\n\t\t__builtin_memcpy(w->eth.h_source, source, ETH_ALEN);\n", ""},
	{"announced: option of no length", "announce.h", "\t\tif (!o->units)\n\t\t\treturn false;\n", ""},
	{"announced: option longer than the message", "announce.h", "return next <= units;", "return true;"},
	{"announced: half an option", "announce.h", " || len % ND_OPTION_UNIT", ""},
	{"announced: probes answered as if they had an address", "announce.h", "probe ? ND_OVERRIDE : ND_OVERRIDE | ND_SOLICITED", "ND_OVERRIDE | ND_SOLICITED"},
	{"announced: probes answered to one host", "announce.h", "\tif (!probe)\n\t\treturn;\n\tdst[0]", "\treturn;\n\tdst[0]"},
	{"announced: options left behind the answer's", "announce.h", "\t__builtin_memset(nd->options, 0, sizeof(nd->options));\n", ""},
	{"announced: flow label kept", "announce.h", "\t*(__be32 *)&w->ip = bpf_htonl(6 << 28); /* no traffic class and no flow label */\n", ""},
	{"announced: XDP shortens no frame", "xdp.c", "if (len != ND_ANSWER && bpf_xdp_adjust_tail", "if (len < ND_ANSWER && bpf_xdp_adjust_tail"},
	{"announced: tc keeps the length", "tc.c", "bpf_skb_change_tail(skb, ND_ANSWER, 0) ||", ""},
	{"announced: ARP reply left out of a device's sum", "tc.c", "sizeof(w->arp),\n\t\t\t\t\tBPF_F_RECOMPUTE_CSUM", "sizeof(w->arp),\n\t\t\t\t\t0"},
	{"announced: advertisement left out of a device's sum", "tc.c", "ND_ANSWER - ETH_HLEN,\n\t\t\t\t\tBPF_F_RECOMPUTE_CSUM", "ND_ANSWER - ETH_HLEN,\n\t\t\t\t\t0"},
	{"announced: pods answered", "tc.c", "if (hook == HOOK_TC_INGRESS && l3_off && verdict != VERDICT_VLAN) {", "if (l3_off && verdict != VERDICT_VLAN) {"},
	{"announced: XDP does not look at solicitations to one host", "xdp.c", "\tif (!may_solicit(family, verdict, &s->packet))\n\t\treturn verdict;\n", "\treturn verdict;\n"},
	{"announced: tc does not look at solicitations to one host", "tc.c", "&& may_solicit(family, verdict, &s->packet)", "&& 0"},
}

// ofNone are mutations that two processors show so rarely that no test notices them in its time.
// test/model/checkprotocol has broken variants like them.
var ofNone = []mutation{
	{"no look at the tag after reading", "flowtable.h", "return !((tag ^ r->tag) & TAG_IDENTITY);", "return (tag ^ tag) == 0;"},
	{"release ignores the state", "flowtable.h", "\t__u32 *at = tag_at(family, where);\n\n\tif (!at || __sync_val_compare_and_swap(at, tag, ", "\t__u32 *at = tag_at(family, where);\n\n\tif (at && !((*at ^ tag) & ~STATE_MASK))\n\t\ttag = *at;\n\tif (!at || __sync_val_compare_and_swap(at, tag, "},
	{"mark ignores the version", "flowtable.h", "if ((seen ^ tag) & TAG_IDENTITY)\n", "if ((seen ^ tag) & TAG_IDENTITY & ~TAG_VERSION_MASK)\n"},
	{"client's record confirmed though it was replaced", "track.h", "\tif (!record_mark(family, r, STATE_CONFIRMED) && !client_restore(family, state, s)) {", "\tif (!record_mark(family, r, STATE_CONFIRMED) && 0) {"},
	{"who loses the race keeps its reply", "open.h", "\tflow_release(family, &s->mirror.key, reply->where, reply->tag);\n\tif (split", "\tif (split"},
}
