// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

// User identifies a client: a name and groups in a client certificate, or a token.
type User struct {
	Name   string
	Groups []string
	Token  string // instead of a certificate
}

var (
	// Admin may do everything.
	Admin = User{Name: "admin", Groups: []string{"system:masters"}}
	// KubeProxy has the rights that Kubernetes itself gives to kube-proxy.
	KubeProxy = User{Name: "system:kube-proxy"}
)

// ServiceAccount is a service account as a user, with a token that outlives any test.
func (cp *ControlPlane) ServiceAccount(ctx context.Context, namespace, name string) (User, error) {
	seconds := int64(validity.Seconds())
	request := &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{ExpirationSeconds: &seconds}}
	response, err := cp.client.CoreV1().ServiceAccounts(namespace).CreateToken(ctx, name, request, metav1.CreateOptions{})
	if err != nil {
		return User{}, fmt.Errorf("token of service account %s/%s: %w", namespace, name, err)
	}
	return User{Name: name, Token: response.Status.Token}, nil
}

// Config is a client's configuration for this process, which dials from inside
// the control plane's namespace.
func (cp *ControlPlane) Config(user User) (*rest.Config, error) {
	c := &rest.Config{
		Host:            cp.URL(),
		TLSClientConfig: rest.TLSClientConfig{CAData: cp.ca.pem()},
		BearerToken:     user.Token,
		Dial:            cp.host.DialContext,
		QPS:             -1, // tests decide themselves how fast they are
		UserAgent:       "waggle-test",
		WarningHandler:  rest.NoWarnings{}, // of fields that are deprecated, and to be tested
	}
	if user.Token == "" {
		p, err := cp.ca.issue(user.Name, user.Groups)
		if err != nil {
			return nil, err
		}
		c.CertData, c.KeyData = p.cert, p.key
	}
	return c, nil
}

// ClientFor is a client for this process.
func (cp *ControlPlane) ClientFor(user User) (*kubernetes.Clientset, error) {
	config, err := cp.Config(user)
	if err != nil {
		return nil, err
	}
	return kubernetes.NewForConfig(config)
}

// WriteCredentials writes what a kubelet puts into each pod's
// /var/run/secrets/kubernetes.io/serviceaccount.
func (cp *ControlPlane) WriteCredentials(dir, namespace string, user User) error {
	for name, content := range map[string][]byte{
		corev1.ServiceAccountTokenKey: []byte(user.Token), corev1.ServiceAccountRootCAKey: cp.ca.pem(),
		corev1.ServiceAccountNamespaceKey: []byte(namespace),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			return err
		}
	}
	return nil
}

// WriteKubeconfig writes a kubeconfig file for a process on a node or machine
// of the topology.
func (cp *ControlPlane) WriteKubeconfig(file string, user User) error {
	auth := &clientcmdapi.AuthInfo{Token: user.Token}
	if user.Token == "" {
		p, err := cp.ca.issue(user.Name, user.Groups)
		if err != nil {
			return err
		}
		auth.ClientCertificateData, auth.ClientKeyData = p.cert, p.key
	}
	const name = "test"
	return clientcmd.WriteToFile(clientcmdapi.Config{
		Clusters:       map[string]*clientcmdapi.Cluster{name: {Server: cp.URL(), CertificateAuthorityData: cp.ca.pem()}},
		AuthInfos:      map[string]*clientcmdapi.AuthInfo{name: auth},
		Contexts:       map[string]*clientcmdapi.Context{name: {Cluster: name, AuthInfo: name}},
		CurrentContext: name,
	}, file)
}
