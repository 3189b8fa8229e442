// SPDX-License-Identifier: Apache-2.0

package leftovers

import "strings"

// families changes rules that are written for IPv4 to the family of a command.
func families(command, rules string) string {
	if !strings.HasPrefix(command, "ip6") {
		return rules
	}
	return strings.NewReplacer("10.96.0.1/32", "fd00:10:96::1/128", "10.96.0.10/32", "fd00:10:96::a/128",
		"10.244.1.5:", "[fd00:10:244:1::5]:", "10.244.2.7:", "[fd00:10:244:2::7]:",
		"10.244.1.5/32", "fd00:10:244:1::5/128", "10.244.2.7/32", "fd00:10:244:2::7/128",
		"10.244.0.0/16", "fd00:10:244::/56", "127.0.0.0/8", "::1/128", "192.0.2.1/32", "2001:db8::1/128").Replace(rules)
}

// kubeProxyRules are rules as kube-proxy writes them in its iptables mode: one service with two
// endpoints, a node port and a load balancer's source range, one service without endpoints.
const kubeProxyRules = `*mangle
:KUBE-PROXY-CANARY - [0:0]
COMMIT
*filter
:KUBE-EXTERNAL-SERVICES - [0:0]
:KUBE-FORWARD - [0:0]
:KUBE-NODEPORTS - [0:0]
:KUBE-PROXY-CANARY - [0:0]
:KUBE-PROXY-FIREWALL - [0:0]
:KUBE-SERVICES - [0:0]
-I INPUT -m conntrack --ctstate NEW -m comment --comment "kubernetes externally-visible service portals" -j KUBE-EXTERNAL-SERVICES
-I INPUT -m comment --comment "kubernetes health check service ports" -j KUBE-NODEPORTS
-I INPUT -m conntrack --ctstate NEW -m comment --comment "kubernetes load balancer firewall" -j KUBE-PROXY-FIREWALL
-I FORWARD -m conntrack --ctstate NEW -m comment --comment "kubernetes load balancer firewall" -j KUBE-PROXY-FIREWALL
-I FORWARD -m comment --comment "kubernetes forwarding rules" -j KUBE-FORWARD
-I FORWARD -m conntrack --ctstate NEW -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-I OUTPUT -m conntrack --ctstate NEW -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-A KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP
-A KUBE-FORWARD -m comment --comment "kubernetes forwarding rules" -m mark --mark 0x4000/0x4000 -j ACCEPT
-A KUBE-SERVICES -d 10.96.0.10/32 -p udp -m comment --comment "kube-system/kube-dns:dns has no endpoints" -m udp --dport 53 -j REJECT
COMMIT
*nat
:KUBE-EXT-EDNDUDH2C75GIR6O - [0:0]
:KUBE-FW-EDNDUDH2C75GIR6O - [0:0]
:KUBE-MARK-MASQ - [0:0]
:KUBE-NODEPORTS - [0:0]
:KUBE-POSTROUTING - [0:0]
:KUBE-PROXY-CANARY - [0:0]
:KUBE-SEP-BYY3GLBFM4LXWUPD - [0:0]
:KUBE-SEP-ZX7GRIZKSNUQ3LAJ - [0:0]
:KUBE-SERVICES - [0:0]
:KUBE-SVC-EDNDUDH2C75GIR6O - [0:0]
:KUBE-SVL-EDNDUDH2C75GIR6O - [0:0]
-I PREROUTING -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-I OUTPUT -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-I POSTROUTING -m comment --comment "kubernetes postrouting rules" -j KUBE-POSTROUTING
-A KUBE-EXT-EDNDUDH2C75GIR6O -s 10.244.0.0/16 -m comment --comment "pod traffic for default/web external destinations" -j KUBE-SVC-EDNDUDH2C75GIR6O
-A KUBE-EXT-EDNDUDH2C75GIR6O -j KUBE-SVL-EDNDUDH2C75GIR6O
-A KUBE-FW-EDNDUDH2C75GIR6O -m comment --comment "default/web loadbalancer IP" -j KUBE-EXT-EDNDUDH2C75GIR6O
-A KUBE-MARK-MASQ -j MARK --set-xmark 0x4000/0x4000
-A KUBE-NODEPORTS -p tcp -m comment --comment "default/web" -m tcp --dport 30080 -j KUBE-EXT-EDNDUDH2C75GIR6O
-A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN
-A KUBE-POSTROUTING -j MARK --set-xmark 0x4000/0x0
-A KUBE-POSTROUTING -m comment --comment "kubernetes service traffic requiring SNAT" -j MASQUERADE --random-fully
-A KUBE-SEP-BYY3GLBFM4LXWUPD -s 10.244.1.5/32 -m comment --comment "default/web" -j KUBE-MARK-MASQ
-A KUBE-SEP-BYY3GLBFM4LXWUPD -p tcp -m comment --comment "default/web" -m tcp -j DNAT --to-destination 10.244.1.5:8080
-A KUBE-SEP-ZX7GRIZKSNUQ3LAJ -s 10.244.2.7/32 -m comment --comment "default/web" -j KUBE-MARK-MASQ
-A KUBE-SEP-ZX7GRIZKSNUQ3LAJ -p tcp -m comment --comment "default/web" -m tcp -j DNAT --to-destination 10.244.2.7:8080
-A KUBE-SERVICES -d 10.96.0.1/32 -p tcp -m comment --comment "default/web cluster IP" -m tcp --dport 80 -j KUBE-SVC-EDNDUDH2C75GIR6O
-A KUBE-SERVICES -d 192.0.2.1/32 -p tcp -m comment --comment "default/web loadbalancer IP" -m tcp --dport 80 -j KUBE-FW-EDNDUDH2C75GIR6O
-A KUBE-SERVICES -m comment --comment "kubernetes service nodeports; NOTE: this must be the last rule in this chain" -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS
-A KUBE-SVC-EDNDUDH2C75GIR6O ! -s 10.244.0.0/16 -d 10.96.0.1/32 -p tcp -m comment --comment "default/web cluster IP" -m tcp --dport 80 -j KUBE-MARK-MASQ
-A KUBE-SVC-EDNDUDH2C75GIR6O -m comment --comment "default/web -> 10.244.1.5:8080" -m statistic --mode random --probability 0.5 -j KUBE-SEP-BYY3GLBFM4LXWUPD
-A KUBE-SVC-EDNDUDH2C75GIR6O -m comment --comment "default/web -> 10.244.2.7:8080" -j KUBE-SEP-ZX7GRIZKSNUQ3LAJ
-A KUBE-SVL-EDNDUDH2C75GIR6O -m comment --comment "default/web -> 10.244.1.5:8080" -j KUBE-SEP-BYY3GLBFM4LXWUPD
COMMIT
`

