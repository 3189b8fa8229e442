// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"fmt"
	"runtime"

	"github.com/cilium/ebpf"
)

// The C structures under their Go names; bpf/*.h says what each member means. Addresses and
// ports are in network byte order, times in jiffies.
type (
	Active          = waggleActive
	Addr            = waggleAddr
	Adoption        = waggleAdoption
	AffinityEntry   = waggleAffinityEntry
	AffinityKey     = waggleAffinityKey
	Announcement    = waggleAnnouncement
	AnnouncedKey    = waggleAnnouncedKey
	Backend         = waggleBackend
	Census          = waggleCensus
	ClusterRange    = waggleClusterRange
	ClusterRangeSet = waggleClusterRangeSet
	ClusterGuard    = waggleClusterGuard
	Conversion      = waggleConversion
	Counter         = waggleCounter
	Device          = waggleDevice
	Direct          = waggleDirect
	Event           = waggleEvent
	Flow            = waggleFlow
	Flow4           = waggleFlow4
	Flow6           = waggleFlow6
	FlowSet4        = waggleFlowSet4
	FlowSet6        = waggleFlowSet6
	FlowCounters    = waggleFlowCounters
	FlowWays        = waggleFlowWays
	Hop             = waggleHop
	Nexthop         = waggleNexthop
	Notes           = waggleNotes
	Opening         = waggleOpening
	Packet          = wagglePacket
	Record          = waggleRecord
	RuntimeState    = waggleRuntimeState
	Scope           = waggleScope
	Service         = waggleService
	ServiceCounters = waggleServiceCounters
	ServiceKey4     = waggleServiceKey4
	ServiceKey6     = waggleServiceKey6
	ServiceName     = waggleServiceName
	SockFlow        = waggleSockFlow
	SourceKey4      = waggleSourceKey4
	SourceKey6      = waggleSourceKey6
	SockFlowKey     = waggleSockFlowKey
	SockPeer        = waggleSockPeer
	SocketQuestion  = waggleSocketQuestion
	StaleCensus     = waggleStaleCensus
	Traffic         = waggleTraffic
	Tuple           = waggleTuple
	Watch           = waggleWatch
	WatchMeter      = waggleWatchMeter
	WatchedKey      = waggleWatchedKey
	Zone            = waggleZone
	Hook            = waggleHook
	Verdict         = waggleVerdict
)

// Members of Flow.Flags.
const (
	FlowReply          = uint16(waggleFlowFlagsFLOW_REPLY)
	FlowExpress        = uint16(waggleFlowFlagsFLOW_EXPRESS)
	FlowSplit          = uint16(waggleFlowFlagsFLOW_SPLIT)
	FlowSplitSource    = uint16(waggleFlowFlagsFLOW_SPLIT_SOURCE)
	FlowForeign        = uint16(waggleFlowFlagsFLOW_FOREIGN)
	FlowTurn           = uint16(waggleFlowFlagsFLOW_TURN)
	FlowBegun          = uint16(waggleFlowFlagsFLOW_BEGUN)
	FlowMirrorZone     = uint16(waggleFlowFlagsFLOW_MIRROR_ZONE)
	FlowMirrorZoneMask = uint16(waggleFlowFlagsFLOW_MIRROR_ZONE_MASK)
)

// Values of Flow.Zone.
const (
	ZoneOutside = waggleZoneZONE_OUTSIDE
	ZonePod     = waggleZoneZONE_POD
	ZoneLeaving = waggleZoneZONE_LEAVING
)

var zoneNames = [...]string{ZoneOutside: "outside", ZonePod: "pod", ZoneLeaving: "leaving"}

// ZoneName names a zone as the command does.
func ZoneName(z Zone) string { return zoneNames[z] }

// The bits of a tag in FlowWays.
const (
	WayMask         = uint32(waggleFlowTagWAY_MASK)
	WayFree         = uint32(waggleFlowTagWAY_FREE)
	WayLive         = uint32(waggleFlowTagWAY_LIVE)
	StateAnswered   = uint32(waggleFlowTagSTATE_ANSWERED)
	StateConfirmed  = uint32(waggleFlowTagSTATE_CONFIRMED)
	StateFinClient  = uint32(waggleFlowTagSTATE_FIN_CLIENT)
	StateFinBackend = uint32(waggleFlowTagSTATE_FIN_BACKEND)
	StateReset      = uint32(waggleFlowTagSTATE_RESET)
	StateMask       = uint32(waggleFlowTagSTATE_MASK)
	TagChoice       = uint32(waggleFlowTagTAG_CHOICE)
	TagChoiceMask   = uint32(waggleFlowTagTAG_CHOICE_MASK)
	TagVersion      = uint32(waggleFlowTagTAG_VERSION)
	TagVersionMask  = uint32(waggleFlowTagTAG_VERSION_MASK)
)

