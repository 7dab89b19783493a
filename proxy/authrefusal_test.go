package proxy

import (
	"context"
	"crypto/hmac"
	"crypto/pbkdf2"
	"crypto/sha256"
	"crypto/tls"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"
	"github.com/stretchr/testify/require"

	"barkeep/internal/scram"
	"barkeep/internal/verifier"
)

// TestAuthRefusals: whoever is not let in is told what PostgreSQL tells, every field of it, on each way.
func TestAuthRefusals(t *testing.T) {
	u := startAuthUpstream(t)
	ways := map[string]*door{}
	for _, leg := range upstreamLegs {
		ways[leg] = u.open(t, u.leg(leg), nil, nil)
	}
	for name, each := range map[string]struct{ user, password, code string }{
		"wrong password":               {"scrammed", "pen", "28P01"},
		"no password":                  {"scrammed", "", "28P01"},
		"unknown user":                 {"nobody", "pen", "28P01"},
		"unknown user of a long name":  {strings.Repeat("nobody", 20), "pen", "28P01"},
		"expired":                      {"expired", "pencil of expired", "28P01"},
		"expired, wrong password":      {"expired", "pen", "28P01"},
		"may not log in":               {"barred", "pencil of barred", "28000"},
		"may not log in, wrong":        {"barred", "pen", "28P01"},
		"without a password":           {"bare", "pen", "28P01"},
		"stored as md5":                {"stale", "pencil of stale", "28P01"},
		"wrong password, md5":          {"hashed", "pen", "28P01"},
		"wrong password, password":     {"cleared", "pen", "28P01"},
		"SQL for a name":               {`x"'; drop role y; --`, "pen", "28P01"},
		"no such database":             {"scrammed", "pencil of scrammed", "3D000"},
		"name and password with marks": {"pässe", "pencil of pässe", ""},
		"peer, over TCP":               {"peered", "pencil of peered", "28P01"},
		"certificate is asked for":     {"certified", "pencil of certified", "28000"},
	} {
		for clientLeg, settings := range clientLegs {
			if each.user == "certified" && clientLeg == "plaintext" {
				continue // certificates are for TLS; a database without it goes by another line of pg_hba.conf
			}
			refusal := func(address string) (pgconn.PgError, error) {
				config, err := pgx.ParseConfig(u.url(address, each.user, settings...))
				require.NoError(t, err)
				config.Password = each.password
				if each.code == "3D000" {
					config.Database = "nowhere"
				}
				conn, err := pgx.ConnectConfig(t.Context(), config)
				if err == nil {
					_ = conn.Close(context.Background())
				}
				if pgErr, ok := errors.AsType[*pgconn.PgError](err); ok {
					return *pgErr, err
				}
				return pgconn.PgError{}, err
			}
			want, wantErr := refusal(u.address)
			if each.user == "certified" {
				wantErr = errors.New("a certificate is wanted") // by a client over TLS, whichever is barkeep's leg
			}
			require.Equal(t, want.Code, each.code, name)
			for leg, door := range ways {
				if each.user == "peered" && leg == "unix" || each.user == "certified" && leg != "TLS" {
					continue // another line of pg_hba.conf
				}
				got, err := refusal(door.address)
				require.Equal(t, wantErr == nil, err == nil, "%s: %s to %s: %v", name, clientLeg, leg, err)
				require.Equal(t, want, got, "%s: %s to %s", name, clientLeg, leg)
			}
		}
	}
	for _, reason := range []string{"wrong password", "there is no such role", "has expired", "has no password", "is not stored for SCRAM-SHA-256", "may not log in"} {
		require.Contains(t, ways["TLS"].logs.String(), reason)
	}
	for leg, way := range ways { // who was refused, and where it came from, which the database's log does not say
		wrong := regexp.MustCompile(`(?m)^.*msg="login refused".* user=hashed client=127\.0\.0\.1:\d+ application_name=\S+ reason=.*password authentication failed.*$`)
		require.Regexp(t, wrong, way.logs.String(), leg)
		require.NotRegexp(t, `(?m)^.*msg="login refused".* user=.* user=`, way.logs.String(), leg)
	}
	require.NotContains(t, ways["TLS"].logs.String(), "pencil")
	require.NotContains(t, ways["TLS"].logs.String(), "SCRAM-SHA-256$")
}

