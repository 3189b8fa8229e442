// SPDX-License-Identifier: Apache-2.0

package topo

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptrace"

	"golang.org/x/sys/unix"
)

// requestKey is the context key for a dialer's Request.
type requestKey struct{}

func dialHTTP(ctx context.Context, _, _ string) (net.Conn, error) {
	return dial(ctx.Value(requestKey{}).(Request), unix.SOCK_STREAM, true)
}

// httpClients are one client that closes its connections and one that keeps
// them.
type httpClients struct{ once, keeping http.Client }

func newHTTPClients() *httpClients {
	return &httpClients{
		once:    http.Client{Transport: &http.Transport{DialContext: dialHTTP, DisableKeepAlives: true}},
		keeping: http.Client{Transport: &http.Transport{DialContext: dialHTTP}},
	}
}

func (c *httpClients) do(r Request, method string, reply *Reply) error {
	ctx, cancel := context.WithTimeout(context.WithValue(context.Background(), requestKey{}, r), r.timeout())
	defer cancel()
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{GotConn: func(info httptrace.GotConnInfo) {
		reply.Local, reply.Peer = addrPort(info.Conn.LocalAddr()), addrPort(info.Conn.RemoteAddr())
		reply.Reused = info.Reused
	}})
	seed := rand.Uint64()
	request, err := r.httpRequest(ctx, method, seed)
	if err != nil {
		return err
	}
	client := &c.once
	if r.KeepAlive {
		client = &c.keeping
	}
	response, err := client.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	return r.checkResponse(response, seed, reply)
}

func (r Request) httpRequest(ctx context.Context, method string, seed uint64) (*http.Request, error) {
	var body io.Reader
	if method == http.MethodPost {
		body = io.LimitReader(pattern(seed), int64(r.Size))
	}
	request, err := http.NewRequestWithContext(ctx, method, "http://"+r.To.String()+"/", body)
	if err == nil && body != nil {
		request.ContentLength = int64(r.Size)
	}
	return request, err
}

func (r Request) checkResponse(response *http.Response, seed uint64, reply *Reply) error {
	var h hello
	if err := json.Unmarshal([]byte(response.Header.Get(helloHeader)), &h); err != nil {
		return fmt.Errorf("%s from what is no server of ours: %w", response.Status, err)
	}
	reply.hear(h)
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("%s", response.Status)
	}
	if response.Request.Method == http.MethodPost {
		if err := verify(response.Body, pattern(seed), r.Size); err != nil {
			return err
		}
		reply.Bytes = r.Size
	}
	// Read to the end, otherwise the connection can't be kept.
	extra, err := io.Copy(io.Discard, response.Body)
	if err == nil && extra > 0 && response.Request.Method == http.MethodPost {
		return fmt.Errorf("%d bytes more than were sent", extra)
	}
	return err
}
