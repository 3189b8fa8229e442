// SPDX-License-Identifier: Apache-2.0

package control

import (
	"strings"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/events"

	"github.com/waggle-lb/waggle/maps"
)

// The reasons of events on Services, and what we were about to do.
const (
	reasonNotServed = "NotServed" // a frontend is another service's, a map is full
	actionServe     = "Serve"

	maxNote = 1024 // bytes, by the API server's validation of events
)

// serviceEvents writes an event on a Service for each part of it that is not served. Without a
// recorder it does nothing.
type serviceEvents struct {
	recorder events.EventRecorder
	// uids of Services: `kubectl describe` shows only events that carry the object's.
	uids map[types.NamespacedName]types.UID
}

func (e *serviceEvents) follow(old, new *v1.Service) {
	if e.recorder == nil {
		return
	}
	if new != nil {
		e.uids[types.NamespacedName{Namespace: new.Namespace, Name: new.Name}] = new.UID
		return
	}
	delete(e.uids, types.NamespacedName{Namespace: old.Namespace, Name: old.Name})
}

func (e *serviceEvents) warn(name maps.Name, reason, message string) {
	if e.recorder == nil {
		return
	}
	uid, known := e.uids[types.NamespacedName{Namespace: name.Namespace, Name: name.Name}]
	if !known {
		return // it is being deleted: there is no object to show the event with
	}
	if len(message) > maxNote {
		message = strings.ToValidUTF8(message[:maxNote], "")
	}
	service := &v1.ObjectReference{
		APIVersion: "v1", Kind: "Service", Namespace: name.Namespace, Name: name.Name, UID: uid,
	}
	e.recorder.Eventf(service, nil, v1.EventTypeWarning, reason, actionServe, "%s", message)
}

// RecordTo also reports as events what can't be served. Call it before the source runs.
func (p *Proxy) RecordTo(recorder events.EventRecorder) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.events = serviceEvents{recorder: recorder, uids: map[types.NamespacedName]types.UID{}}
}
