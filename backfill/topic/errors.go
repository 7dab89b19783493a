package topic

import "errors"

// ErrVersion is returned, wrapped, for a record of a version that this reader does not accept.
var ErrVersion = errors.New("unknown record version")

// ErrMalformed is returned, wrapped, for a record whose bytes are not what their version says.
var ErrMalformed = errors.New("malformed record")

// ErrDeployment is returned, wrapped, by Ensure where the topics belong to another deployment (PIPELINE 13).
var ErrDeployment = errors.New("topics belong to another deployment")

// ErrPartitions is returned, wrapped, by Ensure where a topic has another number of partitions than its setting: keys would
// move between partitions, so that needs a new prefix (PIPELINE 12).
var ErrPartitions = errors.New("partition count differs, which needs a new topic prefix")
