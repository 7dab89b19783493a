package live

import "github.com/twmb/franz-go/pkg/kmsg"

type (
	kmsgRequest  = kmsg.Request
	kmsgResponse = kmsg.Response
)

// fetchKey is the key of Fetch.
const fetchKey = 1
