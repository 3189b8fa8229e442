// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"context"
	"net/http"
	"net/http/httptrace"
	"strings"
	"sync/atomic"
	"time"
)

// kinds are the kinds that the source follows, by the ends of their paths in the API.
var kinds = map[string]string{
	"/api/v1/services": services,
	"/api/v1/nodes":    nodes,
	"/apis/discovery.k8s.io/v1/endpointslices": endpointSlices,
	"/apis/networking.k8s.io/v1/servicecidrs":  serviceCIDRs,
}

const (
	services       = "services"
	nodes          = "nodes"
	endpointSlices = "endpointslices"
	serviceCIDRs   = "servicecidrs"
)

func kindOf(r *http.Request) string {
	if r.Method != http.MethodGet {
		return ""
	}
	for path, kind := range kinds {
		if strings.HasSuffix(r.URL.Path, path) {
			return kind
		}
	}
	return ""
}

// observer watches the requests of a client: client-go reports only some failures, and no success.
type observer struct {
	next     http.RoundTripper
	dialer   *dialer
	sight    *sight
	problems *problems
	done     context.Context // of the source
}

// RoundTrip implements http.RoundTripper.
func (o *observer) RoundTrip(r *http.Request) (*http.Response, error) {
	kind := kindOf(r)
	if kind != "" {
		o.hold(r.Context(), kind)
	}
	var used atomic.Value
	ctx, tried := withAttempt(r.Context())
	trace := &httptrace.ClientTrace{GotConn: func(info httptrace.GotConnInfo) {
		used.Store(info)
		tried.at(o.dialer.addressOf(info.Conn))
	}}
	started := time.Now()
	resp, err := o.next.RoundTrip(r.WithContext(httptrace.WithClientTrace(ctx, trace)))
	if info, ok := used.Load().(httptrace.GotConnInfo); ok && err == nil {
		o.dialer.answers(info.Conn)
	}
	if address := tried.address(); err != nil && address != "" && r.Context().Err() != context.Canceled {
		err = o.dialer.blame(address, err)
	}
	if kind != "" {
		o.note(r.Context(), kind, started, resp, err)
	}
	return resp, err
}

func (o *observer) hold(ctx context.Context, kind string) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(o.done, cancel)()
	o.sight.hold(ctx, kind)
}

// note handles the result of a request for a kind of object. If the server no longer has a version,
// or does not know a kind of request, client-go sends another request, so this is no failure.
func (o *observer) note(ctx context.Context, kind string, started time.Time, resp *http.Response, err error) {
	switch {
	case err != nil && (ctx.Err() != nil || o.done.Err() != nil):
	case err != nil:
		o.sight.fails(kind, started, reason(err))
	case resp.StatusCode < http.StatusBadRequest:
		o.sight.works(kind)
		o.problems.over(kind)
	case resp.StatusCode == http.StatusGone, resp.StatusCode == http.StatusUnprocessableEntity:
	case kind == serviceCIDRs && (resp.StatusCode == http.StatusNotFound || resp.StatusCode == http.StatusForbidden):
		o.sight.works(kind) // the agent gets all that it may get
		o.problems.found(kind, "the API server does not report the ranges of cluster IPs ("+resp.Status+"): set --service-cidrs")
	default:
		o.sight.fails(kind, started, resp.Status)
	}
}
