package planner

import (
	"strings"
	"unicode/utf8"

	"golang.org/x/text/encoding"
	"golang.org/x/text/encoding/charmap"
	"golang.org/x/text/encoding/japanese"
	"golang.org/x/text/encoding/korean"
	"golang.org/x/text/encoding/simplifiedchinese"
	"golang.org/x/text/encoding/traditionalchinese"
)

// clientEncodings are what client_encoding can be, by the names that PostgreSQL reports (manual, 23.3.1). MULE_INTERNAL, JOHAB,
// EUC_TW and SHIFT_JIS_2004 are not known here.
var clientEncodings = map[string]encoding.Encoding{ //nolint:gochecknoglobals // a table
	"LATIN1": charmap.ISO8859_1, "LATIN2": charmap.ISO8859_2, "LATIN3": charmap.ISO8859_3, "LATIN4": charmap.ISO8859_4,
	"LATIN5": charmap.ISO8859_9, "LATIN6": charmap.ISO8859_10, "LATIN7": charmap.ISO8859_13, "LATIN8": charmap.ISO8859_14,
	"LATIN9": charmap.ISO8859_15, "LATIN10": charmap.ISO8859_16, "ISO_8859_5": charmap.ISO8859_5, "ISO_8859_6": charmap.ISO8859_6,
	"ISO_8859_7": charmap.ISO8859_7, "ISO_8859_8": charmap.ISO8859_8, "WIN866": charmap.CodePage866, "WIN874": charmap.Windows874,
	"WIN1250": charmap.Windows1250, "WIN1251": charmap.Windows1251, "WIN1252": charmap.Windows1252, "WIN1253": charmap.Windows1253,
	"WIN1254": charmap.Windows1254, "WIN1255": charmap.Windows1255, "WIN1256": charmap.Windows1256, "WIN1257": charmap.Windows1257,
	"WIN1258": charmap.Windows1258, "KOI8R": charmap.KOI8R, "KOI8U": charmap.KOI8U, "EUC_JP": japanese.EUCJP, "SJIS": japanese.ShiftJIS,
	"EUC_KR": korean.EUCKR, "UHC": korean.EUCKR, "EUC_CN": simplifiedchinese.GBK, "GBK": simplifiedchinese.GBK,
	"GB18030": simplifiedchinese.GB18030, "BIG5": traditionalchinese.Big5,
}

// IsUTF8 reports whether an encoding of that name is UTF-8; the empty one is.
func IsUTF8(name string) bool {
	switch strings.ToLower(name) {
	case "", "utf8", "utf-8", "unicode":
		return true
	}
	return false
}

// decodeText returns a text in UTF-8 (PLANNER 4); false where its encoding is not known here, or it is not in that encoding.
func decodeText(text, name string) (string, bool) {
	if IsUTF8(name) || ASCII(text) || strings.EqualFold(name, "SQL_ASCII") && utf8.ValidString(text) {
		return text, true
	}
	known := clientEncodings[strings.ToUpper(name)]
	if known == nil {
		return "", false
	}
	decoded, err := known.NewDecoder().String(text)
	return decoded, err == nil && !strings.ContainsRune(decoded, utf8.RuneError)
}

// Decode returns a text in UTF-8, as the catalog has its names (PLANNER 4); false where its encoding is not known here, or it is not in that
// encoding.
func Decode(text, encoding string) (string, bool) { return decodeText(text, encoding) }

// encodeText is the inverse of decodeText, for a part of a text.
func encodeText(text, name string) string {
	if known := clientEncodings[strings.ToUpper(name)]; known != nil && !ASCII(text) {
		if encoded, err := known.NewEncoder().String(text); err == nil {
			return encoded
		}
	}
	return text
}

// ASCII reports whether a text reads the same in every encoding that is known here.
func ASCII[T string | []byte](text T) bool {
	for i := range len(text) {
		if text[i] >= 0x80 {
			return false
		}
	}
	return true
}
