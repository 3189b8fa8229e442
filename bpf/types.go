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
	Addr            = waggleAddr
	AffinityEntry   = waggleAffinityEntry
	AffinityKey     = waggleAffinityKey
	Backend         = waggleBackend
	Census          = waggleCensus
	ClusterRange    = waggleClusterRange
	ClusterRangeSet = waggleClusterRangeSet
	ClusterGuard    = waggleClusterGuard
	Counter         = waggleCounter
	Device          = waggleDevice
	Flow            = waggleFlow
	Flow4           = waggleFlow4
	Flow6           = waggleFlow6
	FlowKey4        = waggleFlowKey4
	FlowKey6        = waggleFlowKey6
	FlowSet4        = waggleFlowSet4
	FlowSet6        = waggleFlowSet6
	FlowWays        = waggleFlowWays
	NewFlow4        = waggleNewFlow4
	NewFlow6        = waggleNewFlow6
	RuntimeState    = waggleRuntimeState
	Scope           = waggleScope
	Service         = waggleService
	ServiceKey4     = waggleServiceKey4
	ServiceKey6     = waggleServiceKey6
	ServiceName     = waggleServiceName
	SockFlow        = waggleSockFlow
	SourceKey4      = waggleSourceKey4
	SourceKey6      = waggleSourceKey6
	SockFlowKey     = waggleSockFlowKey
	SockPeer        = waggleSockPeer
	Hook            = waggleHook
	Verdict         = waggleVerdict
)

// Members of Flow.Flags.
const (
	FlowReply        = uint16(waggleFlowFlagsFLOW_REPLY)
	FlowExpress      = uint16(waggleFlowFlagsFLOW_EXPRESS)
	FlowSplit        = uint16(waggleFlowFlagsFLOW_SPLIT)
	FlowEgressHalf   = uint16(waggleFlowFlagsFLOW_EGRESS_HALF)
	FlowMirrorEgress = uint16(waggleFlowFlagsFLOW_MIRROR_EGRESS)
	FlowXDP          = uint16(waggleFlowFlagsFLOW_XDP)
	FlowDirect       = uint16(waggleFlowFlagsFLOW_DIRECT)
	FlowForeign      = uint16(waggleFlowFlagsFLOW_FOREIGN)
)

// Members of Flow.State.
const (
	StateAnswered   = uint32(waggleFlowStateSTATE_ANSWERED)
	StateConfirmed  = uint32(waggleFlowStateSTATE_CONFIRMED)
	StateFinClient  = uint32(waggleFlowStateSTATE_FIN_CLIENT)
	StateFinBackend = uint32(waggleFlowStateSTATE_FIN_BACKEND)
	StateReset      = uint32(waggleFlowStateSTATE_RESET)
)

// WayHolds is what a tag in FlowWays says of its way: whether there is a record.
func WayHolds(tag uint32) bool {
	return tag != uint32(waggleWayTagTAG_FREE) && tag&uint32(waggleWayTagTAG_BUSY) == 0
}

// Ways is how many records a set of flows_new has.
const Ways = uint32(len(FlowWays{}.Tag))

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
	DeviceExpress = uint32(waggleDeviceFlagsDEVICE_EXPRESS)
	DeviceXDP     = uint32(waggleDeviceFlagsDEVICE_XDP)
	DeviceEgress  = uint32(waggleDeviceFlagsDEVICE_EGRESS)
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
	VerdictDropNoLocalEndpoint = waggleVerdictVERDICT_DROP_NO_LOCAL_ENDPOINT
	VerdictDropSNATExhausted   = waggleVerdictVERDICT_DROP_SNAT_EXHAUSTED
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
	VerdictFlowsFull           = waggleVerdictVERDICT_FLOWS_FULL
	VerdictCount               = waggleVerdictVERDICT_COUNT
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
	VerdictDropNoLocalEndpoint: "drop-no-local-endpoint",
	VerdictDropSNATExhausted:   "drop-snat-exhausted",
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
	VerdictFlowsFull:           "flows-full",
}

// VerdictName names a verdict as the metrics and the command do.
func VerdictName(v Verdict) string { return verdictNames[v] }

// AbortProgram is not part of the datapath: a kernel that refuses it (before 6.5, or without type
// information of itself) can run all the others.
const AbortProgram = "waggle_abort_udp"

// Spec returns the compiled datapath.
func Spec() (*ebpf.CollectionSpec, error) {
	spec, err := loadWaggle()
	if err == nil {
		delete(spec.Programs, AbortProgram)
	}
	return spec, err
}

// Fit tells the programs of a spec what they must know of its maps, and of the processor.
func Fit(spec *ebpf.CollectionSpec) error {
	if err := spec.Variables["weakly_ordered"].Set(runtime.GOARCH != "amd64"); err != nil {
		return fmt.Errorf("set variable weakly_ordered: %w", err)
	}
	for _, family := range []string{"4", "6"} {
		sets := spec.Maps["flows_new"+family].MaxEntries
		if err := spec.Variables["flows_new_sets"+family].Set(sets); err != nil {
			return fmt.Errorf("set variable flows_new_sets%s: %w", family, err)
		}
	}
	return nil
}

// AbortSpec returns AbortProgram, with the maps that it shares with the datapath.
func AbortSpec() (*ebpf.CollectionSpec, error) {
	spec, err := loadWaggle()
	if err == nil {
		spec.Programs = map[string]*ebpf.ProgramSpec{AbortProgram: spec.Programs[AbortProgram]}
	}
	return spec, err
}
