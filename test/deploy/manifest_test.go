// SPDX-License-Identifier: Apache-2.0

package deploy

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	v1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	kubeproxyv1alpha1 "k8s.io/kube-proxy/config/v1alpha1"
	"sigs.k8s.io/yaml"

	"github.com/waggle-lb/waggle/control/config"
	"github.com/waggle-lb/waggle/control/kube"
)

// objects are what a manifest holds.
type objects struct {
	daemonSet      appsv1.DaemonSet
	configMap      v1.ConfigMap
	serviceAccount v1.ServiceAccount
	role           rbacv1.ClusterRole
	binding        rbacv1.ClusterRoleBinding
	namespaced     rbacv1.Role
	localBinding   rbacv1.RoleBinding
	service        v1.Service
	kinds          []string
}

// containers are those with waggle in them.
func (o *objects) containers() []v1.Container {
	pod := o.daemonSet.Spec.Template.Spec
	all := slices.Concat(pod.InitContainers, pod.Containers)
	return slices.DeleteFunc(all, func(c v1.Container) bool { return !strings.HasPrefix(c.Image, "waggle:") })
}

// container is the first of them.
func (o *objects) container() v1.Container { return o.containers()[0] }

// read reads a manifest as the API would with strict validation of fields.
func read(t *testing.T, name string) *objects {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join(root, "deploy", name))
	check(t, err)
	var o objects
	for _, document := range regexp.MustCompile(`(?m)^---$`).Split(string(raw), -1)[1:] {
		var meta metav1.TypeMeta
		check(t, yaml.Unmarshal([]byte(document), &meta))
		into := map[string]any{
			"ConfigMap": &o.configMap, "ServiceAccount": &o.serviceAccount, "ClusterRole": &o.role,
			"ClusterRoleBinding": &o.binding, "DaemonSet": &o.daemonSet, "Role": &o.namespaced, "RoleBinding": &o.localBinding,
			"Service": &o.service,
		}[meta.Kind]
		if into == nil {
			t.Fatalf("%s: no test knows kind %q", name, meta.Kind)
		}
		if err := yaml.UnmarshalStrict([]byte(document), into); err != nil {
			t.Fatalf("%s: %s: %v", name, meta.Kind, err)
		}
		o.kinds = append(o.kinds, meta.APIVersion+" "+meta.Kind)
	}
	return &o
}

var manifests = []string{"waggle.yaml", "cleanup.yaml", "handover.yaml"}

func TestManifestsAreStrict(t *testing.T) {
	o := read(t, "waggle.yaml")
	want := []string{"v1 ConfigMap", "v1 ServiceAccount", "rbac.authorization.k8s.io/v1 ClusterRole",
		"rbac.authorization.k8s.io/v1 ClusterRoleBinding", "apps/v1 DaemonSet"}
	if diff := cmp.Diff(want, o.kinds); diff != "" {
		t.Error(diff)
	}
	for _, name := range manifests[1:] {
		if got := read(t, name).kinds; !slices.Equal(got, []string{"apps/v1 DaemonSet"}) {
			t.Errorf("%s: %v", name, got)
		}
	}
}

// TestReferences: names that one object gives and another uses.
func TestReferences(t *testing.T) {
	for _, name := range manifests {
		o := read(t, name)
		spec := o.daemonSet.Spec
		for k, v := range spec.Selector.MatchLabels {
			if spec.Template.Labels[k] != v {
				t.Errorf("%s: the selector wants %s=%s, which its pods don't have", name, k, v)
			}
		}
		volumes := map[string]bool{}
		for _, v := range spec.Template.Spec.Volumes {
			volumes[v.Name] = true
		}
		mounted := map[string]bool{}
		for _, c := range o.containers() {
			for _, m := range c.VolumeMounts {
				if mounted[m.Name] = true; !volumes[m.Name] {
					t.Errorf("%s: there is no volume %s to mount", name, m.Name)
				}
			}
		}
		if len(mounted) < len(volumes) {
			t.Errorf("%s: of the volumes %v only %v are mounted", name, volumes, mounted)
		}
	}
	o := read(t, "waggle.yaml")
	subject := rbacv1.Subject{Kind: "ServiceAccount", Name: o.serviceAccount.Name, Namespace: o.serviceAccount.Namespace}
	if len(o.binding.Subjects) != 1 || o.binding.Subjects[0] != subject || o.binding.RoleRef.Name != o.role.Name {
		t.Errorf("the binding is %+v", o.binding)
	}
	if got := o.daemonSet.Spec.Template.Spec.ServiceAccountName; got != o.serviceAccount.Name {
		t.Errorf("pods run as %q", got)
	}
	for _, e := range o.container().Env {
		if ref := e.ValueFrom.ConfigMapKeyRef; ref != nil {
			if _, ok := o.configMap.Data[ref.Key]; !ok || ref.Name != o.configMap.Name {
				t.Errorf("%s: the ConfigMap has no %s", e.Name, ref.Key)
			}
		}
	}
}

