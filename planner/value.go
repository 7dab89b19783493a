package planner

import (
	"encoding/binary"
	"strconv"
	"strings"
	"time"

	"barkeep/internal/market"
)

// Type OIDs of pg_type.dat.
const (
	oidBool             = 16
	oidName             = 19
	oidInt8             = 20
	oidInt2             = 21
	oidInt4             = 23
	oidText             = 25
	oidFloat8           = 701
	oidUnknown          = 705
	oidInt4Array        = 1007
	oidTextArray        = 1009
	oidVarcharArray     = 1015
	oidInt8Array        = 1016
	oidBPChar           = 1042
	oidVarchar          = 1043
	oidDate             = 1082
	oidTimestamp        = 1114
	oidTimestampArray   = 1115
	oidTimestamptz      = 1184
	oidDateArray        = 1182
	oidTimestamptzArray = 1185
	oidInterval         = 1186
	oidNumeric          = 1700
	oidUUID             = 2950
	oidUUIDArray        = 2951
)

// pgEpoch is 2000-01-01 UTC, from which PostgreSQL counts its binary times.
const pgEpoch = market.Instant(946684800 * 1e6)

// kind is the type of an evaluated constant, as far as it matters here.
type kind uint8

const (
	kindOpaque      kind = iota // not evaluated
	kindUnknown                 // a literal or parameter whose type PostgreSQL has still to find
	kindText                    // text or varchar without a length
	kindTimestamptz             // an instant
	kindTimestamp               // a wall clock in the session's zone, read as if it were UTC
	kindDate                    // likewise, a midnight
	kindInterval
	kindInt
	kindBool
)

// value is an evaluated constant. A time is known to lie in [lo, hi].
type value struct {
	kind kind
	null bool
	text string // kindUnknown, kindText; with null, what an element of an array is where array_nulls is off
	// literal says that a kindUnknown stands in the statement itself.
	literal bool
	// unsure says that a kindText is a parameter of a type that is not known: what a cast makes of it is not known either.
	unsure bool
	lo, hi market.Instant
	span   span
	n      int64
	b      bool
}

func nullOf(k kind) value { return value{kind: k, null: true} }

func instant(k kind, i market.Instant) value { return value{kind: k, lo: i, hi: i} }

func (v value) widen(below, above time.Duration) value {
	v.lo, v.hi = v.lo.Shift(-below), v.hi.Shift(above)
	return v
}

// decodeBinary reads a parameter in binary format, of a type that was declared or inferred.
func decodeBinary(oid uint32, raw []byte) (value, bool) {
	switch oid {
	case oidTimestamptz, oidTimestamp:
		k := kindTimestamptz
		if oid == oidTimestamp {
			k = kindTimestamp
		}
		if len(raw) != 8 {
			return value{}, false
		}
		us := int64(binary.BigEndian.Uint64(raw)) //nolint:gosec // the bits are a signed number
		return instant(k, pgInstant(us)), true
	case oidDate:
		if len(raw) != 4 {
			return value{}, false
		}
		days := int32(binary.BigEndian.Uint32(raw)) //nolint:gosec // the bits are a signed number
		switch days {
		case 1<<31 - 1:
			return instant(kindDate, market.PosInf), true
		case -1 << 31:
			return instant(kindDate, market.NegInf), true
		}
		return instant(kindDate, pgEpoch+market.Instant(days)*dayMicros), true
	case oidText, oidVarchar, oidUnknown:
		return value{kind: kindText, text: string(raw)}, true
	case oidInt8, oidInt4, oidInt2:
		return decodeInt(raw)
	case oidInterval:
		return decodeInterval(raw)
	case oidBool:
		return value{kind: kindBool, b: len(raw) == 1 && raw[0] != 0}, len(raw) == 1
	}
	return value{}, false
}

const dayMicros = market.Instant(24 * time.Hour / time.Microsecond)

func pgInstant(us int64) market.Instant {
	switch i := market.Instant(us); {
	case i.IsInf():
		return i
	case i >= market.PosInf-pgEpoch:
		return market.PosInf
	default:
		return i + pgEpoch
	}
}

// decodeInterval reads microseconds, days and months.
func decodeInterval(raw []byte) (value, bool) {
	if len(raw) != 16 {
		return value{}, false
	}
	us := int64(binary.BigEndian.Uint64(raw))          //nolint:gosec // the bits are a signed number
	days := int32(binary.BigEndian.Uint32(raw[8:]))    //nolint:gosec // as above
	months := int32(binary.BigEndian.Uint32(raw[12:])) //nolint:gosec // as above
	if us > int64(maxSpanRest/time.Microsecond) || us < -int64(maxSpanRest/time.Microsecond) {
		return value{}, false
	}
	s := span{int64(months), int64(days), time.Duration(us) * time.Microsecond}
	return value{kind: kindInterval, span: s}, s.small()
}