// peer is a client that says what it wants.
type peer struct {
	conn    net.Conn
	binding []byte
	offered []string
	refused *pgproto3.ErrorResponse
	steps   []string // what came, and how long it was
	cut     *rand.Rand
}

// dialPeer opens a session up to the first request for a proof.
func dialPeer(t *testing.T, u *authUpstream, address, user string, encrypted bool) *peer {
	t.Helper()
	conn, err := new(net.Dialer).DialContext(t.Context(), "tcp", address)
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	require.NoError(t, conn.SetDeadline(time.Now().Add(20*time.Second)))
	p := &peer{conn: conn, cut: rand.New(rand.NewPCG(7, uint64(len(user))))}
	if encrypted {
		secured, err := secure(t.Context(), conn, &Place{TLS: &tls.Config{RootCAs: u.ca.Pool(), ServerName: "localhost", MinVersion: tls.VersionTLS12}}, 20*time.Second)
		require.NoError(t, err)
		p.binding = scram.Binding(secured.(*tls.Conn).ConnectionState().PeerCertificates[0])
		p.conn = secured
	}
	hello := &pgproto3.StartupMessage{ProtocolVersion: pgproto3.ProtocolVersion30, Parameters: map[string]string{"user": user, "database": u.database}}
	_, err = p.conn.Write(encode(hello))
	require.NoError(t, err)
	kind, data := p.receive(t)
	require.EqualValues(t, authSASL, kind, "%v", p.refused)
	p.offered = mechanisms(append(make([]byte, 9), data...))
	return p
}

// receive returns the next request of the server; ^0 for a refusal, and for the end.
func (p *peer) receive(t *testing.T) (kind uint32, data []byte) {
	t.Helper()
	var head [5]byte
	if _, err := io.ReadFull(p.conn, head[:]); err != nil {
		p.steps = append(p.steps, "end")
		return ^uint32(0), nil
	}
	body := make([]byte, binary.BigEndian.Uint32(head[1:])-4)
	_, err := io.ReadFull(p.conn, body)
	require.NoError(t, err)
	switch head[0] {
	case 'R':
		p.steps = append(p.steps, fmt.Sprintf("R%d of %d", binary.BigEndian.Uint32(body), len(body)))
		return binary.BigEndian.Uint32(body), body[4:]
	case 'E':
		p.refused = &pgproto3.ErrorResponse{}
		require.NoError(t, p.refused.Decode(body))
		p.steps = append(p.steps, "E "+p.refused.Code)
		return ^uint32(0), nil
	}
	t.Fatalf("message %q while a proof is asked for", head[0])
	return 0, nil
}

// answer sends a message in up to three pieces.
func (p *peer) answer(kind byte, body []byte) {
	message := append(binary.BigEndian.AppendUint32([]byte{kind}, uint32(len(body)+4)), body...)
	for range 2 {
		n := p.cut.IntN(len(message) + 1)
		_, _ = p.conn.Write(message[:n]) // who does not listen has refused
		message = message[n:]
	}
	_, _ = p.conn.Write(message)
}

// initial is the body of a SASLInitialResponse.
func initial(mechanism, first string) []byte {
	return append(binary.BigEndian.AppendUint32([]byte(mechanism+"\x00"), uint32(len(first))), first...)
}

// clientKey is the ClientKey of a password.
func clientKey(tb testing.TB, password string, f scram.Factors) (key scram.Key) {
	tb.Helper()
	salt, err := base64.StdEncoding.DecodeString(f.Salt)
	require.NoError(tb, err)
	salted, err := pbkdf2.Key(sha256.New, password, salt, f.Iterations, scram.KeyLen)
	require.NoError(tb, err)
	h := hmac.New(sha256.New, salted)
	h.Write([]byte("Client Key"))
	h.Sum(key[:0])
	return key
}

