// Package verifier finds what users prove themselves against when barkeep ends their exchange of SCRAM itself: in the
// database, or in a file of an administrator. It is read anew for each login, so that a changed password counts at once,
// and no secret is kept in memory.
package verifier

import (
	"errors"

	"barkeep/internal/scram"
)

// Secret is what one user proves to know.
type Secret struct {
	// Verifier is set where Refusal is empty.
	scram.Verifier
	// Refusal says, for the log, why nobody can prove to be this user.
	Refusal string
	// MayNotLogin says that the role exists but may not log in, which PostgreSQL tells those alone who know the password.
	MayNotLogin bool
}

// ErrUnreadable is returned, wrapped, where verifiers cannot be read until an administrator changes something.
var ErrUnreadable = errors.New("verifiers cannot be read")

// Reasons of a Refusal.
const (
	refusedUnknown  = "there is no such role"
	refusedUnlisted = "auth.users_file has no such user"
	refusedNone     = "the role has no password"
	refusedExpired  = "the role's password has expired"
	refusedKind     = "the role's password is not stored for SCRAM-SHA-256"
)

// secretOf is the Secret of a stored text.
func secretOf(text string) Secret {
	v, err := scram.ParseVerifier(text)
	if err != nil {
		return Secret{Refusal: refusedKind}
	}
	return Secret{Verifier: v}
}
