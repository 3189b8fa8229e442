// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"fmt"
	"strings"
)

func (cp *ControlPlane) etcdArgs() []string {
	client, peer := fmt.Sprintf("http://127.0.0.1:%d", etcdPort), fmt.Sprintf("http://127.0.0.1:%d", etcdPeerPort)
	return []string{
		"--name=test", "--data-dir=" + cp.file("etcd"),
		"--listen-client-urls=" + client, "--advertise-client-urls=" + client,
		"--listen-peer-urls=" + peer, "--initial-advertise-peer-urls=" + peer, "--initial-cluster=test=" + peer,
		"--log-level=warn",
	}
}

func (cp *ControlPlane) apiServerArgs() []string {
	return []string{
		fmt.Sprintf("--etcd-servers=http://127.0.0.1:%d", etcdPort),
		"--bind-address=::", fmt.Sprintf("--secure-port=%d", Port),
		"--advertise-address=" + cp.host.IP4.String(),
		"--cert-dir=" + cp.dir,
		"--tls-cert-file=" + cp.file("server.crt"), "--tls-private-key-file=" + cp.file("server.key"),
		"--client-ca-file=" + cp.file("ca.crt"),
		"--service-account-issuer=https://kubernetes.default.svc",
		"--service-account-key-file=" + cp.file("tokens.key"),
		"--service-account-signing-key-file=" + cp.file("tokens.key"),
		"--authorization-mode=RBAC",
		// Pods without a service account: nothing here reads its token.
		"--disable-admission-plugins=ServiceAccount",
		fmt.Sprintf("--service-cluster-ip-range=%s,%s", ServiceCIDR4, ServiceCIDR6),
		"--allow-privileged",
	}
}

// controllers are those that tests need. Above all the node life cycle isn't
// among them: no kubelet renews the nodes' leases.
var controllers = []string{
	"endpointslice-controller", "endpointslice-mirroring-controller", "endpoints-controller",
	"serviceaccount-controller", "namespace-controller", "service-cidr-controller",
	"garbage-collector-controller", "daemonset-controller",
}

func (cp *ControlPlane) controllerArgs() []string {
	return []string{
		"--kubeconfig=" + cp.file("controllers.kubeconfig"),
		"--controllers=" + strings.Join(controllers, ","),
		"--bind-address=127.0.0.1", fmt.Sprintf("--secure-port=%d", controllerPort),
		"--cert-dir=" + cp.dir,
		"--leader-elect=false",
		// Tests change objects faster than the defaults allow to follow.
		"--kube-api-qps=500", "--kube-api-burst=1000",
		"--concurrent-service-endpoint-syncs=10",
	}
}
