// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"net/netip"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"
	"sigs.k8s.io/yaml"

	"github.com/waggle-lb/waggle/bpf"
	"github.com/waggle-lb/waggle/control/plan"
	"github.com/waggle-lb/waggle/control/reconcile"
	"github.com/waggle-lb/waggle/loader"
	"github.com/waggle-lb/waggle/maps"
	"github.com/waggle-lb/waggle/test/topo"
)

// loaded is a pinned datapath, as an agent that has ended leaves it.
type loaded struct {
	t      *testing.T
	pinDir string
	dp     *loader.Datapath
}

func load(t *testing.T) *loaded {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: it loads BPF programs")
	}
	if err := topo.MountBPFFS(); err != nil {
		t.Fatal(err)
	}
	l := &loaded{t: t, pinDir: fmt.Sprintf("/sys/fs/bpf/waggle-command-test-%d", os.Getpid())}
	sizes := map[string]uint32{}
	for _, name := range []string{"flows4", "flows6", "slots", "backends", "services4", "services6", "service_names", "sock_flows"} {
		sizes[name] = 256
	}
	var err error
	l.dp, err = loader.Load(loader.Options{PinDir: l.pinDir, Log: quiet(), MapSizes: sizes})
	l.must(err)
	t.Cleanup(func() {
		l.must(l.dp.Close())
		_, err := loader.Cleanup(l.pinDir, quiet())
		l.must(err)
	})
	return l
}

func quiet() *logrus.Entry {
	log := logrus.New()
	log.SetOutput(io.Discard)
	return logrus.NewEntry(log)
}

func (l *loaded) must(err error) {
	l.t.Helper()
	if err != nil {
		l.t.Fatal(err)
	}
}

// run runs a command that looks at the pinned maps.
func (l *loaded) run(command string) string {
	l.t.Helper()
	out, err := run(l.t, append(strings.Fields(command), "--pin-dir", l.pinDir)...)
	l.must(err)
	return out
}

// expect compares what a command prints, without the blanks at the ends of lines.
func (l *loaded) expect(command, want string) {
	l.t.Helper()
	if diff := cmp.Diff(tidy(want), tidy(l.run(command))); diff != "" {
		l.t.Errorf("waggle %s (-want +got):\n%s", command, diff)
	}
}

func tidy(s string) []string {
	lines := strings.Split(strings.Trim(s, "\n"), "\n")
	for i := range lines {
		lines[i] = strings.TrimRight(lines[i], " ")
	}
	return lines
}

// apply writes services as the agent does.
func (l *loaded) apply(services ...plan.Service) {
	l.t.Helper()
	r, err := reconcile.New(l.dp, quiet())
	l.must(err)
	for _, svc := range services {
		l.must(r.Apply(svc))
	}
}

// port plans a service port; its frontends are like "ClusterIP 10.96.0.1:80", where "local" and
// "drop" may follow for clients outside, its endpoints like "10.1.0.1:8080", with a star if local.
func port(name maps.Name, frontends []string, endpoints ...string) plan.Service {
	kinds := map[string]maps.Kind{"ClusterIP": maps.ClusterIP, "NodePort": maps.NodePort, "ExternalIP": maps.ExternalIP, "LoadBalancer": maps.LoadBalancer}
	svc := plan.Service{Name: name}
	for _, s := range frontends {
		words := strings.Fields(s)
		at := netip.MustParseAddrPort(words[1])
		f := plan.Frontend{Kind: kinds[words[0]], Frontend: maps.Frontend{Addr: at.Addr(), Port: at.Port(), Proto: name.Proto}}
		for _, w := range words[2:] {
			f.External.Set, f.External.Drop = plan.Local, w == "drop"
		}
		svc.Frontends = append(svc.Frontends, f)
	}
	for _, s := range endpoints {
		s, local := strings.CutSuffix(s, "*")
		at := netip.MustParseAddrPort(s)
		e := plan.Endpoint{Addr: at.Addr(), Port: at.Port(), Local: local}
		svc.Endpoints[plan.Cluster] = append(svc.Endpoints[plan.Cluster], e)
		if local {
			svc.Endpoints[plan.Local] = append(svc.Endpoints[plan.Local], e)
		}
	}
	return svc
}