func decodeInt(raw []byte) (value, bool) {
	v := value{kind: kindInt}
	switch len(raw) {
	case 2:
		v.n = int64(int16(binary.BigEndian.Uint16(raw))) //nolint:gosec // the bits are a signed number
	case 4:
		v.n = int64(int32(binary.BigEndian.Uint32(raw))) //nolint:gosec // the bits are a signed number
	case 8:
		v.n = int64(binary.BigEndian.Uint64(raw)) //nolint:gosec // the bits are a signed number
	default:
		return value{}, false
	}
	return v, true
}

// Declared returns the type that a client gives a parameter: zero, for PostgreSQL to infer it, also where that is unknown
// (variable_paramref_hook).
func Declared(oid uint32) uint32 {
	if oid == oidUnknown {
		return 0
	}
	return oid
}

// kindOf returns the kind of a type's values.
func kindOf(oid uint32) kind {
	switch oid {
	case 0, oidUnknown:
		return kindUnknown
	case oidText, oidVarchar:
		return kindText
	case oidTimestamptz:
		return kindTimestamptz
	case oidTimestamp:
		return kindTimestamp
	case oidDate:
		return kindDate
	case oidInterval:
		return kindInterval
	case oidInt8, oidInt4, oidInt2:
		return kindInt
	case oidBool:
		return kindBool
	}
	return kindOpaque
}

// typeOIDs are the types that a cast or a PREPARE may name, by the name the parser gives them.
var typeOIDs = map[string]uint32{ //nolint:gochecknoglobals // a table
	"text": oidText, "varchar": oidVarchar, "timestamptz": oidTimestamptz, "timestamp": oidTimestamp, "date": oidDate,
	"interval": oidInterval, "int8": oidInt8, "int4": oidInt4, "int2": oidInt2, "bool": oidBool, "unknown": oidUnknown,
	"bigint": oidInt8, "int": oidInt4, "integer": oidInt4, "smallint": oidInt2, "boolean": oidBool, "name": oidName,
}

// element is one of an array in text form. NULL without quotes is null, or where array_nulls is off the text as it is spelled.
type element struct {
	text string
	null bool
}

// parseArray reads the text form of a one-dimensional array.
func parseArray(text string) ([]element, bool) {
	text = strings.TrimSpace(text)
	if len(text) < 2 || text[0] != '{' || text[len(text)-1] != '}' {
		return nil, false
	}
	body := text[1 : len(text)-1]
	var list []element
	if strings.TrimSpace(body) == "" {
		return list, true
	}
	for {
		body = strings.TrimLeft(body, " \t\n\r\v\f")
		one, rest, ok := arrayElement(body)
		if !ok {
			return nil, false
		}
		list = append(list, one)
		rest = strings.TrimLeft(rest, " \t\n\r\v\f")
		if rest == "" {
			return list, true
		}
		if rest[0] != ',' {
			return nil, false
		}
		body = rest[1:]
	}
}

func arrayElement(body string) (one element, rest string, ok bool) {
	var out strings.Builder
	if body == "" {
		return element{}, "", false
	}
	if body[0] == '"' {
		for i := 1; i < len(body); i++ {
			switch body[i] {
			case '\\':
				i++
				if i < len(body) {
					out.WriteByte(body[i])
				}
			case '"':
				return element{text: out.String()}, body[i+1:], true
			default:
				out.WriteByte(body[i])
			}
		}
		return element{}, "", false
	}
	end := strings.IndexByte(body, ',')
	if end < 0 {
		end = len(body)
	}
	word := strings.TrimRight(body[:end], " \t\n\r\v\f")
	if word == "" || strings.ContainsAny(word, `{}"\`) {
		return element{}, "", false
	}
	return element{text: word, null: strings.EqualFold(word, "null")}, body[end:], true
}

// decodeArray reads the binary form of a one-dimensional array and returns its element type and the raw elements.
func decodeArray(raw []byte) (oid uint32, elements [][]byte, ok bool) {
	if len(raw) < 12 {
		return 0, nil, false
	}
	dimensions := binary.BigEndian.Uint32(raw)
	oid = binary.BigEndian.Uint32(raw[8:])
	if dimensions == 0 {
		return oid, nil, len(raw) == 12
	}
	if dimensions != 1 || len(raw) < 20 {
		return 0, nil, false
	}
	count := binary.BigEndian.Uint32(raw[12:])
	raw = raw[20:]
	for range count {
		if len(raw) < 4 {
			return 0, nil, false
		}
		size := binary.BigEndian.Uint32(raw)
		raw = raw[4:]
		if size == 1<<32-1 {
			elements = append(elements, nil)
			continue
		}
		if uint64(size) > uint64(len(raw)) {
			return 0, nil, false
		}
		elements = append(elements, raw[:size:size])
		raw = raw[size:]
	}
	return oid, elements, len(raw) == 0
}

// parseMicros reads the answer to a question: microseconds since the epoch as a numeric, or an infinity.
func parseMicros(text string) (market.Instant, bool) {
	switch text {
	case "Infinity":
		return market.PosInf, true
	case "-Infinity":
		return market.NegInf, true
	}
	whole, fraction, _ := strings.Cut(text, ".")
	if strings.Trim(fraction, "0") != "" {
		return 0, false
	}
	us, err := strconv.ParseInt(whole, 10, 64)
	return market.Instant(us), err == nil
}
