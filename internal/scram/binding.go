package scram

import (
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
)

// Binding returns what an exchange is bound to by tls-server-end-point: the hash of the server's certificate, by the
// function that it was signed with, or by SHA-256 where that is MD5 or SHA-1 (RFC 5929, section 4.1). It is nil for a
// certificate whose signature has no such function, as Ed25519: the RFC leaves that undefined.
func Binding(certificate *x509.Certificate) []byte {
	switch certificate.SignatureAlgorithm {
	case x509.MD5WithRSA, x509.SHA1WithRSA, x509.ECDSAWithSHA1, x509.SHA256WithRSA, x509.SHA256WithRSAPSS, x509.ECDSAWithSHA256:
		sum := sha256.Sum256(certificate.Raw)
		return sum[:]
	case x509.SHA384WithRSA, x509.SHA384WithRSAPSS, x509.ECDSAWithSHA384:
		sum := sha512.Sum384(certificate.Raw)
		return sum[:]
	case x509.SHA512WithRSA, x509.SHA512WithRSAPSS, x509.ECDSAWithSHA512:
		sum := sha512.Sum512(certificate.Raw)
		return sum[:]
	default:
		return nil
	}
}
