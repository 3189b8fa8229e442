// SPDX-License-Identifier: Apache-2.0

// Package source defines what a source of Kubernetes objects owes its consumer, so that a
// directory of YAML and an API server can stand in for each other.
package source

import (
	"context"
	"time"

	v1 "k8s.io/api/core/v1"
	discovery "k8s.io/api/discovery/v1"
)

// Sink receives the changes of objects. A nil old object means an addition, a nil new one a
// deletion. Calls come one at a time, in the order of the changes, and the receiver must not
// modify the objects.
type Sink interface {
	OnService(old, new *v1.Service)
	OnEndpointSlice(old, new *discovery.EndpointSlice)
	OnNode(old, new *v1.Node)
	// OnSynced tells that everything that exists has been delivered once. It is called once.
	OnSynced()
}

// Source delivers objects to a Sink.
type Source interface {
	// Run delivers objects until ctx is done. It returns an error only where the source
	// can't work at all; trouble with a single object is a Problem.
	Run(ctx context.Context, sink Sink) error
	// Problems lists what is wrong with the objects now. It may be called at any time.
	Problems() []Problem
}

// Problem is one defect of one object. The last good state of that object stays in force.
type Problem struct {
	// File and Document (counted from 1) say where the object was read, if in a file.
	File     string `json:"file,omitempty"`
	Document int    `json:"document,omitempty"`
	// Object is kind and namespace/name, as in "Service default/web".
	Object string `json:"object,omitempty"`
	// Field is the path of the field at fault, as in "spec.ports[0].nodePort".
	Field   string    `json:"field,omitempty"`
	Message string    `json:"message"`
	Since   time.Time `json:"since"`
}
