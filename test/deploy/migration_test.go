// SPDX-License-Identifier: Apache-2.0

package deploy

import (
	"context"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/waggle-lb/waggle/control/status"
	"github.com/waggle-lb/waggle/test/apiserver"
	"github.com/waggle-lb/waggle/test/cluster"
	"github.com/waggle-lb/waggle/test/topo"
)

// kubeProxyHealthz is where kube-proxy answers, and waggle once it is gone.
const kubeProxyHealthz = "127.0.0.1:10256"

// TestMigration does what docs/kubernetes.md says under "In kube-proxy's place": on a node where
// kube-proxy runs, with kubeadm's configuration of kube-proxy put into the ConfigMap as it is, in a
// container that has what deploy/waggle.yaml and a kubelet give, and nothing else.
//
// Contract: 38.
func TestMigration(t *testing.T) {
	m := newMigration(t)
	readiness := m.spec.ReadinessProbe
	check(t, m.get(kubeProxyHealthz, "/healthz"))
	if err := m.probe(readiness); err == nil {
		t.Error("kube-proxy answers the readiness probe")
	}
	m.await(t, "through kube-proxy")

	// Without its rights the agent lives, and is not ready, whatever kube-proxy answers.
	stop, err := m.launch(t, m.args(t))
	check(t, err)
	check(t, m.awaitProbe("startup", m.spec.StartupProbe, true))
	check(t, m.awaitProbe("liveness", m.spec.LivenessProbe, true))
	if err := m.probe(readiness); err == nil || !strings.Contains(err.Error(), "the source has not delivered everything yet") {
		t.Errorf("without rights to list Services, the readiness probe answers: %v", err)
	}
	m.grant(t)
	check(t, m.awaitProbe("readiness", readiness, true))
	const ignored = "kubeconfig: /etc/waggle/config.yaml: ignored: clientConnection.kubeconfig: there is no file /var/lib/kube-proxy/kubeconfig.conf here"
	m.awaitWarnings(t, ignored, "serving healthz: ", "serving metrics: ")
	m.await(t, "with both")

	check(t, m.kubeProxy.Stop())
	m.awaitWarnings(t, ignored)
	check(t, m.get(kubeProxyHealthz, "/healthz"))
	check(t, m.probe(readiness))
	m.await(t, "through waggle")

	stop()
	for name, p := range m.probes() {
		if err := m.probe(p); err == nil {
			t.Errorf("the agent has ended, and the %s probe succeeds", name)
		}
	}
}

// migration is a container's node in a cluster whose service proxy is kube-proxy.
type migration struct {
	*container
	ctx       context.Context
	cp        *apiserver.ControlPlane
	kubeProxy *cluster.KubeProxy
	client    *topo.Client
}

func newMigration(t *testing.T) *migration {
	binaries := apiserver.Binaries(t)
	m := &migration{container: newContainer(t, read(t, "waggle.yaml").container().SecurityContext.Capabilities.Add), ctx: t.Context()}
	machine, err := m.network.AddMachine("control")
	check(t, err)
	m.cp, err = apiserver.Start(apiserver.Options{Host: machine, Binaries: binaries, Dir: t.TempDir()})
	check(t, err)
	t.Cleanup(func() { check(t, m.cp.Stop()) })
	check(t, m.cp.CreateNode(m.ctx, apiserver.NodeOf(m.node, "")))
	m.serve(t)
	m.giveCredentials(t)

	kubeconfig := filepath.Join(t.TempDir(), "kube-proxy.kubeconfig")
	check(t, m.cp.WriteKubeconfig(kubeconfig, apiserver.KubeProxy))
	m.kubeProxy, err = cluster.NewKubeProxy(m.node, filepath.Join(binaries, "kube-proxy"), kubeconfig, t.TempDir())
	check(t, err)
	check(t, m.kubeProxy.Start())
	t.Cleanup(func() { _ = m.kubeProxy.Stop() })
	check(t, m.kubeProxy.AwaitRules([]string{"30080"}))
	m.client, err = m.network.Laptop.Client()
	check(t, err)
	t.Cleanup(func() { check(t, m.client.Close()) })
	return m
}