func (l *loaded) applySome() {
	l.t.Helper()
	name := func(namespace, name, port string, proto uint8, f maps.Family) maps.Name {
		return maps.Name{Namespace: namespace, Name: name, Port: port, Proto: proto, Family: f}
	}
	l.apply(
		port(name("default", "web", "http", unix.IPPROTO_TCP, maps.IPv4),
			[]string{"ClusterIP 10.96.0.1:80", "LoadBalancer 192.0.2.1:80 local", "NodePort 0.0.0.0:30080 local"}, "10.1.0.1:8080", "10.1.0.2:8080*"),
		port(name("default", "web", "http", unix.IPPROTO_TCP, maps.IPv6), []string{"ClusterIP [fd00:96::1]:80"}, "[fd00:1::1]:8080"),
		port(name("kube-system", "dns", "dns", unix.IPPROTO_UDP, maps.IPv4), []string{"ClusterIP 10.96.0.10:53"}, "10.1.0.3:53*"),
		port(name("kube-system", "dns", "dns-tcp", unix.IPPROTO_TCP, maps.IPv4), []string{"ClusterIP 10.96.0.10:53"}, "10.1.0.3:53*"),
		port(name("default", "far", "", unix.IPPROTO_TCP, maps.IPv4),
			[]string{"ClusterIP 10.96.0.2:80", "NodePort 0.0.0.0:30081 local drop"}, "10.1.0.1:8080"),
		port(name("default", "none", "", unix.IPPROTO_SCTP, maps.IPv4), []string{"ClusterIP 10.96.0.3:80", "ExternalIP 192.0.2.9:80"}),
	)
}

// A load balancer that has no address yet is shown as `kubectl get services` shows it; one whose
// address is served elsewhere, such as a name, has none here, but waits for none.
func TestLoadBalancerWithoutAddress(t *testing.T) {
	l := load(t)
	name := func(n string) maps.Name {
		return maps.Name{Namespace: "default", Name: n, Proto: unix.IPPROTO_TCP, Family: maps.IPv4}
	}
	waiting := port(name("waiting"), []string{"ClusterIP 10.96.0.1:80", "NodePort 0.0.0.0:30080"})
	waiting.Type = maps.PendingLoadBalancer
	extra := port(name("extra"), []string{"ClusterIP 10.96.0.2:80", "ExternalIP 192.0.2.9:80"})
	extra.Type = maps.PendingLoadBalancer
	elsewhere := port(name("elsewhere"), []string{"ClusterIP 10.96.0.3:80", "NodePort 0.0.0.0:30082"})
	elsewhere.Type = maps.LoadBalancerType
	l.apply(waiting, extra, elsewhere)
	l.expect("service list", `
NAMESPACE   NAME        TYPE           CLUSTER-IP   EXTERNAL-IP   PORT(S)        ENDPOINTS
default     elsewhere   LoadBalancer   10.96.0.3    <none>        80:30082/TCP   0 (0 local)
default     extra       LoadBalancer   10.96.0.2    192.0.2.9     80/TCP         0 (0 local)
default     waiting     LoadBalancer   10.96.0.1    <pending>     80:30080/TCP   0 (0 local)`)
	var service serviceView
	l.must(json.Unmarshal([]byte(l.run("service get waiting -o json")), &service))
	if service.Type != "LoadBalancer" || !service.Pending {
		t.Errorf("as an object: %+v", service)
	}
	waiting.Type = maps.PlainType // and becomes a NodePort
	l.apply(waiting)
	l.must(json.Unmarshal([]byte(l.run("service get waiting -o json")), &service))
	if service.Type != "NodePort" {
		t.Errorf("as an object: %+v", service)
	}
}

