package proxy

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"strconv"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5/pgproto3"

	"barkeep/internal/schema"
)

// Error is what a client is told.
type Error struct {
	Code, Message, Detail, HintText string
	// Position is that of the error in the statement's text, counted in characters from 1, or 0.
	Position int32
	// Fatal ends the session.
	Fatal bool
}

// Error returns the message.
func (e *Error) Error() string { return e.Message }

// SQLState returns the error's SQLSTATE.
func (e *Error) SQLState() string { return e.Code }

// Hint returns what the user can do, or nothing.
func (e *Error) Hint() string { return e.HintText }

var (
	errShutdown = &Error{
		Code: pgerrcode.AdminShutdown, Message: "terminating connection: barkeep is shutting down", Fatal: true,
	}
	errCanceled         = &Error{Code: pgerrcode.QueryCanceled, Message: "canceling statement due to user request"}
	errStatementTimeout = &Error{Code: pgerrcode.QueryCanceled, Message: "canceling statement due to statement timeout"}
	errHoldTimeout      = &Error{
		Code: pgerrcode.QueryCanceled, Message: "canceling statement due to barkeep.timeout: its bars are still being fetched",
		HintText: "The fetch goes on; run the statement again, or raise barkeep.timeout.",
	}
	errBlocksIngest = &Error{
		Code: pgerrcode.LockNotAvailable, Message: "canceling statement: the bars it waits for cannot be stored while its own transaction holds its locks",
		HintText: "End the transaction; read the bars before taking locks that conflict with writing ohlcv, or in a transaction of their own.",
	}
	errTransactionTimeout = &Error{Code: pgerrcode.QueryCanceled, Message: "canceling statement due to transaction timeout"}
	errUpstreamGone       = &Error{Code: pgerrcode.ConnectionFailure, Message: "connection to the database was lost", Fatal: true}
	errNoRight            = &Error{Code: pgerrcode.InsufficientPrivilege, Message: "permission denied for table ohlcv"}
	errWrites             = &Error{
		Code: pgerrcode.InsufficientPrivilege, Message: "ohlcv cannot be written by a statement",
		HintText: "Its rows are kept by barkeep; insert into a table of your own.",
	}
	errBlockFailed = &Error{
		Code: pgerrcode.InFailedSQLTransaction, Message: "current transaction is aborted, commands ignored until end of transaction block",
	}
	errImported = &Error{
		Code: pgerrcode.SerializationFailure, Message: "barkeep cannot know which bars an imported snapshot shows",
		HintText: "Read ohlcv in a transaction with a snapshot of its own, or set barkeep.mode to stored to read what the snapshot shows.",
	}
	errSettingsInSegment = &Error{
		Code: pgerrcode.FeatureNotSupported, Message: "settings change in the pipeline that reads ohlcv",
		HintText: "Send Sync between the statement that changes settings and the one that reads ohlcv.",
	}
	errConcealed = &Error{
		Code:     pgerrcode.FeatureNotSupported,
		Message:  "what the statement uses may have been defined before it in the same pipeline or Query, by SQL that is made as it is executed",
		HintText: "Send the statement once the one before it is answered (in a pipeline: behind a Sync), or set barkeep.mode to stored.",
	}
	errTooManyDefinitions = &Error{
		Code: pgerrcode.ProgramLimitExceeded, Message: "the transaction has defined more than barkeep can look at",
		HintText: "Commit before ohlcv is read.",
	}
	errBehindEnd = &Error{
		Code: pgerrcode.FeatureNotSupported, Message: "a failed block is ended, or taken back to a savepoint, before ohlcv is read in the same Query or pipeline",
		HintText: "Send what ends it by itself.",
	}
	errCursorSettings = &Error{
		Code:     pgerrcode.FeatureNotSupported,
		Message:  "TimeZone, DateStyle or IntervalStyle has changed since a cursor that reads ohlcv was opened",
		HintText: "Open the cursor anew, or set them back.",
	}
	errPlanKept = &Error{
		Code: pgerrcode.SerializationFailure, Message: "bars came while the pipeline was under way, which the plan that the database has of the statement may not show",
		HintText: "Retry the transaction, or send Sync before the statement.",
	}
	errSettingsDiffer = &Error{
		Code: pgerrcode.FeatureNotSupported, Message: "barkeep's settings change between statements of one Query that read ohlcv",
		HintText: "Send the statements as Queries of their own.",
	}
	errUnsettled = &Error{
		Code: pgerrcode.SerializationFailure, Message: "what the statement needs kept growing while it was fetched",
		HintText: "Run the statement again.",
	}

	errNoProof        = startupError("the database asked for no proof of who you are; barkeep lets only clients on its own machine in like that")
	errOurCertificate = startupError("the database asked for no proof of who you are but barkeep's own certificate, which is proof of nobody else")
	errByProcess      = &Error{
		Code:     pgerrcode.InvalidAuthorizationSpecification,
		Message:  "the database asked for no proof of who you are; it may go by the user that barkeep's own process runs as, which is proof of nobody else",
		HintText: "Let pg_hba.conf ask for scram-sha-256 where it says peer or ident; or set auth.allow_trust, and everybody who reaches barkeep is let in.", Fatal: true,
	}
	errNoRules    = &Error{Code: pgerrcode.CannotConnectNow, Message: "barkeep cannot read pg_hba.conf from the database now", Fatal: true, HintText: "Connect again."}
	errCannotBind = &Error{
		Code: pgerrcode.InvalidAuthorizationSpecification, Message: "barkeep cannot relay SCRAM between two channels of TLS", Fatal: true,
		Detail:   "You can bind the exchange to your channel, and so can the database to its own, but they are not one channel.",
		HintText: "Connect with channel_binding=disable, or let barkeep read verifiers, by the function barkeep.verifier or auth.users_file.",
	}
	errNotBound = &Error{
		Code: pgerrcode.InvalidAuthorizationSpecification, Message: "barkeep cannot log in to the database with channel binding, which upstream.url requires", Fatal: true,
		HintText: "Channel binding needs TLS to the database, the method scram-sha-256 there, and verifiers, by the function barkeep.verifier or auth.users_file.",
	}
	errImpostor = &Error{
		Code: pgerrcode.InvalidAuthorizationSpecification, Message: "the database did not prove that it knows your password", Fatal: true,
	}
	errNoVerifiers = &Error{Code: pgerrcode.CannotConnectNow, Message: "barkeep cannot read verifiers now", Fatal: true, HintText: "Connect again."}
	errNeedsTLS    = &Error{
		Code: pgerrcode.InvalidAuthorizationSpecification, Message: "connection requires TLS",
		HintText: "barkeep takes no unencrypted connections over TCP here; connect with sslmode=require or stricter.", Fatal: true,
	}
	errNeedsCertificate = &Error{
		Code: pgerrcode.InvalidAuthorizationSpecification, Message: "connection requires a valid client certificate",
		HintText: "Connect with sslcert and sslkey: a certificate of an authority that barkeep knows, for the user that logs in.", Fatal: true,
	}
	errBehindSSLRequest = unencrypted("SSL request")
	errBehindGSSRequest = unencrypted("GSSAPI encryption request")

	errClientGone = errors.New("client is gone")
	// errSegmentFailed says that what was sent of the segment before has failed upstream.
	errSegmentFailed = errors.New("segment has failed upstream")
)

