// SPDX-License-Identifier: Apache-2.0

// Package manifest is the source of Kubernetes objects for machines without a cluster: it reads
// YAML and JSON from a directory, follows its changes, and does for Services what an API server
// and its controllers would do.
//
// What it takes are v1 Service, Pod, Node and Namespace, discovery.k8s.io/v1 EndpointSlice, and the
// documents of package pools, in any
// *.yaml, *.yml or *.json file of the directory and its sub-directories, several documents or
// Lists to a file. Names that begin with a dot are passed over. Other kinds are ignored, since
// people keep them in the same files.
//
// Some things differ from a cluster, because nobody else is there to do them:
//
//   - A Pod without a Ready condition counts as ready: no kubelet will ever write one.
//   - spec.loadBalancerIP becomes status.loadBalancer.ingress where the file gives none: there
//     is no cloud controller to do so.
//   - Pods are not validated as something to run, but as a set of labels, addresses and ports.
//   - A nodePort may be shared by two Services if the protocols differ.
//   - Two clusterIPs without an ipFamilyPolicy mean RequireDualStack, and clusterIPs alone is
//     enough where the API asks for clusterIP too.
//
// Cluster IPs and node ports are allocated as an API server would, and addresses of load balancers from
// pools, by a hash of the name so that
// nodes which read copies of one directory come to the same answers, and kept in a file so that
// they outlive a restart.
//
// Trouble with a file or an object never takes down what works: the last good state stays in
// force, over a restart too, and Problems tells what is wrong and since when. When most of the
// directory is gone at once, that is trouble with it: see Brake.
package manifest
