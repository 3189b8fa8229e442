// SPDX-License-Identifier: Apache-2.0

// Package names answers DNS queries for the names of Services, as the Kubernetes DNS-Based Service Discovery
// specification 1.1.0 has it (github.com/kubernetes/dns, docs/specification.md), and passes other queries on to the
// node's resolvers. A [Zone] is a function of the objects: objects in, answers out. A [Server] is its listener, and
// adds the Service by which clients reach that listener.
package names