// Ways is how many records a set of flows4 or flows6 has.
const Ways = uint32(len(FlowWays{}.Tag))

// recordsOfFlow is how many records a flow has: the client's and the backend's.
const recordsOfFlow = 2

// SetsForFlows is how many sets hold so many flows at a load of one half.
func SetsForFlows(flows uint32) uint32 {
	perSet := Ways / recordsOfFlow / 2
	return (flows + perSet - 1) / perSet
}

// FlowsOfSets is its inverse.
func FlowsOfSets(sets uint32) uint32 { return sets * (Ways / recordsOfFlow / 2) }

// Members of Hop.Flags.
const (
	HopResolved = uint16(waggleHopFlagsHOP_RESOLVED)
	HopXDP      = uint16(waggleHopFlagsHOP_XDP)
	HopTC       = uint16(waggleHopFlagsHOP_TC)
)

// Indexes of FlowCounters.Traffic.
const (
	ToBackend = waggleDirectionTO_BACKEND
	ToClient  = waggleDirectionTO_CLIENT
)

// ConnectFirst is the end of the first bucket of FlowCounters.Connect, in microseconds. Each next one ends at twice as
// many, and the last has no end.
const ConnectFirst = 64

// StatsGone is STATS_GONE of bpf/stats.h.
const StatsGone = 1 << 31

// Drops are the verdicts that ServiceCounters.Dropped counts, by index.
func Drops() (reasons [len(ServiceCounters{}.Dropped)]Verdict) {
	for i := range reasons {
		reasons[i] = VerdictDropNoLocalEndpoint + Verdict(i)
	}
	return reasons
}

// Members of Service.Flags.
const (
	ServiceExternalDrop  = uint32(waggleServiceFlagsSERVICE_EXTERNAL_DROP)
	ServiceInternalDrop  = uint32(waggleServiceFlagsSERVICE_INTERNAL_DROP)
	ServiceClusterIP     = uint32(waggleServiceFlagsSERVICE_CLUSTER_IP)
	ServiceNodePort      = uint32(waggleServiceFlagsSERVICE_NODE_PORT)
	ServiceExternalIP    = uint32(waggleServiceFlagsSERVICE_EXTERNAL_IP)
	ServiceLoadBalancer  = uint32(waggleServiceFlagsSERVICE_LOAD_BALANCER)
	ServiceExternalLocal = uint32(waggleServiceFlagsSERVICE_EXTERNAL_LOCAL)
	ServiceInternalLocal = uint32(waggleServiceFlagsSERVICE_INTERNAL_LOCAL)
	ServiceSourceRanges  = uint32(waggleServiceFlagsSERVICE_SOURCE_RANGES)
)

// Members of Backend.Flags.
const (
	BackendLocal        = uint8(waggleBackendFlagsBACKEND_LOCAL)
	BackendIPv6         = uint8(waggleBackendFlagsBACKEND_IPV6)
	BackendInClusterSet = uint8(waggleBackendFlagsBACKEND_IN_CLUSTER_SET)
	BackendInLocalSet   = uint8(waggleBackendFlagsBACKEND_IN_LOCAL_SET)
	BackendKept         = uint8(waggleBackendFlagsBACKEND_KEPT)
)

// Members of Device.Flags.
const (
	DeviceTCTransmits  = uint32(waggleDeviceFlagsDEVICE_TC_TRANSMITS)
	DeviceXDPTransmits = uint32(waggleDeviceFlagsDEVICE_XDP_TRANSMITS)
	DeviceEgressHook   = uint32(waggleDeviceFlagsDEVICE_EGRESS_HOOK)
	DeviceEthernet     = uint32(waggleDeviceFlagsDEVICE_ETHERNET)
	DeviceUplink       = uint32(waggleDeviceFlagsDEVICE_UPLINK)
	DevicePod          = uint32(waggleDeviceFlagsDEVICE_POD)
)

// Members of the values of node_addrs4 and node_addrs6.
const (
	NodeAddrNodePorts = uint8(waggleNodeAddrFlagsNODE_ADDR_NODE_PORTS)
	NodeAddrLocal     = uint8(waggleNodeAddrFlagsNODE_ADDR_LOCAL)
)

// Values of the map cluster_addrs.
const (
	ClusterAddrOurs   = uint8(waggleClusterAddrCLUSTER_ADDR_OURS)
	ClusterAddrOthers = uint8(waggleClusterAddrCLUSTER_ADDR_OTHERS)
)

// Members of ClusterRange.Flags.
const (
	ClusterRangeUsed = uint32(waggleClusterRangeFlagsCLUSTER_RANGE_USED)
	ClusterRangeDrop = uint32(waggleClusterRangeFlagsCLUSTER_RANGE_DROP)
)