// TestNames: the ways to say which namespace.
func TestNames(t *testing.T) {
	l := load(t)
	l.applySome()
	all := l.run("service list")
	for _, flag := range []string{"-A", "--all-namespaces"} {
		if got := l.run("service list " + flag); got != all {
			t.Errorf("service list %s:\n%swant\n%s", flag, got, all)
		}
	}
	want := l.run("service get dns -n kube-system")
	for _, command := range []string{"service get kube-system/dns", "service get kube-system/dns -n kube-system"} {
		if got := l.run(command); got != want {
			t.Errorf("%s:\n%swant\n%s", command, got, want)
		}
	}
	for command, want := range map[string]string{
		"service get kube-system/web":      "service kube-system/web is not in the datapath",
		"service get default/dns":          "service default/dns is not in the datapath",
		"service get kube-system/dns -n x": "kube-system/dns: --namespace is x",
		"service get /dns":                 "/dns: want NAME or NAMESPACE/NAME",
		"service get dns/":                 "dns/: want NAME or NAMESPACE/NAME",
		"service get a/b/c":                "a/b/c: want NAME or NAMESPACE/NAME",
	} {
		if _, err := run(t, append(strings.Fields(command), "--pin-dir", l.pinDir)...); err == nil || err.Error() != want {
			t.Errorf("%s: error %v, want %s", command, err, want)
		}
	}
	if _, err := run(t, "service", "list", "-A", "-n", "x", "--pin-dir", l.pinDir); err == nil {
		t.Error("service list takes -A and -n together")
	}
}

// TestWide: each table has more columns with -o wide.
func TestWide(t *testing.T) {
	l := load(t)
	l.applySome()
	l.expect("service get far -o wide", `
PORT        PROTOCOL   KIND        FRONTEND        FROM OUTSIDE    FROM THIS NODE   IP FAMILY   ID
<unnamed>   TCP        ClusterIP   10.96.0.2:80    10.1.0.1:8080   10.1.0.1:8080    IPv4        5
<unnamed>   TCP        NodePort    0.0.0.0:30081   <dropped>       10.1.0.1:8080    IPv4        5

PORT        PROTOCOL   IP FAMILY   ACTIVE   NEW/S   PKT/S TO BACKEND   BIT/S   PKT/S TO CLIENT   BIT/S   REFUSED/S   DROPPED/S   CONNECT
<unnamed>   TCP        IPv4        0        0       0                  0       0                 0       0           0           <none>`)
	l.expect("backend list -o wide", `
ID   SERVICE           PORT        PROTOCOL   ADDRESS            LOCAL   SERVING   SETS            ACTIVE   NEW/S   PKT/S TO BACKEND   BIT/S   PKT/S TO CLIENT   BIT/S
6    default/far       <unnamed>   TCP        10.1.0.1:8080      false   true      cluster         0        0       0                  0       0                 0
1    default/web       http        TCP        10.1.0.1:8080      false   true      cluster         0        0       0                  0       0                 0
2    default/web       http        TCP        10.1.0.2:8080      true    true      cluster,local   0        0       0                  0       0                 0
3    default/web       http        TCP        [fd00:1::1]:8080   false   true      cluster         0        0       0                  0       0                 0
4    kube-system/dns   dns         UDP        10.1.0.3:53        true    true      cluster,local   0        0       0                  0       0                 0
5    kube-system/dns   dns-tcp     TCP        10.1.0.3:53        true    true      cluster,local   0        0       0                  0       0                 0`)
}

func TestEmpty(t *testing.T) {
	l := load(t)
	l.expect("service list", "No services in the datapath.")
	l.expect("backend list", "No backends in the datapath.")
	l.expect("flow list", "No flows.")
	for _, command := range []string{"service list", "backend list", "flow list"} {
		l.expect(command+" -o json", "[]") // not null, so that scripts can loop over it
		l.expect(command+" -o yaml", "[]")
	}
	_, err := run(t, "service", "get", "web", "--pin-dir", l.pinDir)
	if want := "service default/web is not in the datapath"; err == nil || err.Error() != want {
		t.Errorf("got error %v, want %s", err, want)
	}
}

