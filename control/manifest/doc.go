// SPDX-License-Identifier: Apache-2.0

// Package manifest is the source of Kubernetes objects for machines without a cluster: it reads
// YAML and JSON from a directory, follows its changes, and does for Services what an API server
// and its controllers would do.
//
// It reads v1 Service, Pod, Node and Namespace, discovery.k8s.io/v1 EndpointSlice, and the documents of
// package pools, in any *.yaml, *.yml or *.json file of the directory and its sub-directories. A file may
// hold several documents or Lists. The source skips names that begin with a dot, and ignores other kinds,
// since users keep them in the same files.
//
// Some things differ from a cluster, because there are no kubelets and controllers:
//
//   - A Pod without a Ready condition counts as ready: no kubelet writes one.
//   - spec.loadBalancerIP becomes status.loadBalancer.ingress if the file gives none: there is no cloud
//     controller to set it.
//   - A Pod is validated as a set of labels, addresses and ports, not as a workload.
//   - Two Services may share a nodePort if the protocols differ.
//   - Two clusterIPs without an ipFamilyPolicy mean RequireDualStack, and clusterIPs is enough without
//     clusterIP, which the API requires.
//
// The source allocates cluster IPs and node ports as an API server would, and load balancer addresses from
// pools. It chooses them by a hash of the name, so that nodes which read copies of one directory choose the
// same, and keeps them in a file over restarts.
//
// A fault in a file or an object does not change what works: the last good state stays in force, over a
// restart too, and Problems reports the fault and since when it exists. When most of the directory is gone at
// once, that counts as a fault of the directory: see Brake.
package manifest
