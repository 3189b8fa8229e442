// SPDX-License-Identifier: Apache-2.0

// Package kube is the source of Kubernetes objects of a cluster: it follows an API server with
// client-go's informers.
//
// The addresses of Services don't work before a service proxy makes them work, that of the API
// server included. So the source gets real addresses of API servers, tries them in turn, and learns
// further ones from the endpoints of the `kubernetes` Service.
//
// While no API server can be reached the source delivers nothing, above all no deletion. Blind
// returns since when this is so.
package kube
