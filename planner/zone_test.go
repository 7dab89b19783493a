package planner

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestNearZone(t *testing.T) {
	t.Parallel()
	for name, near := range map[string]bool{
		"": true, "UTC": true, "America/New_York": true, "Etc/GMT-14": true, "EST5EDT": true, "GMT-13:00": true, "<+0530>-05:30": true,
		"<+05:30>-05:30": true, "PST8PDT,M3.2.0,M11.1.0": true, "<-03>3<-02>2,M10.3.0/0,M2.3.0/0": true, "GMT+015": true,
		"<+100>-100": false, "<-16>16": false, "A/B+16": false, "AAA15BBB-15": false, "AAA12BBB-12": false, "AAA11BBB-12": false,
		"AAA5BBB100,M3.2.0,M11.1.0": false, "<-20>20": false, "AAA99999999999999999999": false, "AAA5BBB6CCC7": false, "+1e2": false, "5": false, "+5:30": false,
	} {
		require.Equal(t, near, nearZone(name), name)
	}
}