// foreignRules are rules of kubelet, of a CNI plugin and of a person, in the same tables.
const foreignRules = `*mangle
:KUBE-IPTABLES-HINT - [0:0]
:KUBE-KUBELET-CANARY - [0:0]
COMMIT
*filter
:KUBE-FIREWALL - [0:0]
:KUBE-KUBELET-CANARY - [0:0]
:KUBE-ROUTER-INPUT - [0:0]
:cali-FORWARD - [0:0]
-A INPUT -j KUBE-FIREWALL
-A INPUT -j KUBE-ROUTER-INPUT
-A INPUT -p tcp -m tcp --dport 22 -m comment --comment "leads to KUBE-SERVICES, says this -j KUBE-SERVICES" -j ACCEPT
-A FORWARD -m comment --comment "cali:wUHhoiAYhphO9Mso" -j cali-FORWARD
-A OUTPUT -j KUBE-FIREWALL
-A KUBE-FIREWALL ! -s 127.0.0.0/8 -d 127.0.0.0/8 -m comment --comment "block incoming localnet connections" -m conntrack ! --ctstate RELATED,ESTABLISHED,DNAT -j DROP
-A cali-FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
COMMIT
*nat
:CNI-HOSTPORT-DNAT - [0:0]
:KUBE-KUBELET-CANARY - [0:0]
-A PREROUTING -m addrtype --dst-type LOCAL -j CNI-HOSTPORT-DNAT
-A POSTROUTING -s 10.244.0.0/16 ! -d 10.244.0.0/16 -m comment --comment "flanneld masq" -j MASQUERADE --random-fully
-A CNI-HOSTPORT-DNAT -p tcp -m tcp --dport 8443 -j DNAT --to-destination 10.244.1.5:443
COMMIT
`

// kubeProxyNFT has the form of kube-proxy's table in its nftables mode.
const kubeProxyNFT = `table FAMILY kube-proxy {
	map service-ips {
		type inet_proto . inet_service : verdict
		elements = { tcp . 80 : goto service-web, udp . 53 : goto reject-chain }
	}
	chain endpoint-web {
		meta l4proto tcp redirect to :8080
	}
	chain service-web {
		numgen random mod 1 vmap { 0 : goto endpoint-web }
	}
	chain reject-chain {
		reject
	}
	chain services {
		meta l4proto . th dport vmap @service-ips
	}
	chain nat-prerouting {
		type nat hook prerouting priority dstnat; policy accept;
		jump services
	}
	chain nat-output {
		type nat hook output priority -100; policy accept;
		jump services
	}
	chain nat-postrouting {
		type nat hook postrouting priority srcnat; policy accept;
		meta mark & 0x4000 == 0x4000 masquerade fully-random
	}
}
`
