package live

import "errors"

// errInterestLost says that the interest in a series had lapsed, as after a long stop of this process: its topic may have been removed.
var errInterestLost = errors.New("the interest in the series had lapsed")
