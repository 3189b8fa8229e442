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

// probe finds out whether the API server answers. The connections of watches alone would not
// tell: nothing need happen on them for minutes.
type probe struct {
	client *http.Client
	url    *url.URL
	sight  *sight
	dialer *dialer
	pace   pace
	advice string // where it can't be reached; empty: none
}

// run probes until ctx is done. An API server that fails is asked soon, and then ever less often: when
// it is gone all agents of the cluster ask, and must not keep it from coming back.
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

// about is as long as d on the average. Agents that began at the same time don't go on so.
func about(d time.Duration) time.Duration { return d/2 + rand.N(d) }

// errNotReady is what an API server says of itself.
var errNotReady = errors.New("not ready")

// why tells of all addresses that fail: each probe asks another one, if they connect.
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

// ask is for the server's own opinion of itself. Who is not allowed to know it has got an answer.
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
