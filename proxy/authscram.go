package proxy

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"

	"github.com/jackc/pgx/v5/pgproto3"

	"barkeep/internal/scram"
	"barkeep/internal/verifier"
)

// Verifiers knows what users prove themselves against. *verifier.Database and verifier.File implement it.
type Verifiers interface {
	// Secret returns the user's as of now. Its error is verifier.ErrUnreadable, wrapped, where none can be read at all.
	Secret(ctx context.Context, user string) (verifier.Secret, error)
}

// ChannelBinding says whether the sessions' logins are bound to the upstream's certificate.
type ChannelBinding string

// The choices are libpq's, of its parameter channel_binding. The zero value is BindingPreferred.
const (
	BindingDisabled  ChannelBinding = "disable"
	BindingPreferred ChannelBinding = "prefer"
	BindingRequired  ChannelBinding = "require"
)

// terminateSCRAM is the server of the client's exchange and the client of the upstream's, and returns the end of the first.
//
// Nobody learns from it what a role is: there is one sequence of messages and one amount of work for every user. The factors
// (salt and iterations) are the upstream's own, which for a user without a verifier it makes up in its own way; the verifier
// was read after the upstream has read it, and one with other factors is no verifier. A proof that does not hold, or is of a
// user that cannot be, is passed on as a proof that cannot hold, and the upstream refuses it: its words, its language, its log.
func (l *login) terminateSCRAM(offered []string, secret *verifier.Secret) ([]byte, error) {
	up, err := scram.NewClient(offered, l.upstreamBinding())
	if err != nil {
		return nil, fmt.Errorf("log in to upstream: %w", err)
	}
	if l.server.cfg.Upstream.Binding == BindingRequired && !up.Bound() {
		return nil, l.refuse(errNotBound)
	}
	down, err := l.openSCRAM()
	if err != nil {
		return nil, err
	}
	factors, err := l.challenge(up)
	if err != nil {
		return nil, err
	}
	if err := l.tell(encode(&pgproto3.AuthenticationSASLContinue{Data: down.Challenge(factors)})); err != nil {
		return nil, err
	}
	answer, err := l.readAnswer(scram.MaxMessage)
	if err != nil {
		return nil, err
	}
	if err := down.Final(answer[5:]); err != nil {
		return nil, l.refuseSCRAM(err)
	}
	key, ok := down.ClientKey(&secret.Verifier)
	if reason := l.doubt(secret, factors, ok); reason != "" {
		return nil, l.failSCRAM(up, reason)
	}
	if err := l.proveUpstream(up, key, &secret.Verifier); err != nil {
		return nil, err
	}
	l.proven, l.bound, l.method = true, up.Bound(), methodSCRAM
	return encode(&pgproto3.AuthenticationSASLFinal{Data: down.Signature(&secret.Verifier)}), nil
}

// openSCRAM offers the mechanisms and reads the client's first message.
func (l *login) openSCRAM() (*scram.Server, error) {
	binding := l.clientBinding()
	if err := l.tell(encode(&pgproto3.AuthenticationSASL{AuthMechanisms: scram.Mechanisms(binding)})); err != nil {
		return nil, err
	}
	answer, err := l.readAnswer(scram.MaxMessage)
	if err != nil {
		return nil, err
	}
	mechanism, rest, ok := cstring(answer[5:])
	if !ok {
		return nil, l.refuse(protocolError("invalid string in message"))
	}
	down, err := scram.NewServer(string(mechanism), binding)
	if err != nil {
		return nil, l.refuseSCRAM(err)
	}
	first, err := l.initialResponse(rest)
	if err != nil {
		return nil, err
	}
	if err := down.First(first); err != nil {
		return nil, l.refuseSCRAM(err)
	}
	return down, nil
}

// initialResponse returns what stands behind the mechanism: the length of the first message and the message. It may be left out
// (-1), and is asked for then.
func (l *login) initialResponse(data []byte) ([]byte, error) {
	if len(data) < 4 {
		return nil, l.refuse(protocolError("insufficient data left in message"))
	}
	size, data := int32(binary.BigEndian.Uint32(data)), data[4:] //nolint:gosec // -1 is one of its values
	switch {
	case size == -1 && len(data) == 0:
		if err := l.tell(encode(&pgproto3.AuthenticationSASLContinue{})); err != nil {
			return nil, err
		}
		answer, err := l.readAnswer(scram.MaxMessage)
		if err != nil {
			return nil, err
		}
		return answer[5:], nil
	case size < -1 || int(size) > len(data):
		return nil, l.refuse(protocolError("insufficient data left in message"))
	case int(size) < len(data):
		return nil, l.refuse(protocolError("invalid message format"))
	}
	return data, nil
}

// challenge opens the exchange with the upstream and returns the factors that it wants the key to be made with.
func (l *login) challenge(up *scram.Client) (scram.Factors, error) {
	first := encode(&pgproto3.SASLInitialResponse{AuthMechanism: up.Mechanism(), Data: up.First()})
	if _, err := l.upstream.Write(first); err != nil {
		return scram.Factors{}, fmt.Errorf("write to upstream: %w", err)
	}
	data, err := l.await(authSASLContinue)
	if err != nil {
		return scram.Factors{}, err
	}
	factors, err := up.Challenge(data)
	if err != nil {
		return scram.Factors{}, fmt.Errorf("log in to upstream: %w", err)
	}
	return factors, nil
}