func TestServiceTables(t *testing.T) {
	l := load(t)
	l.applySome()
	l.expect("service list", `
NAMESPACE     NAME   TYPE           CLUSTER-IP             EXTERNAL-IP   PORT(S)               ENDPOINTS
default       far    NodePort       10.96.0.2              <none>        80:30081/TCP          1 (0 local)
default       none   ClusterIP      10.96.0.3              192.0.2.9     80/SCTP               0 (0 local)
default       web    LoadBalancer   10.96.0.1,fd00:96::1   192.0.2.1     80:30080/TCP,80/TCP   2 (1 local)
kube-system   dns    ClusterIP      10.96.0.10             <none>        53/UDP,53/TCP         1 (1 local)`)
	l.expect("svc list -n kube-system -o wide", `
NAMESPACE     NAME   TYPE        CLUSTER-IP   EXTERNAL-IP   PORT(S)         ENDPOINTS     BACKENDS      ID    ACTIVE   NEW/S   PKT/S TO BACKEND   BIT/S   PKT/S TO CLIENT   BIT/S   REFUSED/S   DROPPED/S
kube-system   dns    ClusterIP   10.96.0.10   <none>        53/UDP,53/TCP   1 (1 local)   10.1.0.3:53   3,4   0        0       0                  0       0                 0       0           0`)
	l.expect("services list -n nowhere", "No services in the datapath.")
	l.expect("service get web", `
PORT   PROTOCOL   KIND           FRONTEND          FROM OUTSIDE                           FROM THIS NODE
http   TCP        ClusterIP      10.96.0.1:80      10.1.0.1:8080, 10.1.0.2:8080 (local)   10.1.0.1:8080, 10.1.0.2:8080 (local)
http   TCP        LoadBalancer   192.0.2.1:80      10.1.0.2:8080 (local)                  10.1.0.1:8080, 10.1.0.2:8080 (local)
http   TCP        NodePort       0.0.0.0:30080     10.1.0.2:8080 (local)                  10.1.0.1:8080, 10.1.0.2:8080 (local)
http   TCP        ClusterIP      [fd00:96::1]:80   [fd00:1::1]:8080                       [fd00:1::1]:8080`)
	l.expect("service get far", `
PORT        PROTOCOL   KIND        FRONTEND        FROM OUTSIDE    FROM THIS NODE
<unnamed>   TCP        ClusterIP   10.96.0.2:80    10.1.0.1:8080   10.1.0.1:8080
<unnamed>   TCP        NodePort    0.0.0.0:30081   <dropped>       10.1.0.1:8080`)
	l.expect("service get none", `
PORT        PROTOCOL   KIND         FRONTEND       FROM OUTSIDE   FROM THIS NODE
<unnamed>   SCTP       ClusterIP    10.96.0.3:80   <refused>      <refused>
<unnamed>   SCTP       ExternalIP   192.0.2.9:80   <refused>      <refused>`)
	l.expect("backend list", `
ID   SERVICE           PORT        PROTOCOL   ADDRESS            LOCAL   SERVING
6    default/far       <unnamed>   TCP        10.1.0.1:8080      false   true
1    default/web       http        TCP        10.1.0.1:8080      false   true
2    default/web       http        TCP        10.1.0.2:8080      true    true
3    default/web       http        TCP        [fd00:1::1]:8080   false   true
4    kube-system/dns   dns         UDP        10.1.0.3:53        true    true
5    kube-system/dns   dns-tcp     TCP        10.1.0.3:53        true    true`)
}

