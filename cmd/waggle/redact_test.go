// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/base64"
	"net/netip"
	"regexp"
	"strings"
	"testing"

	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

func TestRedactAddresses(t *testing.T) {
	var r redactor
	r.hashAddresses()
	r.keep(netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1"), netip.MustParseAddr("::ffff:192.0.2.2"))
	one := func(addr string) string { // what an address becomes
		return r.clean(addr)
	}
	client4, client6 := one("198.51.100.7"), one("2001:db8:7::7")
	if looks := regexp.MustCompile(`^addr-[0-9a-f]{12}$`); !looks.MatchString(client4) || !looks.MatchString(client6) || client4 == client6 {
		t.Fatalf("hashed: %s, %s", client4, client6)
	}
	mac := one("02:00:00:00:00:01")
	for text, want := range map[string]string{
		// What stays.
		"192.0.2.1:80 [2001:db8::1]:443 192.0.2.2 ::ffff:192.0.2.1":        "192.0.2.1:80 [2001:db8::1]:443 192.0.2.2 ::ffff:192.0.2.1",
		"0.0.0.0:30080 :: ::1 127.0.0.1 224.0.0.1 ff02::1 255.255.255.255": "0.0.0.0:30080 :: ::1 127.0.0.1 224.0.0.1 ff02::1 255.255.255.255",
		"10.96.0.0/16 fd00:10:96::/112 0.0.0.0/0 ::/0":                     "10.96.0.0/16 fd00:10:96::/112 0.0.0.0/0 ::/0",
		"2026-11-29T06:20:00Z 06:20:00 1.2.3 v1.36.3 a:b c:d:e":            "2026-11-29T06:20:00Z 06:20:00 1.2.3 v1.36.3 a:b c:d:e",
		"00:00:00:00:00:00": "00:00:00:00:00:00",
		// What does not.
		"198.51.100.7:4000":                       client4 + ":4000",
		"::ffff:198.51.100.7":                     client4,
		"from:198.51.100.7":                       "from:" + client4,
		"device:198.51.100.7:80:":                 "device:" + client4 + ":80:",
		`"198.51.100.7","x"`:                      `"` + client4 + `","x"`,
		"198.51.100.7/24 198.51.100.7/32":         client4 + "/24 " + client4 + "/32",
		"[2001:db8:7::7]:4000":                    "[" + client6 + "]:4000",
		"2001:db8:7::7: down":                     client6 + ": down",
		"2001:DB8:7:0:0:0:0:7%eth0":               client6 + "%eth0",
		"2001:db8:7::7/128 x":                     client6 + "/128 x",
		"at 12:30:198.51.100.7":                   "at 12:30:" + client4,
		"lladdr 02:00:00:00:00:01 REACHABLE":      "lladdr " + mac + " REACHABLE",
		"addr=2001:db8:7::7,198.51.100.7 (never)": "addr=" + client6 + "," + client4 + " (never)",
	} {
		if got := r.clean(text); got != want {
			t.Errorf("%q: got %q, want %q", text, got, want)
		}
	}
	var other redactor
	other.hashAddresses()
	if other.clean("198.51.100.7") == client4 {
		t.Error("two runs hash an address alike")
	}
	var none redactor
	if got := none.clean("198.51.100.7 02:00:00:00:00:01"); got != "198.51.100.7 02:00:00:00:00:01" {
		t.Errorf("unasked: %s", got)
	}
}

func TestRedactSecrets(t *testing.T) {
	var r redactor
	r.hideKubeconfig(&clientcmdapi.Config{AuthInfos: map[string]*clientcmdapi.AuthInfo{"u": {
		Token: "sesame", Password: "hunter22", ClientKeyData: []byte("keydata"), ClientCertificateData: []byte("certdata"),
		AuthProvider: &clientcmdapi.AuthProviderConfig{Config: map[string]string{"id-token": "idtoken"}},
		Exec:         &clientcmdapi.ExecConfig{Command: "login", Args: []string{"--pin=1234"}, Env: []clientcmdapi.ExecEnvVar{{Name: "A", Value: "envsecret"}}},
	}}})
	for _, secret := range []string{"sesame", "hunter22", "keydata", "certdata", "idtoken", "--pin=1234", "envsecret", base64.StdEncoding.EncodeToString([]byte("keydata"))} {
		if got := r.clean("x" + secret + "y"); got != "x"+secretMark+"y" {
			t.Errorf("%s: got %s", secret, got)
		}
	}
	pem := "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----"
	for text, want := range map[string]string{
		"a " + pem + " b": "a (secret) b",
		"ca: " + base64.StdEncoding.EncodeToString([]byte(pem)) + "\nb": "ca: (secret)\nb",
		"Authorization: Bearer abcdefgh.ijk":                            "Authorization: Bearer (secret)",
		"token=eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJ4In0.c2ln!":              "token=(secret)!",
		"https://me:pass@10.0.0.1:6443/x":                               "https://(secret)@10.0.0.1:6443/x",
		"https://10.0.0.1:6443/x me@example.org":                        "https://10.0.0.1:6443/x me@example.org",
	} {
		if got := r.clean(text); got != want {
			t.Errorf("%q: got %q, want %q", text, got, want)
		}
	}
	var short redactor
	short.hide("a", "", strings.Repeat(" ", 9))
	if got := short.clean("banana"); got != "banana" {
		t.Errorf("what is too short to be a secret: %s", got)
	}
}