// TestAuthMalformed: messages that cannot be, in place of the first or the last of a good exchange, get PostgreSQL's answer.
func TestAuthMalformed(t *testing.T) {
	u := startAuthUpstream(t)
	through := u.open(t, u.leg("TLS"), nil, nil)
	const plain, plus = scram.Plain, scram.Plus
	long := strings.Repeat("A", 2000)
	type message struct {
		kind byte
		body []byte
	}
	firsts := map[string]message{
		"another message":     {'Q', []byte("select 1\x00")},
		"terminate":           {'X', nil},
		"empty":               {'p', nil},
		"no mechanism":        {'p', []byte("SCRAM-SHA-256")},
		"unknown mechanism":   {'p', initial("OAUTHBEARER", "n,,")},
		"no length":           {'p', []byte(plain + "\x00")},
		"length too long":     {'p', append([]byte(plain+"\x00\x00\x00\x00\x09"), "n,,n=,r="...)},
		"length too short":    {'p', append([]byte(plain+"\x00\x00\x00\x00\x07"), "n,,n=,r="...)},
		"negative length":     {'p', append([]byte(plain+"\x00\xff\xff\xff\xfe"), "n,,n=,r="...)},
		"too long":            {'p', initial(plain, "n,,n=,r="+long)},
		"nothing":             {'p', initial(plain, "")},
		"zero byte":           {'p', initial(plain, "n,,n=,r=abc\x00")},
		"zero byte inside":    {'p', initial(plain, "n,,n=\x00,r=abc")},
		"no flag":             {'p', initial(plain, ",,n=,r=abc")},
		"unknown flag":        {'p', initial(plain, "x,,n=,r=abc")},
		"unprintable flag":    {'p', initial(plain, "\x01,,n=,r=abc")},
		"high flag":           {'p', initial(plain, "\xff,,n=,r=abc")},
		"no comma":            {'p', initial(plain, "n;,n=,r=abc")},
		"only a flag":         {'p', initial(plain, "n")},
		"authorization":       {'p', initial(plain, "n,a=me,n=,r=abc")},
		"no second comma":     {'p', initial(plain, "n,b=me,n=,r=abc")},
		"nothing behind flag": {'p', initial(plain, "n,")},
		"extension":           {'p', initial(plain, "n,,m=x,n=,r=abc")},
		"no user":             {'p', initial(plain, "n,,r=abc")},
		"no nonce":            {'p', initial(plain, "n,,n=")},
		"user without value":  {'p', initial(plain, "n,,n,r=abc")},
		"nonce of blanks":     {'p', initial(plain, "n,,n=,r=a b c")},
		"nonce of marks":      {'p', initial(plain, "n,,n=,r=äbc")},
		"more attributes":     {'p', initial(plain, "n,,n=,r=abc,1=x")},
		"attribute of no =":   {'p', initial(plain, "n,,n=,r=abc,x")},
		"could bind":          {'p', initial(plain, "y,,n=,r=abc")},
		"binds without PLUS":  {'p', initial(plain, "p=tls-server-end-point,,n=,r=abc")},
		"PLUS without":        {'p', initial(plus, "n,,n=,r=abc")},
		"PLUS, could bind":    {'p', initial(plus, "y,,n=,r=abc")},
		"PLUS of another":     {'p', initial(plus, "p=tls-unique,,n=,r=abc")},
		"PLUS, no value":      {'p', initial(plus, "p,,n=,r=abc")},
	}
	// A star stands for the nonce, a hash sign for the proof of the password.
	finals := map[string]message{
		"another message":     {'Q', []byte("select 1\x00")},
		"empty":               {'p', nil},
		"too long":            {'p', []byte("c=biws,r=*,x=" + long + ",p=#")},
		"zero byte":           {'p', []byte("c=biws,r=*,p=#\x00")},
		"no binding":          {'p', []byte("r=*,p=#")},
		"another binding":     {'p', []byte("c=eSws,r=*,p=#")},
		"binding of PLUS":     {'p', []byte("c=cD10bHMtc2VydmVyLWVuZC1wb2ludCws,r=*,p=#")},
		"no nonce":            {'p', []byte("c=biws,p=#")},
		"another nonce":       {'p', []byte("c=biws,r=abc,p=#")},
		"longer nonce":        {'p', []byte("c=biws,r=*x,p=#")},
		"no proof":            {'p', []byte("c=biws,r=*")},
		"no proof, attribute": {'p', []byte("c=biws,r=*,x=y")},
		"comma at the end":    {'p', []byte("c=biws,r=*,")},
		"short proof":         {'p', []byte("c=biws,r=*,p=AAAA")},
		"no base64":           {'p', []byte("c=biws,r=*,p=!!!!")},
		"garbage":             {'p', []byte("c=biws,r=*,p=#,x=y")},
		"digit attribute":     {'p', []byte("c=biws,r=*,1=y,p=#")},
		"proof of nothing":    {'p', []byte("c=biws,r=*,p=AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=")},
		"extension":           {'p', []byte("c=biws,r=*,x=y,p=#")},
	}
	told := func(p *peer) string {
		if p.refused == nil {
			return "closed"
		}
		return fmt.Sprintf("%s %s %s: %s | %s | %s", p.refused.Severity, p.refused.SeverityUnlocalized, p.refused.Code, p.refused.Message, p.refused.Detail, p.refused.Hint)
	}
	same := func(name string, say func(p *peer)) {
		t.Helper()
		straight, proxied := dialPeer(t, u, u.address, "scrammed", true), dialPeer(t, u, through.address, "scrammed", true)
		require.Equal(t, straight.offered, proxied.offered)
		say(straight)
		say(proxied)
		require.Equal(t, told(straight), told(proxied), name)
		require.Len(t, proxied.steps, len(straight.steps), name)
	}
	for name, m := range firsts {
		same("first: "+name, func(p *peer) {
			p.answer(m.kind, m.body)
			p.receive(t)
		})
	}
	for name, m := range finals {
		same("last: "+name, func(p *peer) {
			const bare = "n=,r=abc"
			p.answer('p', initial(plain, "n,,"+bare))
			_, challenge := p.receive(t)
			nonce, _, _ := strings.Cut(strings.TrimPrefix(string(challenge), "r="), ",")
			body := strings.ReplaceAll(string(m.body), "*", nonce)
			without, _, _ := strings.Cut(body, ",p=")
			body = strings.ReplaceAll(body, "#", proof(t, "pencil of scrammed", bare, string(challenge), without))
			p.answer(m.kind, []byte(body))
			p.receive(t)
		})
	}
	same("the first message apart", func(p *peer) {
		p.answer('p', append([]byte(plain+"\x00"), 0xff, 0xff, 0xff, 0xff))
		kind, data := p.receive(t)
		require.EqualValues(t, authSASLContinue, kind)
		require.Empty(t, data)
		p.answer('p', []byte("n,,n=,r=abc"))
		kind, _ = p.receive(t)
		require.EqualValues(t, authSASLContinue, kind)
	})
}