// serve makes a Service with a node port, and the pod behind it.
func (m *migration) serve(t *testing.T) {
	t.Helper()
	pod, err := m.node.AddPod("web-a", topo.PodOptions{})
	check(t, err)
	_, err = pod.Serve(topo.Ports{HTTP: []uint16{8080}})
	check(t, err)
	selector := map[string]string{"app": "web"}
	check(t, m.cp.CreatePod(m.ctx, apiserver.PodOf(pod, selector)))
	_, err = m.cp.CreateService(m.ctx, &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: "web", Namespace: metav1.NamespaceDefault},
		Spec: corev1.ServiceSpec{Type: corev1.ServiceTypeNodePort, Selector: selector, Ports: []corev1.ServicePort{
			{Port: 80, TargetPort: intstr.FromInt32(8080), NodePort: 30080},
		}},
	})
	check(t, err)
}

// giveCredentials puts into the container what a kubelet does, and kubeadm's configuration into the
// ConfigMap's place.
func (m *migration) giveCredentials(t *testing.T) {
	t.Helper()
	o := read(t, "waggle.yaml")
	_, err := m.cp.Client().CoreV1().ServiceAccounts(o.serviceAccount.Namespace).Create(m.ctx, &o.serviceAccount, metav1.CreateOptions{})
	check(t, err)
	user, err := m.cp.ServiceAccount(m.ctx, o.serviceAccount.Namespace, o.serviceAccount.Name)
	check(t, err)
	credentials := t.TempDir()
	check(t, m.cp.WriteCredentials(credentials, o.serviceAccount.Namespace, user))
	m.bundle.Mounts = append(m.bundle.Mounts, bind{credentials, "/var/run/secrets/kubernetes.io/serviceaccount", true})
	m.bundle.Env = []string{
		"NODE_NAME=" + m.node.Name, "WAGGLE_API_SERVERS=" + m.cp.URL(),
		"KUBERNETES_SERVICE_HOST=10.96.0.1", "KUBERNETES_SERVICE_PORT=443",
	}
	kubeadm, err := os.ReadFile(filepath.Join(root, "control/config/testdata/kubeadm.yaml"))
	check(t, err)
	i := slices.IndexFunc(m.bundle.Mounts, func(b bind) bool { return b.Target == "/etc/waggle" })
	check(t, os.WriteFile(filepath.Join(m.bundle.Mounts[i].Source, "config.yaml"), kubeadm, 0o644))
}

// grant gives the service account its rights.
func (m *migration) grant(t *testing.T) {
	t.Helper()
	o, rbac := read(t, "waggle.yaml"), m.cp.Client().RbacV1()
	_, err := rbac.ClusterRoles().Create(m.ctx, &o.role, metav1.CreateOptions{})
	check(t, err)
	_, err = rbac.ClusterRoleBindings().Create(m.ctx, &o.binding, metav1.CreateOptions{})
	check(t, err)
}

// await waits until the node port answers.
func (m *migration) await(t *testing.T, how string) {
	t.Helper()
	to := netip.AddrPortFrom(m.node.IP4, 30080)
	awaitServed(t, how, func() topo.Reply { return m.client.Get(topo.Request{To: to}) })
}

// awaitWarnings waits until the agent has these warnings. That kube-proxy's rules are there is one more,
// which goes a minute after them; others are not expected.
func (m *migration) awaitWarnings(t *testing.T, want ...string) {
	t.Helper()
	var got []string
	err := m.agent.Await("its warnings", func(s *status.Status) bool {
		got = slices.DeleteFunc(s.Warnings, func(w string) bool { return strings.HasPrefix(w, "kube-proxy: its rules") })
		return slices.EqualFunc(got, want, strings.HasPrefix) // both are sorted
	})
	if err != nil {
		t.Errorf("warnings\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}
