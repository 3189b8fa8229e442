// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"time"
)

// probe finds out whether the API server answers. The connections of watches alone don't show it:
// nothing need happen on them for minutes.
type probe struct {
	client *http.Client
	url    *url.URL
	sight  *sight
	dialer *dialer
	pace   pace
	advice string // how to set addresses, for messages; may be empty
}

// run probes until ctx is done. When the API server fails, it probes again soon, and then at growing
// intervals: when the server is gone all agents of the cluster probe, and must not keep it from coming
// back.
func (p *probe) run(ctx context.Context) {
	again := p.pace.reprobe
	for ctx.Err() == nil {
		wait := p.pace.probe
		started := time.Now()
		if err := p.ask(ctx); err != nil && ctx.Err() == nil {
			why := p.why(err)
			p.sight.fails(apiServer, started, why)
			p.sight.explain(apiServer, why)
			wait, again = again, min(2*again, p.pace.longest)
		} else if err == nil {
			p.sight.works(apiServer)
			again = p.pace.reprobe
		}
		select {
		case <-ctx.Done():
		case <-time.After(about(wait)):
		}
	}
}

// about returns a random duration whose average is d, so that agents which began at the same time
// drift apart.
func about(d time.Duration) time.Duration { return d/2 + rand.N(d) }

// errNotReady: the API server answers that it is not ready.
var errNotReady = errors.New("not ready")

// why describes all addresses that fail: each probe tries another one, if they don't connect.
func (p *probe) why(err error) string {
	why := p.dialer.failing()
	if why == "" || errors.Is(err, errNotReady) {
		return reason(err)
	}
	if p.advice != "" {
		why += "; " + p.advice
	}
	return why
}

// ask requests the server's own readiness. A refusal for lack of rights is an answer, too. It fails with errNotReady
// if the server answers that it is not ready.
func (p *probe) ask(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, p.pace.answer)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, p.url.JoinPath("readyz").String(), nil)
	if err != nil {
		return err
	}
	resp, err := p.client.Do(r)
	if err != nil {
		if e := (*url.Error)(nil); errors.As(err, &e) {
			err = e.Err
		}
		return err
	}
	defer resp.Body.Close()
	_, _ = io.Copy(io.Discard, resp.Body)
	if resp.StatusCode >= http.StatusInternalServerError {
		return &said{errNotReady, "not ready: " + resp.Status}
	}
	return nil
}
