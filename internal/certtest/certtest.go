// Package certtest makes certificates for tests.
package certtest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// Authority signs certificates. Its own is in File.
type Authority struct {
	// File is the authority's certificate, PEM.
	File string
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// NewAuthority returns an authority that nobody else knows.
func NewAuthority(tb testing.TB) *Authority {
	tb.Helper()
	a := &Authority{File: filepath.Join(tb.TempDir(), "root.crt")}
	template := &x509.Certificate{
		Subject: pkix.Name{CommonName: "authority of " + tb.Name()}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	a.cert, a.key = sign(tb, template, nil, nil)
	write(tb, a.File, "CERTIFICATE", a.cert.Raw)
	return a
}

// Pool has the authority alone.
func (a *Authority) Pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(a.cert)
	return pool
}

// Issue returns the files of a certificate of the name, for servers on localhost and for clients.
func (a *Authority) Issue(tb testing.TB, name string) (certFile, keyFile string) {
	tb.Helper()
	folder := tb.TempDir()
	certFile, keyFile = filepath.Join(folder, "cert.pem"), filepath.Join(folder, "key.pem")
	a.Renew(tb, name, certFile, keyFile)
	return certFile, keyFile
}

// Renew writes a new certificate and its key to the files.
func (a *Authority) Renew(tb testing.TB, name, certFile, keyFile string) {
	tb.Helper()
	a.renew(tb, name, certFile, keyFile, time.Now().Add(time.Hour))
}

// Expired is Pair for a certificate that was good until a minute ago.
func (a *Authority) Expired(tb testing.TB, name string) tls.Certificate {
	tb.Helper()
	folder := tb.TempDir()
	certFile, keyFile := filepath.Join(folder, "cert.pem"), filepath.Join(folder, "key.pem")
	a.renew(tb, name, certFile, keyFile, time.Now().Add(-time.Minute))
	return load(tb, certFile, keyFile)
}

func load(tb testing.TB, certFile, keyFile string) tls.Certificate {
	tb.Helper()
	pair, err := tls.LoadX509KeyPair(certFile, keyFile)
	if err != nil {
		tb.Fatalf("read a certificate: %v", err)
	}
	return pair
}

func (a *Authority) renew(tb testing.TB, name, certFile, keyFile string, until time.Time) {
	tb.Helper()
	cert, key := sign(tb, &x509.Certificate{
		NotAfter: until,
		Subject:  pkix.Name{CommonName: name}, DNSNames: []string{"localhost"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback},
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}, a.cert, a.key)
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		tb.Fatalf("encode a key: %v", err)
	}
	write(tb, keyFile, "PRIVATE KEY", der)
	write(tb, certFile, "CERTIFICATE", cert.Raw)
}

// Pair is Issue for a certificate that needs no files.
func (a *Authority) Pair(tb testing.TB, name string) tls.Certificate {
	tb.Helper()
	certFile, keyFile := a.Issue(tb, name)
	return load(tb, certFile, keyFile)
}

func sign(tb testing.TB, template, parent *x509.Certificate, by *ecdsa.PrivateKey) (*x509.Certificate, *ecdsa.PrivateKey) {
	tb.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		tb.Fatalf("make a key: %v", err)
	}
	if template.SerialNumber, err = rand.Int(rand.Reader, big.NewInt(1<<62)); err != nil {
		tb.Fatalf("number a certificate: %v", err)
	}
	if template.NotAfter.IsZero() {
		template.NotAfter = time.Now().Add(time.Hour)
	}
	template.NotBefore = template.NotAfter.Add(-2 * time.Hour)
	if parent == nil {
		parent, by = template, key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, by)
	if err != nil {
		tb.Fatalf("make a certificate: %v", err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		tb.Fatalf("parse a certificate: %v", err)
	}
	return cert, key
}

func write(tb testing.TB, path, kind string, der []byte) {
	tb.Helper()
	// PostgreSQL and libpq refuse keys that others may read.
	if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
		tb.Fatalf("write a certificate: %v", err)
	}
}