// Members of Notes.Steps; bpf/trace.h says what each means.
const (
	TraceService    = uint32(waggleTraceStepTRACE_SERVICE)
	TraceFrontend   = uint32(waggleTraceStepTRACE_FRONTEND)
	TraceEnded      = uint32(waggleTraceStepTRACE_ENDED)
	TraceSocket     = uint32(waggleTraceStepTRACE_SOCKET)
	TraceAffinity   = uint32(waggleTraceStepTRACE_AFFINITY)
	TraceRemembered = uint32(waggleTraceStepTRACE_REMEMBERED)
	TraceRandom     = uint32(waggleTraceStepTRACE_RANDOM)
	TraceFIB        = uint32(waggleTraceStepTRACE_FIB)
	TraceCluster    = uint32(waggleTraceStepTRACE_CLUSTER)
	TraceICMP       = uint32(waggleTraceStepTRACE_ICMP)
	TraceWhoHas     = uint32(waggleTraceStepTRACE_WHO_HAS)
	TraceAnnounced  = uint32(waggleTraceStepTRACE_ANNOUNCED)
	TraceLapsed     = uint32(waggleTraceStepTRACE_LAPSED)
)

// Members of Watch.Flags, kinds of WatchedKey and members of Event.Flags; bpf/watch.h says what each means.
const (
	WatchPackets   = uint32(waggleWatchFlagsWATCH_PACKETS)
	WatchClient    = uint32(waggleWatchFlagsWATCH_CLIENT)
	WatchServices  = uint32(waggleWatchFlagsWATCH_SERVICES)
	WatchBackends  = uint32(waggleWatchFlagsWATCH_BACKENDS)
	WatchedService = uint32(waggleWatchedKindWATCHED_SERVICE)
	WatchedBackend = uint32(waggleWatchedKindWATCHED_BACKEND)
	EventAffinity  = uint8(waggleEventFlagsEVENT_AFFINITY)
	EventReset     = uint8(waggleEventFlagsEVENT_RESET)
	EventRewrite   = uint8(waggleEventFlagsEVENT_REWRITE)
)

// The parts of the word in the map watching.
const (
	WatchingGeneration = uint64(1) << 48
	WatchingBytes      = uint64(1) << 63
	WatchingVerdicts   = WatchingGeneration - 1
)

// Values of Packet.Fragment.
const (
	FragmentNone  = uint8(waggleFragmentFRAGMENT_NONE)
	FragmentFirst = uint8(waggleFragmentFRAGMENT_FIRST)
	FragmentLater = uint8(waggleFragmentFRAGMENT_LATER)
)

// Where decisions are made.
const (
	HookXDP       = waggleHookHOOK_XDP
	HookTCIngress = waggleHookHOOK_TC_INGRESS
	HookTCEgress  = waggleHookHOOK_TC_EGRESS
	HookTCPod     = waggleHookHOOK_TC_POD
	HookSock      = waggleHookHOOK_SOCK
	HookCount     = waggleHookHOOK_COUNT
)

// What is decided; bpf/verdict.h explains each.
const (
	VerdictNotIP               = waggleVerdictVERDICT_NOT_IP
	VerdictNotOurs             = waggleVerdictVERDICT_NOT_OURS
	VerdictUnparsed            = waggleVerdictVERDICT_UNPARSED
	VerdictFragment            = waggleVerdictVERDICT_FRAGMENT
	VerdictVlan                = waggleVerdictVERDICT_VLAN
	VerdictLeftToTC            = waggleVerdictVERDICT_LEFT_TO_TC
	VerdictExpress             = waggleVerdictVERDICT_EXPRESS
	VerdictStack               = waggleVerdictVERDICT_STACK
	VerdictSource              = waggleVerdictVERDICT_SOURCE
	VerdictICMPError           = waggleVerdictVERDICT_ICMP_ERROR
	VerdictRefused             = waggleVerdictVERDICT_REFUSED
	VerdictTooBig              = waggleVerdictVERDICT_TOO_BIG
	VerdictAnswered            = waggleVerdictVERDICT_ANSWERED
	VerdictAnnounced           = waggleVerdictVERDICT_ANNOUNCED
	VerdictDropNoLocalEndpoint = waggleVerdictVERDICT_DROP_NO_LOCAL_ENDPOINT
	VerdictDropSNATExhausted   = waggleVerdictVERDICT_DROP_SNAT_EXHAUSTED
	VerdictDropFlowsFull       = waggleVerdictVERDICT_DROP_FLOWS_FULL
	VerdictDropNoFlow          = waggleVerdictVERDICT_DROP_NO_FLOW
	VerdictDropTTL             = waggleVerdictVERDICT_DROP_TTL
	VerdictDropNoRoute         = waggleVerdictVERDICT_DROP_NO_ROUTE
	VerdictDropSourceRange     = waggleVerdictVERDICT_DROP_SOURCE_RANGE
	VerdictDropUnallocated     = waggleVerdictVERDICT_DROP_UNALLOCATED
	VerdictDropError           = waggleVerdictVERDICT_DROP_ERROR
	VerdictSockConnect         = waggleVerdictVERDICT_SOCK_CONNECT
	VerdictSockSendmsg         = waggleVerdictVERDICT_SOCK_SENDMSG
	VerdictSockRecvmsg         = waggleVerdictVERDICT_SOCK_RECVMSG
	VerdictSockGetpeername     = waggleVerdictVERDICT_SOCK_GETPEERNAME
	VerdictFlowOpened          = waggleVerdictVERDICT_FLOW_OPENED
	VerdictFlowConfirmed       = waggleVerdictVERDICT_FLOW_CONFIRMED
	VerdictFlowClosed          = waggleVerdictVERDICT_FLOW_CLOSED
	VerdictCount               = waggleVerdictVERDICT_COUNT
	// No decision yet; for the model of the datapath, as in its source.
	VerdictNone = waggleVerdictVERDICT_NONE
)