// doubt says, for the log, why the client is not who it says it is; empty where it is.
func (l *login) doubt(secret *verifier.Secret, factors scram.Factors, proof bool) string {
	switch {
	case secret.Refusal != "":
		return secret.Refusal
	case secret.Factors() != factors:
		return "its verifier is not the database's, or has changed this moment"
	case !proof:
		return "wrong password"
	case secret.MayNotLogin:
		l.log.Info("login will be refused", slog.String("reason", "the role may not log in"))
	}
	return ""
}

// failSCRAM has the upstream refuse the client, by a proof of a key that nobody has. The reason is for the log.
func (l *login) failSCRAM(up *scram.Client, reason string) error {
	var key scram.Key
	_, _ = rand.Read(key[:]) // crypto/rand never fails
	return fmt.Errorf("%s: %w", reason, l.fail(encode(&pgproto3.SASLResponse{Data: up.Final(key)})))
}

var errNotRefused = errors.New("upstream takes a proof that does not hold")

// proveUpstream logs in by the client's key, and has the upstream prove in turn that it knows the password.
func (l *login) proveUpstream(up *scram.Client, key scram.Key, v *scram.Verifier) error {
	if _, err := l.upstream.Write(encode(&pgproto3.SASLResponse{Data: up.Final(key)})); err != nil {
		return fmt.Errorf("write to upstream: %w", err)
	}
	data, err := l.await(authSASLFinal)
	if err != nil {
		return err
	}
	if err := up.Verify(data, v); err != nil {
		l.log.Warn("upstream does not know the password of a user", slog.Any("error", err))
		return l.refuse(errImpostor)
	}
	return nil
}

// refuseSCRAM tells the client what is wrong with its message.
func (l *login) refuseSCRAM(err error) error {
	own, ok := errors.AsType[*scram.Error](err)
	if !ok {
		return err
	}
	return l.refuse(&Error{Code: own.Code, Message: own.Message, Detail: own.Detail, Fatal: true})
}

// saysItCouldBind reports whether the first message of SCRAM says that the client could bind to its channel and takes it that
// we cannot (gs2-cbind-flag "y"), which an upstream that can does not let pass.
func saysItCouldBind(answer []byte) bool {
	_, rest, ok := cstring(answer[5:])
	return ok && len(rest) > 4 && rest[4] == 'y'
}

// clientBinding is what a client can bind its exchange to; nil without TLS, and where our certificate has nothing for it.
func (l *login) clientBinding() []byte {
	if l.shown == nil || len(l.shown.Certificate) == 0 {
		return nil
	}
	leaf := l.shown.Leaf
	if leaf == nil {
		var err error
		if leaf, err = x509.ParseCertificate(l.shown.Certificate[0]); err != nil {
			return nil
		}
	}
	return scram.Binding(leaf)
}

// upstreamBinding is what our own exchange can be bound to; nil without TLS, and where it shall not be.
func (l *login) upstreamBinding() []byte {
	conn, ok := l.upstream.(*tls.Conn)
	if !ok || l.server.cfg.Upstream.Binding == BindingDisabled {
		return nil
	}
	if certificates := conn.ConnectionState().PeerCertificates; len(certificates) > 0 {
		return scram.Binding(certificates[0])
	}
	return nil
}

// noting returns the configuration with a note of the certificate that is shown. Sessions of TLS are not taken up again, as
// PostgreSQL does not either: no certificate is shown then that an exchange could be bound to.
func noting(config *tls.Config, shown **tls.Certificate) *tls.Config {
	own := config.Clone()
	own.SessionTicketsDisabled = true
	if choose := config.GetConfigForClient; choose != nil {
		own.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
			chosen, err := choose(hello)
			if chosen == nil || err != nil {
				return nil, err
			}
			return noting(chosen, shown), nil
		}
	}
	own.Certificates = nil // so that GetCertificate is asked
	own.GetCertificate = func(hello *tls.ClientHelloInfo) (certificate *tls.Certificate, err error) {
		certificate, err = chooseCertificate(config, hello)
		*shown = certificate
		return certificate, err
	}
	return own
}

// chooseCertificate is how crypto/tls chooses.
func chooseCertificate(config *tls.Config, hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	if config.GetCertificate != nil && (len(config.Certificates) == 0 || hello.ServerName != "") {
		if certificate, err := config.GetCertificate(hello); certificate != nil || err != nil {
			return certificate, err
		}
	}
	for i := range config.Certificates {
		if hello.SupportsCertificate(&config.Certificates[i]) == nil {
			return &config.Certificates[i], nil
		}
	}
	if len(config.Certificates) == 0 {
		return nil, errors.New("no certificate to show")
	}
	return &config.Certificates[0], nil
}