// proof is the proof of a password, in base64.
func proof(t *testing.T, password, bare, challenge, without string) string {
	t.Helper()
	var f scram.Factors
	_, err := fmt.Sscanf(challenge[strings.Index(challenge, ",s=")+3:], "%24s,i=%d", &f.Salt, &f.Iterations)
	require.NoError(t, err, challenge)
	key := clientKey(t, password, f)
	storedKey := sha256.Sum256(key[:])
	h := hmac.New(sha256.New, storedKey[:])
	h.Write([]byte(bare + "," + challenge + "," + without))
	signature := h.Sum(nil)
	for i := range signature {
		signature[i] ^= key[i]
	}
	return base64.StdEncoding.EncodeToString(signature)
}

// counting counts what is asked of the verifiers.
type counting struct {
	Verifiers
	mu    sync.Mutex
	asked int
}

func (c *counting) Secret(ctx context.Context, user string) (verifier.Secret, error) {
	c.mu.Lock()
	c.asked++
	c.mu.Unlock()
	return c.Verifiers.Secret(ctx, user)
}

func (c *counting) count() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.asked
}

// TestAuthTellsNobodyApart: for a role that is there and one that is not, the client sees the same messages of the same length, the
// upstream gets the same, and the verifier is asked for as often; and the salt of a user stays the same, who there is or not.
func TestAuthTellsNobodyApart(t *testing.T) {
	u := startAuthUpstream(t)
	for _, leg := range []string{"plaintext", "TLS"} {
		var seen, passed []string
		asked := &counting{}
		wire := newWiretap(t, u.address)
		up := u.leg(leg)
		up.Address = wire.address
		through := u.open(t, up, func(c *Config) { asked.Verifiers = c.Verifiers; c.Verifiers = asked }, nil)
		salts := map[string]string{}
		for _, user := range []string{"scrammed", "nobodyxx", "scrammed", "nobodyxx", "expired", "barred", "bare", "stale"} {
			before := asked.count()
			p := dialPeer(t, u, through.address, user, true)
			c, err := scram.NewClient(p.offered, p.binding)
			require.NoError(t, err)
			require.Equal(t, scram.Plus, c.Mechanism())
			p.answer('p', initial(c.Mechanism(), string(c.First())))
			_, challenge := p.receive(t)
			f, err := c.Challenge(challenge)
			require.NoError(t, err)
			p.answer('p', c.Final(clientKey(t, "pen", f)))
			p.receive(t)
			require.NotNil(t, p.refused)
			require.Equal(t, "28P01", p.refused.Code)
			p.receive(t)
			require.Equal(t, before+1, asked.count())
			if salts[user] != "" {
				require.Equal(t, salts[user], f.Salt, user)
			}
			salts[user] = f.Salt
			sent := wire.take(t)
			if seen == nil {
				seen, passed = p.steps, sent
			}
			require.Equal(t, seen, p.steps, user)
			if leg == "plaintext" && len(user) == len("scrammed") { // the records of TLS tell no messages, and the first has the name
				require.Equal(t, passed, sent, user)
			}
		}
		require.NotEqual(t, salts["scrammed"], salts["nobodyxx"])
	}
}