var hookNames = [HookCount]string{
	HookXDP:       "xdp",
	HookTCIngress: "tc-ingress",
	HookTCEgress:  "tc-egress",
	HookTCPod:     "tc-pod",
	HookSock:      "sock",
}

// HookName names a hook as the metrics and the command do.
func HookName(h Hook) string { return hookNames[h] }

var verdictNames = [VerdictCount]string{
	VerdictNotIP:               "not-ip",
	VerdictNotOurs:             "not-ours",
	VerdictUnparsed:            "unparsed",
	VerdictFragment:            "fragment",
	VerdictVlan:                "vlan",
	VerdictLeftToTC:            "left-to-tc",
	VerdictExpress:             "express",
	VerdictStack:               "stack",
	VerdictSource:              "source",
	VerdictICMPError:           "icmp-error",
	VerdictRefused:             "refused",
	VerdictTooBig:              "too-big",
	VerdictAnswered:            "answered",
	VerdictAnnounced:           "announced",
	VerdictDropNoLocalEndpoint: "drop-no-local-endpoint",
	VerdictDropSNATExhausted:   "drop-snat-exhausted",
	VerdictDropFlowsFull:       "drop-flows-full",
	VerdictDropNoFlow:          "drop-no-flow",
	VerdictDropTTL:             "drop-ttl",
	VerdictDropNoRoute:         "drop-no-route",
	VerdictDropSourceRange:     "drop-source-range",
	VerdictDropUnallocated:     "drop-unallocated",
	VerdictDropError:           "drop-error",
	VerdictSockConnect:         "sock-connect",
	VerdictSockSendmsg:         "sock-sendmsg",
	VerdictSockRecvmsg:         "sock-recvmsg",
	VerdictSockGetpeername:     "sock-getpeername",
	VerdictFlowOpened:          "flow-opened",
	VerdictFlowConfirmed:       "flow-confirmed",
	VerdictFlowClosed:          "flow-closed",
}

// VerdictName names a verdict as the metrics and the command do.
func VerdictName(v Verdict) string { return verdictNames[v] }

// Programs that are no part of the datapath: a kernel that refuses them (without type information
// of itself; AbortProgram: before 6.5) can run all the others. ExplainProgram is loaded only as a part of the
// explain twin.
const (
	AbortProgram   = "waggle_abort_udp"
	ShowProgram4   = "waggle_show4"
	ShowProgram6   = "waggle_show6"
	ExplainProgram = "waggle_explain_socket"
)

var optional = []string{AbortProgram, ShowProgram4, ShowProgram6, ExplainProgram}

// Spec returns the compiled datapath.
func Spec() (*ebpf.CollectionSpec, error) {
	spec, err := Whole()
	if err == nil {
		DropOptional(spec)
	}
	return spec, err
}

// Whole returns the datapath and the programs that are no part of it, which share its maps.
func Whole() (*ebpf.CollectionSpec, error) { return loadWaggle() }

// DropOptional leaves the datapath in the spec of its whole object.
func DropOptional(spec *ebpf.CollectionSpec) {
	for _, name := range optional {
		delete(spec.Programs, name)
	}
}

// Fit sets in a spec what its programs must know of its maps, and of the processor.
func Fit(spec *ebpf.CollectionSpec) error {
	if err := spec.Variables["weakly_ordered"].Set(runtime.GOARCH != "amd64"); err != nil {
		return fmt.Errorf("set variable weakly_ordered: %w", err)
	}
	for variable, name := range map[string]string{"flow_sets4": "flows4", "flow_sets6": "flows6", "nexthops_size": "nexthops"} {
		if err := spec.Variables[variable].Set(spec.Maps[name].MaxEntries); err != nil {
			return fmt.Errorf("set variable %s: %w", variable, err)
		}
	}
	return nil
}
