# What the AWS VPC CNI plugin leaves on a node whose pods have addresses of its second ENI, eth1: they
# send by that, but what came in by the first ENI is answered by the first, as connection marks tell.
sysctl -qw net.ipv4.conf.eth0.rp_filter=2
ip rule add priority 512 to "$PODS" lookup main
ip rule add priority 1024 fwmark 0x80/0x80 lookup main
ip rule add priority 1536 from "$PODS" lookup 2
ip route add 192.168.1.0/24 dev eth1 table 2
ip route add default via "$GATEWAY" dev eth1 table 2
# A VPC brings packets for pods to the ENI that holds their addresses.
ip route del 192.168.1.0/24 dev eth1 table main
ip route add "$PEER_PODS" via "$PEER_ENI" dev eth1 table 2
ip route replace "$PEER_PODS" via "$PEER_ENI" dev eth0
iptables-restore --noflush <<RULES
*mangle
-A PREROUTING -i eth0 -m comment --comment "AWS, primary ENI" -m addrtype --dst-type LOCAL --limit-iface-in -j CONNMARK --set-xmark 0x80/0x80
-A PREROUTING -i veth+ -m comment --comment "AWS, primary ENI" -j CONNMARK --restore-mark --nfmask 0x80 --ctmask 0x80
COMMIT
*nat
:AWS-CONNMARK-CHAIN-0 - [0:0]
:AWS-SNAT-CHAIN-0 - [0:0]
-A PREROUTING -i veth+ -m comment --comment "AWS, outbound connections" -j AWS-CONNMARK-CHAIN-0
-A PREROUTING -m comment --comment "AWS, CONNMARK" -j CONNMARK --restore-mark --nfmask 0x80 --ctmask 0x80
-A POSTROUTING -m comment --comment "AWS SNAT CHAIN" -j AWS-SNAT-CHAIN-0
-A AWS-CONNMARK-CHAIN-0 -d 10.244.0.0/16 -j RETURN
-A AWS-CONNMARK-CHAIN-0 -d 192.168.1.0/24 -j RETURN
-A AWS-CONNMARK-CHAIN-0 -m comment --comment "AWS, CONNMARK" -j CONNMARK --set-xmark 0x80/0x80
-A AWS-SNAT-CHAIN-0 -d 10.244.0.0/16 -j RETURN
-A AWS-SNAT-CHAIN-0 -d 192.168.1.0/24 -j RETURN
-A AWS-SNAT-CHAIN-0 ! -o vlan+ -m addrtype ! --dst-type LOCAL -j SNAT --to-source $NODE --random-fully
COMMIT
RULES