// TestGuardedService: the clients that may reach a service, and how long it remembers them, are
// shown where there is something to show.
func TestGuardedService(t *testing.T) {
	l := load(t)
	name := maps.Name{Namespace: "default", Name: "web", Port: "http", Proto: unix.IPPROTO_TCP, Family: maps.IPv4}
	svc := port(name, []string{"ClusterIP 10.96.0.1:80", "LoadBalancer 192.0.2.1:80"}, "10.1.0.1:8080")
	svc.Affinity = 10800
	svc.SourceRanges = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("203.0.113.0/24")}
	svc.Frontends[1].Guarded = true
	l.apply(svc)
	l.expect("service get web", `
PORT   PROTOCOL   KIND           FRONTEND       FROM OUTSIDE    FROM THIS NODE   CLIENTS                      AFFINITY
http   TCP        ClusterIP      10.96.0.1:80   10.1.0.1:8080   10.1.0.1:8080    <all>                        3h0m0s
http   TCP        LoadBalancer   192.0.2.1:80   10.1.0.1:8080   10.1.0.1:8080    10.0.0.0/8, 203.0.113.0/24   3h0m0s`)
	out := l.run("service get web -o yaml")
	for _, want := range []string{"affinitySeconds: 10800", "guarded: true", "sourceRanges:\n  - 10.0.0.0/8\n  - 203.0.113.0/24"} {
		if !strings.Contains(out, want) {
			t.Errorf("the YAML does not say %q:\n%s", want, out)
		}
	}
}

const farYAML = `
name: far
namespace: default
ports:
- backends:
  - address: 10.1.0.1:8080
    id: 6
    local: false
    protocol: TCP
    service: default/far
    serving: true
    sets:
    - cluster
  frontends:
  - address: 10.96.0.2:80
    externalBackends:
    - 6
    externalDrop: false
    internalBackends:
    - 6
    internalDrop: false
    kind: ClusterIP
  - address: 0.0.0.0:30081
    externalBackends: []
    externalDrop: true
    internalBackends:
    - 6
    internalDrop: false
    kind: NodePort
  id: 5
  ipFamily: IPv4
  protocol: TCP
type: NodePort`

// Scripts depend on these shapes: what is here may be added to, not changed.
func TestServiceShapes(t *testing.T) {
	l := load(t)
	l.applySome()
	l.expect("service get far -o yaml", farYAML)
	var fromJSON, fromYAML any
	l.must(json.Unmarshal([]byte(l.run("service get far -o json")), &fromJSON))
	l.must(yaml.Unmarshal([]byte(farYAML), &fromYAML))
	if diff := cmp.Diff(fromYAML, fromJSON); diff != "" {
		t.Errorf("JSON says something else than YAML (-yaml +json):\n%s", diff)
	}
	l.expect("service get none -o yaml", `
name: none
namespace: default
ports:
- backends: []
  frontends:
  - address: 10.96.0.3:80
    externalBackends: []
    externalDrop: false
    internalBackends: []
    internalDrop: false
    kind: ClusterIP
  - address: 192.0.2.9:80
    externalBackends: []
    externalDrop: false
    internalBackends: []
    internalDrop: false
    kind: ExternalIP
  id: 6
  ipFamily: IPv4
  protocol: SCTP
type: ClusterIP`)
	var list []serviceView
	l.must(json.Unmarshal([]byte(l.run("service list -o json")), &list))
	if len(list) != 4 {
		t.Errorf("%d services, want 4", len(list))
	}
}

// putFlow records a flow from a client to a cluster IP, in either family.
func (l *loaded) putFlow(v6 bool, sport uint16, service uint32) {
	l.t.Helper()
	now, hz, err := l.jiffies()
	l.must(err)
	// A packet of the future, so that the flow is not idle however long the test takes.
	head := bpf.Flow{Service: service, Backend: 1, LastSeen: now + 600*hz, Hop: 1<<32 | 5,
		Flags: bpf.FlowExpress, ToSport: wire(50000), ToDport: wire(8080), Sport: wire(sport), Dport: wire(80), Proto: unix.IPPROTO_TCP}
	hop := bpf.Nexthop{Generation: 1, Family: unix.AF_INET}
	hop.Hop = bpf.Hop{Ifindex: 2, Dmac: [6]uint8{2, 0, 0, 0, 0, 1}, Flags: bpf.HopResolved}
	l.must(l.dp.Map("nexthops").Put(uint32(5), hop))
	tag := bpf.WayLive | bpf.StateAnswered | bpf.StateConfirmed
	if v6 {
		var set bpf.FlowSet6
		set.Ways.Tag[0] = tag
		set.At[0] = bpf.Flow6{
			Flow: head, Saddr: words("2001:db8::1"), Daddr: words("fd00:96::1"), ToSaddr: words("fd00::2"), ToDaddr: words("fd00:1::1"),
		}
		l.must(l.dp.Map("flows6").Put(uint32(sport)%64, set))
		return
	}
	var set bpf.FlowSet4
	set.Ways.Tag[7] = tag
	set.At[7] = bpf.Flow4{
		Flow: head, Saddr: words4("192.0.2.7"), Daddr: words4("10.96.0.1"), ToSaddr: words4("10.0.0.1"), ToDaddr: words4("10.1.0.1"),
	}
	l.must(l.dp.Map("flows4").Put(uint32(sport)%64, set))
}

