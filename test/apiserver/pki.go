// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"

	"k8s.io/client-go/util/cert"
	"k8s.io/client-go/util/keyutil"
)

// authority signs the certificates of one control plane.
type authority struct {
	key  crypto.Signer
	cert *x509.Certificate
}

// pair is a certificate with its key, in PEM.
type pair struct{ cert, key []byte }

const validity = 24 * time.Hour

func newAuthority() (*authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	ca, err := cert.NewSelfSignedCACert(cert.Config{CommonName: "waggle-test"}, key)
	if err != nil {
		return nil, err
	}
	return &authority{key: key, cert: ca}, nil
}

func (a *authority) pem() []byte { return certPEM(a.cert.Raw) }

// issue makes a certificate for a client, or, with addresses, for a server.
func (a *authority) issue(user string, groups []string, addresses ...net.IP) (pair, error) {
	var names []string
	if len(addresses) > 0 { // a server, which pods know by this name
		names = []string{"kubernetes.default.svc"}
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return pair{}, err
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 64))
	if err != nil {
		return pair{}, err
	}
	template := &x509.Certificate{
		Subject:      pkix.Name{CommonName: user, Organization: groups},
		SerialNumber: serial,
		IPAddresses:  addresses,
		DNSNames:     names,
		NotBefore:    a.cert.NotBefore,
		NotAfter:     time.Now().Add(validity),
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
	}
	raw, err := x509.CreateCertificate(rand.Reader, template, a.cert, key.Public(), a.key)
	if err != nil {
		return pair{}, err
	}
	encoded, err := keyutil.MarshalPrivateKeyToPEM(key)
	return pair{cert: certPEM(raw), key: encoded}, err
}

func certPEM(raw []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: cert.CertificateBlockType, Bytes: raw})
}

// writeFiles writes what the processes read: the authority's certificate, the
// server's pair, and the key that signs the tokens of service accounts.
func (cp *ControlPlane) writeFiles(server pair) error {
	tokens, err := keyutil.MakeEllipticPrivateKeyPEM()
	if err != nil {
		return err
	}
	for name, content := range map[string][]byte{
		"ca.crt": cp.ca.pem(), "server.crt": server.cert, "server.key": server.key, "tokens.key": tokens,
	} {
		if err := os.WriteFile(filepath.Join(cp.dir, name), content, 0o600); err != nil {
			return err
		}
	}
	return nil
}