// TestRights: what the source asks of the API server, and nothing else.
func TestRights(t *testing.T) {
	want := []string{
		"discovery.k8s.io/endpointslices list", "discovery.k8s.io/endpointslices watch",
		"core/nodes list", "core/nodes watch", "core/services list", "core/services watch",
		"events.k8s.io/events create", "events.k8s.io/events patch", "events.k8s.io/events update",
		"networking.k8s.io/servicecidrs list", "networking.k8s.io/servicecidrs watch",
	}
	slices.Sort(want)
	if diff := cmp.Diff(want, rights(read(t, "waggle.yaml").role.Rules)); diff != "" {
		t.Error(diff)
	}
}

// TestRightsForAddresses: what --load-balancer-pools asks for beside that.
func TestRightsForAddresses(t *testing.T) {
	o := read(t, "addresses.yaml")
	if diff := cmp.Diff([]string{
		"cilium.io/ciliuml2announcementpolicies list", "cilium.io/ciliuml2announcementpolicies watch",
		"cilium.io/ciliumloadbalancerippools list", "cilium.io/ciliumloadbalancerippools watch",
		"core/namespaces list", "core/namespaces watch", "core/pods list", "core/services/status patch",
		"metallb.io/ipaddresspools list", "metallb.io/ipaddresspools watch",
		"metallb.io/l2advertisements list", "metallb.io/l2advertisements watch",
	}, rights(o.role.Rules)); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{
		"coordination.k8s.io/leases create",
		"coordination.k8s.io/leases get waggle-addresses", "coordination.k8s.io/leases update waggle-addresses",
		"core/configmaps get cilium-config",
	}, rights(o.namespaced.Rules)); diff != "" {
		t.Error(diff)
	}
	agents := read(t, "waggle.yaml")
	account, labels := agents.serviceAccount, agents.daemonSet.Spec.Template.Labels
	if s := o.service; s.Name != kube.MembersService || s.Namespace != account.Namespace || s.Spec.ClusterIP != v1.ClusterIPNone ||
		!s.Spec.PublishNotReadyAddresses || len(s.Spec.Selector) == 0 {
		t.Errorf("agents do not find each other by the Service %+v", s)
	}
	for label, value := range o.service.Spec.Selector {
		if labels[label] != value {
			t.Errorf("the Service selects %s: %s, and the agents have %q", label, value, labels[label])
		}
	}
	subject := []rbacv1.Subject{{Kind: "ServiceAccount", Name: account.Name, Namespace: account.Namespace}}
	if !slices.Equal(o.binding.Subjects, subject) || o.binding.RoleRef.Name != o.role.Name {
		t.Errorf("the binding is %+v", o.binding)
	}
	if !slices.Equal(o.localBinding.Subjects, subject) || o.localBinding.RoleRef.Name != o.namespaced.Name || o.localBinding.Namespace != account.Namespace || o.namespaced.Namespace != account.Namespace {
		t.Errorf("the binding is %+v", o.localBinding)
	}
	if !strings.Contains(rawManifest(t, "waggle.yaml"), "# - --load-balancer-pools\n") {
		t.Error("deploy/waggle.yaml doesn't name the flag")
	}
}

func rawManifest(t *testing.T, name string) string {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join(root, "deploy", name))
	check(t, err)
	return string(raw)
}

// rights are what rules allow, each as group/resource, verb, and the name if it is for one object.
func rights(rules []rbacv1.PolicyRule) (all []string) {
	for _, rule := range rules {
		for _, group := range rule.APIGroups {
			for _, resource := range rule.Resources {
				for _, verb := range rule.Verbs {
					if group == "" {
						group = "core"
					}
					all = append(all, strings.Join(append([]string{group + "/" + resource, verb}, rule.ResourceNames...), " "))
				}
			}
		}
		all = append(all, rule.NonResourceURLs...)
	}
	slices.Sort(all)
	return all
}

