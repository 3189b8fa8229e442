// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"context"
	"errors"
	"io"
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
	pace   pace
}

// run probes until ctx is done: seldom while all is well, often while it isn't.
func (p *probe) run(ctx context.Context) {
	for ctx.Err() == nil {
		wait := p.pace.probe
		started := time.Now()
		if err := p.ask(ctx); err != nil && ctx.Err() == nil {
			p.sight.fails(apiServer, started, reason(err))
			wait = p.pace.reprobe
		} else if err == nil {
			p.sight.works(apiServer)
		}
		select {
		case <-ctx.Done():
		case <-time.After(wait):
		}
	}
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
		return errors.New("not ready: " + resp.Status)
	}
	return nil
}
