// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"net/netip"
	"os"
	"regexp"
	"slices"
	"strings"

	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

// redactor removes confidential parts from a text: always secrets, and addresses if the user asks for that.
type redactor struct {
	secrets []string
	key     []byte              // of this run, to hash addresses with; nil: addresses stay
	plain   map[netip.Addr]bool // addresses that stay: of the node, of services and of endpoints
}

const secretMark = "(secret)"

// hashAddresses makes a key that exists only in this process: equal addresses have equal hashes in one bundle
// only.
func (r *redactor) hashAddresses() {
	r.key = make([]byte, sha256.Size)
	_, _ = rand.Read(r.key) // it never fails
}

// keep lets addresses stay.
func (r *redactor) keep(addrs ...netip.Addr) {
	if r.plain == nil {
		r.plain = map[netip.Addr]bool{}
	}
	for _, a := range addrs {
		r.plain[a.Unmap().WithZone("")] = true
	}
}

// shortestSecret is the least length of a secret: shorter strings occur in many words.
const shortestSecret = 4

// hide adds secrets, which are replaced wherever they occur, also in base64.
func (r *redactor) hide(secrets ...string) {
	for _, s := range secrets {
		if s = strings.TrimSpace(s); len(s) >= shortestSecret {
			r.secrets = append(r.secrets, s, base64.StdEncoding.EncodeToString([]byte(s)))
		}
	}
	slices.SortFunc(r.secrets, func(a, b string) int { return cmp.Compare(len(b), len(a)) }) // one may be part of another
	r.secrets = slices.Compact(r.secrets)
}

// hideFile adds the contents of a file.
func (r *redactor) hideFile(path string) {
	if path == "" {
		return
	}
	if raw, err := os.ReadFile(path); err == nil {
		r.hide(string(raw))
	}
}

// hideKubeconfig adds all secrets in a kubeconfig and its files.
func (r *redactor) hideKubeconfig(c *clientcmdapi.Config) {
	for _, user := range c.AuthInfos {
		r.hide(user.Token, user.Password, string(user.ClientKeyData), string(user.ClientCertificateData))
		for _, file := range []string{user.TokenFile, user.ClientKey, user.ClientCertificate} {
			r.hideFile(file)
		}
		if user.AuthProvider != nil {
			for _, value := range user.AuthProvider.Config {
				r.hide(value)
			}
		}
		if user.Exec != nil {
			r.hide(user.Exec.Args...)
			for _, variable := range user.Exec.Env {
				r.hide(variable.Value)
			}
		}
	}
}

// What looks like a secret, of waggle or of another program.
var secretLooks = []struct {
	looks *regexp.Regexp
	mark  string
}{
	{regexp.MustCompile(`(?s)-----BEGIN [A-Z0-9 ]+-----.*?-----END [A-Z0-9 ]+-----`), secretMark},
	{regexp.MustCompile(`LS0tLS1CRUdJTi[A-Za-z0-9+/=]+`), secretMark}, // the same in base64
	{regexp.MustCompile(`\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+`), secretMark},
	{regexp.MustCompile(`(?i)\b(bearer|basic) +[A-Za-z0-9._~+/=-]{8,}`), "$1 " + secretMark},
	{regexp.MustCompile(`://[^/\s@"']+@`), "://" + secretMark + "@"},
}

func (r *redactor) clean(text string) string {
	for _, s := range r.secrets {
		text = strings.ReplaceAll(text, s, secretMark)
	}
	for _, s := range secretLooks {
		text = s.looks.ReplaceAllString(text, s.mark)
	}
	if r.key == nil {
		return text
	}
	return addressLooks.ReplaceAllStringFunc(text, r.hashAll)
}

// addressLooks finds MAC addresses, what may be IPv6 addresses, and IPv4 addresses.
var addressLooks = regexp.MustCompile(`\b(?:[0-9A-Fa-f]{2}:){5}[0-9A-Fa-f]{2}(?:(?::[0-9A-Fa-f]{2}){14})?\b` +
	`|[0-9A-Fa-f]*:[0-9A-Fa-f]*:[0-9A-Fa-f:]*(?:(?:\.[0-9]{1,3}){3})?(?:/[0-9]{1,3})?` +
	`|` + ipv4Look)

const ipv4Look = `(?:[0-9]{1,3}\.){3}[0-9]{1,3}(?:/[0-9]{1,2})?`

var (
	macLooks  = regexp.MustCompile(`^(?:[0-9A-Fa-f]{2}:){5}[0-9A-Fa-f]{2}(?:(?::[0-9A-Fa-f]{2}){14})?$`)
	ipv4Looks = regexp.MustCompile(ipv4Look)
)

// hashAll hashes the address in a string that looks like one. The string may have more around the
// address, such as a port, or a word whose last letters are hexadecimal digits.
func (r *redactor) hashAll(s string) string {
	if macLooks.MatchString(s) {
		if strings.Trim(s, "0:") == "" {
			return s
		}
		return "mac-" + r.hash([]byte(strings.ToLower(s)))
	}
	for end := len(s); end > 0; end = strings.LastIndexByte(s[:end], ':') {
		for start := 0; start < end; {
			if hashed, ok := r.hashOne(s[start:end]); ok {
				return s[:start] + hashed + s[end:]
			}
			next := strings.IndexByte(s[start:end], ':')
			if next < 0 {
				break
			}
			start += next + 1
		}
	}
	if !strings.Contains(s, ":") {
		return s
	}
	return ipv4Looks.ReplaceAllStringFunc(s, func(s string) string {
		if hashed, ok := r.hashOne(s); ok {
			return hashed
		}
		return s
	})
}

// hashOne hashes an address, with or without the length of its network. Networks stay as they are.
func (r *redactor) hashOne(s string) (string, bool) {
	bare, length, whole := strings.Cut(s, "/")
	a, err := netip.ParseAddr(bare)
	if err != nil {
		return "", false
	}
	if whole {
		p, err := netip.ParsePrefix(s)
		if err != nil || p.Bits() < a.BitLen() && p.Masked() == p {
			return s, true
		}
		length = "/" + length
	}
	a = a.Unmap()
	if r.plain[a] || a.IsUnspecified() || a.IsLoopback() || a.IsMulticast() || a == broadcast {
		return s, true
	}
	raw := a.As16()
	return "addr-" + r.hash(raw[:]) + length, true
}

var broadcast = netip.AddrFrom4([4]byte{255, 255, 255, 255})

func (r *redactor) hash(raw []byte) string {
	h := hmac.New(sha256.New, r.key)
	h.Write(raw)
	return hex.EncodeToString(h.Sum(nil)[:6])
}
