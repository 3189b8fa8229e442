// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

// An address that fails comes from a setting. So a message about it names the address, the setting
// that it comes from, and what is wrong with it.

// said is an error with a message of ours.
type said struct {
	error
	words string
}

func (s *said) Error() string { return s.words }

func (s *said) Unwrap() error { return s.error }

// blame notes why an address has failed, and returns it as an error.
func (d *dialer) blame(address string, err error) error {
	if s := (*said)(nil); errors.As(err, &s) {
		return err
	}
	why := inWords(err)
	d.mu.Lock()
	d.why[address] = why
	d.mu.Unlock()
	return &said{err, d.name(address) + ": " + why}
}

// inWords describes what may be wrong with an address, from the error of a request. It returns the
// same text for the same fault each time, without local ports.
func inWords(err error) string {
	var certificate *tls.CertificateVerificationError
	var record tls.RecordHeaderError
	var name *net.DNSError
	var timeout net.Error
	var errno syscall.Errno
	var operation *net.OpError
	switch {
	case errors.As(err, &name):
		return "the node can't resolve the name: " + name.Error()
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, net.ErrClosed), errors.As(err, &timeout) && timeout.Timeout():
		return "no answer"
	case errors.As(err, &certificate):
		return "it is no API server of this cluster: " + certificate.Err.Error()
	case errors.As(err, &record), errors.Is(err, http.ErrSchemeMismatch):
		return "it is no API server: it does not answer with TLS"
	case errors.Is(err, io.EOF):
		return "it closes the connection: EOF"
	case errors.As(err, &errno):
		return errno.Error()
	case errors.As(err, &operation):
		return operation.Err.Error()
	}
	return err.Error()
}

// reason returns an error's text on one line.
func reason(err error) string {
	if s := (*said)(nil); !errors.As(err, &s) && errors.Is(err, context.DeadlineExceeded) {
		return "no answer"
	}
	return strings.ReplaceAll(err.Error(), "\n", "; ")
}

// name returns the form of an address for messages.
func (d *dialer) name(address string) string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.nameLocked(address)
}

func (d *dialer) nameLocked(address string) string {
	switch {
	case !slices.Contains(d.first, address) && !slices.Contains(d.last, address):
		return address + " (learnt from the endpoints of the kubernetes Service)"
	case d.origin == nil:
		return address
	}
	return address + " (" + d.origin(address) + ")"
}

// failing describes each address that has failed and not answered since.
func (d *dialer) failing() string {
	var all []string
	for _, a := range d.addresses() {
		d.mu.Lock()
		if why, failed := d.why[a]; failed {
			all = append(all, d.nameLocked(a)+": "+why)
		}
		d.mu.Unlock()
	}
	return strings.Join(all, "; ")
}

// whereabouts names the address that answered last or, if none has, those that are tried.
func (d *dialer) whereabouts() string {
	all := d.addresses()
	d.mu.Lock()
	defer d.mu.Unlock()
	var last string
	var when time.Time
	for _, a := range all {
		if at := d.answered[a]; at.After(when) {
			last, when = a, at
		}
	}
	if last != "" {
		return "API server " + d.nameLocked(last)
	}
	var names []string
	for _, a := range all {
		names = append(names, d.nameLocked(a))
	}
	return "no API server has answered yet; tried: " + strings.Join(names, ", ")
}

// attempt is the address that a request was last sent to, or that was dialled for it.
type attempt struct {
	mu   sync.Mutex
	last string
}

type attemptKey struct{}

func withAttempt(ctx context.Context) (context.Context, *attempt) {
	a := &attempt{}
	return context.WithValue(ctx, attemptKey{}, a), a
}

func attemptOf(ctx context.Context) *attempt {
	a, _ := ctx.Value(attemptKey{}).(*attempt)
	return a
}

func (a *attempt) at(address string) {
	if a == nil || address == "" {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.last = address
}

func (a *attempt) address() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.last
}

// addressOf returns the remote address of a connection of ours; empty, if it isn't ours.
func (d *dialer) addressOf(on net.Conn) string {
	d.mu.Lock()
	defer d.mu.Unlock()
	if c := d.open[endpointsOf(on)]; c != nil {
		return c.address
	}
	return ""
}
