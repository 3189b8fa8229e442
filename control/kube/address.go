// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"fmt"
	"net"
	"net/url"
	"strconv"
	"strings"
)

const httpsPort = "443"

// ParseAPIServer parses the address of an API server, an https URL or host:port, and returns it as
// host:port.
func ParseAPIServer(s string) (string, error) {
	if !strings.Contains(s, "://") {
		host, port, err := net.SplitHostPort(s)
		if err != nil || host == "" || !validPort(port) {
			return "", fmt.Errorf("%q is neither host:port nor an https URL", s)
		}
		return net.JoinHostPort(host, port), nil
	}
	u, err := url.Parse(s)
	switch {
	case err != nil || u.Hostname() == "":
		return "", fmt.Errorf("%q is not a URL with a host", s)
	case u.Scheme != "https":
		return "", fmt.Errorf("%q: an API server is reached by https only", s)
	case strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.Fragment != "" || u.User != nil:
		return "", fmt.Errorf("%q: only a host and a port can be given here; the rest belongs in a kubeconfig", s)
	}
	port := u.Port()
	if port == "" {
		port = httpsPort
	}
	if !validPort(port) {
		return "", fmt.Errorf("%q: bad port", s)
	}
	return net.JoinHostPort(u.Hostname(), port), nil
}

func validPort(s string) bool {
	n, err := strconv.ParseUint(s, 10, 16)
	return err == nil && n > 0
}
