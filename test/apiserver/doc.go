// SPDX-License-Identifier: Apache-2.0

// Package apiserver runs a real control plane inside a test topology: etcd,
// kube-apiserver and kube-controller-manager in the namespace of a machine on
// the topology's Ethernet, so that nodes reach it as they would in a cluster.
//
//	machine, err := network.AddMachine("control")
//	cp, err := apiserver.Start(apiserver.Options{Host: machine, Binaries: dir, Dir: t.TempDir()})
//	defer cp.Stop()
//	cp.Client().CoreV1().Services("default").Create(...)
//	err = cp.WriteKubeconfig(file, apiserver.Admin)
//
// There is no scheduler and no kubelet: tests make Pod objects that are bound
// and ready, and namespaces that serve at their addresses (see [PodOf]). The
// EndpointSlices are the real controller's.
package apiserver
