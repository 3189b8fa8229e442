// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"

	"k8s.io/client-go/kubernetes"

	"github.com/waggle-lb/waggle/test/topo"
)

// Where the processes listen, in a namespace that is theirs alone.
const (
	Port           = 6443
	etcdPort       = 2379
	etcdPeerPort   = 2380
	controllerPort = 10257
)

// ServiceCIDR4 and ServiceCIDR6 are where cluster IPs come from.
var (
	ServiceCIDR4 = netip.MustParsePrefix("10.96.0.0/16")
	ServiceCIDR6 = netip.MustParsePrefix("fd00:10:96::/112")
)

// Options are the choices of a control plane.
type Options struct {
	// Host is where it runs; see [topo.Network.AddMachine].
	Host *topo.Host
	// Binaries is the directory of kube-apiserver and kube-controller-manager.
	// etcd is found by the PATH.
	Binaries string
	// Dir is for data, keys and logs: a new one for each control plane.
	Dir string
}

// ControlPlane is a running etcd, API server and controller manager. Each can
// be stopped, killed and started again by itself.
type ControlPlane struct {
	Etcd, APIServer, Controllers *Process

	host   *topo.Host
	dir    string
	ca     *authority
	client *kubernetes.Clientset
}

// Start starts a control plane and waits until it is ready.
func Start(opts Options) (*ControlPlane, error) {
	cp := &ControlPlane{host: opts.Host, dir: opts.Dir}
	if err := cp.prepare(opts.Binaries); err != nil {
		return nil, fmt.Errorf("control plane: %w", err)
	}
	for _, p := range cp.processes() {
		if err := p.Start(); err != nil {
			return nil, errors.Join(fmt.Errorf("control plane: %w", err), cp.Stop())
		}
	}
	return cp, nil
}

func (cp *ControlPlane) processes() []*Process {
	return []*Process{cp.Etcd, cp.APIServer, cp.Controllers}
}

func (cp *ControlPlane) prepare(binaries string) (err error) {
	if cp.ca, err = newAuthority(); err != nil {
		return err
	}
	server, err := cp.ca.issue("kube-apiserver", nil, cp.host.IP4.AsSlice(), cp.host.IP6.AsSlice(), net.IPv4(127, 0, 0, 1))
	if err != nil {
		return err
	}
	if err := cp.writeFiles(server); err != nil {
		return err
	}
	if err := cp.WriteKubeconfig(cp.file("controllers.kubeconfig"), Admin); err != nil {
		return err
	}
	if cp.client, err = cp.ClientFor(Admin); err != nil {
		return err
	}
	cp.Etcd = cp.process("etcd", "etcd", cp.etcdArgs(), cp.healthy("http", etcdPort, "/health"))
	cp.APIServer = cp.process("kube-apiserver", filepath.Join(binaries, "kube-apiserver"), cp.apiServerArgs(),
		cp.healthy("https", Port, "/readyz"))
	cp.Controllers = cp.process("kube-controller-manager", filepath.Join(binaries, "kube-controller-manager"), cp.controllerArgs(),
		cp.healthy("https", controllerPort, "/healthz"))
	return nil
}

func (cp *ControlPlane) file(name string) string { return filepath.Join(cp.dir, name) }

// Client has all rights.
func (cp *ControlPlane) Client() *kubernetes.Clientset { return cp.client }

// URL is where nodes of the topology reach the API server.
func (cp *ControlPlane) URL() string {
	return "https://" + netip.AddrPortFrom(cp.host.IP4, Port).String()
}

// Host is where the control plane runs.
func (cp *ControlPlane) Host() *topo.Host { return cp.host }

// Stop ends all processes, the last one started first.
func (cp *ControlPlane) Stop() error {
	errs := []error{cp.Controllers.Stop(), cp.APIServer.Stop(), cp.Etcd.Stop()}
	return errors.Join(append(errs, os.RemoveAll(cp.file("etcd")))...)
}

// healthy asks an endpoint that answers 200 without credentials.
func (cp *ControlPlane) healthy(scheme string, port int, path string) func(context.Context) error {
	transport := &http.Transport{
		DialContext:       cp.host.DialContext,
		TLSClientConfig:   &tls.Config{InsecureSkipVerify: true}, // the controller manager signs its own
		DisableKeepAlives: true,
	}
	client := &http.Client{Transport: transport}
	url := scheme + "://" + net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) + path
	return func(ctx context.Context) error {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			return err
		}
		response, err := client.Do(request)
		if err != nil {
			return err
		}
		defer response.Body.Close()
		if response.StatusCode != http.StatusOK {
			return fmt.Errorf("%s: %s", url, response.Status)
		}
		return nil
	}
}