// protocolError is a message of the client that cannot be.
func protocolError(message string) *Error {
	return &Error{Code: pgerrcode.ProtocolViolation, Message: message, Fatal: true}
}

// unencrypted is what PostgreSQL says of bytes that came with a request for encryption.
func unencrypted(request string) *Error {
	return &Error{
		Code: pgerrcode.ProtocolViolation, Message: "received unencrypted data after " + request,
		Detail: "This could be either a client-software bug or evidence of an attempted man-in-the-middle attack.", Fatal: true,
	}
}

// errVersion is PostgreSQL's answer to a protocol of another major version.
func errVersion(code uint32) *Error {
	return &Error{
		Code: pgerrcode.FeatureNotSupported, Fatal: true,
		Message: fmt.Sprintf("unsupported frontend protocol %d.%d: server supports 3.0 and what its database knows of 3", code>>16, code&0xffff),
	}
}

func startupError(message string) *Error {
	return &Error{Code: pgerrcode.InvalidAuthorizationSpecification, Message: message, Fatal: true}
}

// errRequireAuth is a method that upstream.url does not let the database use: libpq's require_auth.
func errRequireAuth(method string) *Error {
	return startupError("the database uses the method of authentication " + method + ", which require_auth of upstream.url does not allow")
}

// errMethod is a request for authentication that neither barkeep nor anybody in its place can meet.
func errMethod(request uint32) *Error {
	name, ok := map[uint32]string{authKerberos: "Kerberos", authGSS: "GSSAPI", authSSPI: "SSPI"}[request]
	if !ok {
		name = "a method of number " + strconv.FormatUint(uint64(request), 10)
	}
	err := startupError("the database asks for authentication by " + name + ", which barkeep cannot relay")
	err.HintText = "Let pg_hba.conf ask for scram-sha-256 where barkeep connects from."
	return err
}