func (l *loaded) jiffies() (now, hz uint32, err error) {
	view, err := loader.Open(l.pinDir)
	if err != nil {
		return 0, 0, err
	}
	defer view.Close()
	return view.Jiffies()
}

func wire(port uint16) uint16 {
	return binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, port))
}

func words4(addr string) uint32 {
	return binary.NativeEndian.Uint32(netip.MustParseAddr(addr).AsSlice())
}

func words(addr string) (w [4]uint32) {
	raw := netip.MustParseAddr(addr).AsSlice()
	for i := range w {
		w[i] = binary.NativeEndian.Uint32(raw[4*i:])
	}
	return w
}

func TestFlowList(t *testing.T) {
	l := load(t)
	l.applySome()
	l.putFlow(false, 1001, 1)
	l.putFlow(true, 1002, 4711)
	l.expect("flow list", `
PROTOCOL   SEEN      SOURCE               DESTINATION       TO SOURCE         TO DESTINATION     PATH      STATE                IDLE
TCP        outside   192.0.2.7:1001       10.96.0.1:80      10.0.0.1:50000    10.1.0.1:8080      express   answered,confirmed   0s
TCP        outside   [2001:db8::1]:1002   [fd00:96::1]:80   [fd00::2]:50000   [fd00:1::1]:8080   express   answered,confirmed   0s`)
	l.expect("flow list -o wide --address 2001:db8::1", `
PROTOCOL   SEEN      SOURCE               DESTINATION       TO SOURCE         TO DESTINATION     PATH      STATE                IDLE   SERVICE   BACKEND   IFINDEX   NEXT HOP
TCP        outside   [2001:db8::1]:1002   [fd00:96::1]:80   [fd00::2]:50000   [fd00:1::1]:8080   express   answered,confirmed   0s     <none>    1         2         02:00:00:00:00:01`)
	l.expect("flow list --service default/web -o yaml", `
- backend: 1
  destination: 10.96.0.1:80
  idle: 0s
  ifindex: 2
  nextHop: "02:00:00:00:00:01"
  path: express
  protocol: TCP
  seen: outside
  service: default/web
  source: 192.0.2.7:1001
  state:
  - answered
  - confirmed
  toDestination: 10.1.0.1:8080
  toSource: 10.0.0.1:50000`)
	l.expect("flow list --service default/far", "No flows.")
	_, err := run(t, "flow", "list", "--address", "x", "--pin-dir", l.pinDir)
	if want := "--address x: not an IP address"; err == nil || err.Error() != want {
		t.Errorf("got error %v, want %s", err, want)
	}
}

func TestFlowLimit(t *testing.T) {
	l := load(t)
	for sport := range uint16(5) {
		l.putFlow(false, 1000+sport, 1)
		l.putFlow(true, 1000+sport, 1)
	}
	for limit, want := range map[int]int{0: 10, 1: 1, 5: 5, 7: 7, 100: 10} {
		var flows []flowView
		l.must(json.Unmarshal([]byte(l.run(fmt.Sprintf("flow list -o json --limit %d", limit))), &flows))
		if len(flows) != want {
			t.Errorf("limit %d: %d flows, want %d", limit, len(flows), want)
		}
	}
}