// wiretap passes connections on to an address, and notes the messages of the one who dialed.
type wiretap struct {
	address string
	done    chan []string
}

func newWiretap(t *testing.T, target string) *wiretap {
	t.Helper()
	w := &wiretap{done: make(chan []string, 100)}
	w.address = accepting(t, func(conn net.Conn) { w.pass(conn, target) })
	return w
}

func (w *wiretap) pass(conn net.Conn, target string) {
	up, err := new(net.Dialer).Dial("tcp", target)
	if err != nil {
		return
	}
	var back sync.WaitGroup
	back.Go(func() {
		_, _ = io.Copy(conn, up)
		_ = conn.Close()
	})
	var steps []string
	buffer := make([]byte, 64<<10)
	for {
		n, err := conn.Read(buffer)
		if err != nil {
			break
		}
		steps = append(steps, fmt.Sprintf("%q of %d", buffer[0], n))
		if _, err := up.Write(buffer[:n]); err != nil {
			break
		}
	}
	_ = up.Close()
	back.Wait()
	w.done <- steps
}

// take returns the messages of the connection that has ended.
func (w *wiretap) take(t *testing.T) []string {
	t.Helper()
	select {
	case steps := <-w.done:
		return steps
	case <-time.After(20 * time.Second):
		t.Fatal("the connection has not ended")
		return nil
	}
}