// publicError turns any error into what the client may see. Those that nobody vouches for are logged under an id.
func publicError(ctx context.Context, log *slog.Logger, err error) *Error {
	if own, ok := errors.AsType[*Error](err); ok {
		return own
	}
	var coded interface {
		error
		SQLState() string
	}
	lost := schema.Lost(err)
	if !lost && errors.As(err, &coded) && len(coded.SQLState()) == 5 {
		public := &Error{Code: coded.SQLState(), Message: coded.Error()}
		var hinted interface{ Hint() string }
		if errors.As(err, &hinted) {
			public.HintText = hinted.Hint()
		}
		return public
	}
	id := make([]byte, 6)
	_, _ = rand.Read(id)
	name := hex.EncodeToString(id)
	log.ErrorContext(ctx, "statement failed", slog.String("error_id", name), slog.Any("error", err))
	if lost {
		return &Error{
			Code: pgerrcode.IOError, Message: "barkeep cannot reach its database (" + name + ")",
			HintText: "Run the statement again; the log of barkeep has the cause under this id.",
		}
	}
	return &Error{Code: pgerrcode.InternalError, Message: "internal error " + name, HintText: "The log of barkeep has the cause under this id."}
}

// encodeOldest returns the error as protocol 2 has it, which is all that a client of that version reads.
func (e *Error) encodeOldest() []byte { return []byte("EFATAL:  " + e.Message + "\n\x00") }

// encode returns the error as an ErrorResponse.
func (e *Error) encode() []byte {
	severity := "ERROR"
	if e.Fatal {
		severity = "FATAL"
	}
	return encode(&pgproto3.ErrorResponse{
		Severity: severity, SeverityUnlocalized: severity, Code: e.Code, Message: e.Message, Detail: e.Detail, Hint: e.HintText,
		Position: e.Position,
	})
}

// notice returns a NoticeResponse of severity NOTICE or WARNING.
func notice(severity, message string) []byte {
	code := pgerrcode.SuccessfulCompletion
	if severity == "WARNING" {
		code = pgerrcode.Warning
	}
	return encode(&pgproto3.NoticeResponse{Severity: severity, SeverityUnlocalized: severity, Code: code, Message: message})
}

// together is told with an error that may be of another statement than the first of those that were held as one: drivers that match answers with
// statements take it for that of the first.
const together = "The statements of a pipeline up to its Sync or Flush are held as one: the error may be of any of them, and none was executed."

// detailed returns an ErrorResponse with a DETAIL, where it has none of its own.
func detailed(message []byte, detail string) []byte {
	var response pgproto3.ErrorResponse
	if response.Decode(message[5:]) != nil || response.Detail != "" {
		return message
	}
	response.Detail = detail
	return encode(&response)
}

// encode returns the bytes of a message that cannot be too large.
func encode(message pgproto3.Message) []byte {
	data, err := message.Encode(nil)
	if err != nil {
		return nil
	}
	return data
}