// TestConfigurationIsStrict: the file that the ConfigMap mounts is what the agent's flag names.
func TestConfigurationIsStrict(t *testing.T) {
	o := read(t, "waggle.yaml")
	var cfg kubeproxyv1alpha1.KubeProxyConfiguration
	check(t, yaml.UnmarshalStrict([]byte(o.configMap.Data["config.yaml"]), &cfg))
	if cfg.Kind != "KubeProxyConfiguration" || cfg.APIVersion != kubeproxyv1alpha1.SchemeGroupVersion.String() {
		t.Errorf("%+v", cfg.TypeMeta)
	}
	if !slices.Contains(o.container().Args, "--config=/etc/waggle/config.yaml") {
		t.Errorf("args %v", o.container().Args)
	}
}

// TestFlags: each flag and subcommand of the manifests exists.
func TestFlags(t *testing.T) {
	for _, name := range manifests {
		for _, c := range read(t, name).containers() {
			known := flags(t, c.Args[0])
			for _, arg := range c.Args[1:] {
				flag, _, _ := strings.Cut(arg, "=")
				if !known[flag] {
					t.Errorf("%s: waggle %s has no %s", name, c.Args[0], flag)
				}
			}
		}
	}
}

// TestProbes: the kubelet asks waggle, at an address that kube-proxy does not listen on. Where both
// run, kube-proxy's answers would make a broken agent ready.
func TestProbes(t *testing.T) {
	container := read(t, "waggle.yaml").container()
	served := ""
	for _, arg := range container.Args {
		if address, ok := strings.CutPrefix(arg, "--probe-bind-address="); ok {
			served = address
		}
	}
	kubeProxys, err := config.Default()
	check(t, err)
	for name, p := range map[string]*v1.Probe{
		"startup": container.StartupProbe, "liveness": container.LivenessProbe, "readiness": container.ReadinessProbe,
	} {
		address := probeAddress(container, p.HTTPGet)
		if address != served {
			t.Errorf("%s: %s is asked, and served is %q", name, address, served)
		}
		for _, other := range []string{kubeProxys.HealthzBindAddress, kubeProxys.MetricsBindAddress} {
			if netip.MustParseAddrPort(address).Port() == netip.MustParseAddrPort(other).Port() {
				t.Errorf("%s: %s is asked, which kube-proxy may have (%s)", name, address, other)
			}
		}
	}
}

// probeAddress is where a kubelet asks, whose own host is the pod's.
func probeAddress(container v1.Container, get *v1.HTTPGetAction) string {
	port := get.Port.IntValue()
	for _, p := range container.Ports {
		if p.Name == get.Port.StrVal {
			port = int(p.ContainerPort)
		}
	}
	return net.JoinHostPort(get.Host, strconv.Itoa(port))
}

// flags lists what a subcommand takes.
func flags(t *testing.T, subcommand string) map[string]bool {
	t.Helper()
	help, err := exec.Command(binary, subcommand, "--help").CombinedOutput()
	check(t, err)
	known := map[string]bool{}
	for _, match := range regexp.MustCompile(`(?m)^ +(?:-\w, )?(--[a-z0-9-]+)`).FindAllStringSubmatch(string(help), -1) {
		known[match[1]] = true
	}
	if !known["--pin-dir"] {
		t.Fatalf("waggle %s --help is not understood: %s", subcommand, help)
	}
	return known
}

// TestDocumentation: docs/kubernetes.md says what each privilege and each mount is for, and names
// nothing that is not in the manifest.
func TestDocumentation(t *testing.T) {
	raw, err := os.ReadFile(filepath.Join(root, "docs/kubernetes.md"))
	check(t, err)
	documented := map[string]bool{}
	for _, match := range regexp.MustCompile("(?m)^\\| `(CAP_[A-Z_]+)` \\|").FindAllStringSubmatch(string(raw), -1) {
		documented[match[1]] = true
	}
	o := read(t, "waggle.yaml")
	for _, capability := range o.container().SecurityContext.Capabilities.Add {
		if name := "CAP_" + string(capability); !documented[name] {
			t.Errorf("the manifest adds %s; the documentation doesn't say why", name)
		} else {
			delete(documented, name)
		}
	}
	if len(documented) > 0 {
		t.Errorf("documented, and not added: %v", documented)
	}
	for _, v := range o.daemonSet.Spec.Template.Spec.Volumes {
		if v.HostPath != nil && !strings.Contains(string(raw), fmt.Sprintf("| `%s` |", v.HostPath.Path)) {
			t.Errorf("the documentation doesn't say what %s is mounted for", v.HostPath.Path)
		}
	}
}
