package proxy

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"os"

	"barkeep/internal/schema"
)

// checkProof refuses a client of which no proof was asked, where what the upstream trusted was us:
//
//   - our address (trust): a client on another machine has another;
//   - our certificate, which is proof of nobody else, wherever the client is;
//   - the user that our process runs as (peer, ident): one whose process runs as the same would have been let in by itself, which
//     the kernel says of a unix socket. Nobody says it of TCP.
//
// What it was the upstream does not say; where it may have been the last, it was.
func (l *login) checkProof(ctx context.Context) error {
	up, shown := &l.server.cfg.Upstream, l.place.TLS
	switch {
	case l.proven || l.server.cfg.AllowTrust:
		return nil
	case shown != nil && (len(shown.Certificates) > 0 || shown.GetClientCertificate != nil):
		return l.refuse(errOurCertificate)
	case !onLoopback(l.client.RemoteAddr()):
		return l.refuse(errNoProof)
	case up.JudgesProcess == nil || runsAs(l.client, os.Geteuid()):
		return nil
	}
	judges, err := up.JudgesProcess(ctx, l.place.Network == "unix")
	switch {
	case errors.Is(err, schema.ErrInRecovery):
		return l.misled(ctx, errStandby)
	case errors.Is(err, schema.ErrOtherServer):
		return l.misled(ctx, errOtherServer)
	case err != nil:
		l.log.WarnContext(ctx, "rules of authentication not read", slog.Any("error", err))
		return l.refuse(errNoRules)
	case judges:
		return l.refuse(errByProcess)
	}
	return nil
}

// onLoopback reports whether the client cannot be on another machine.
func onLoopback(address net.Addr) bool {
	tcp, ok := address.(*net.TCPAddr)
	return !ok || tcp.IP.IsLoopback()
}
