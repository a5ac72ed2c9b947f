package esdbtest

import (
	"os"
	"strings"
	"testing"

	"github.com/google/uuid"
)

// Variable names the environment variable with the URL of a real server, on which the suites that need no faults run then.
const Variable = "TOLLGATE_TEST_EVENTSTORE_URL"

// URL is that of an empty log: on a real server, if one is named, behind a prefix of its own, and else in this process.
func URL(t testing.TB) string {
	t.Helper()
	real := os.Getenv(Variable)
	if real == "" {
		return New(t, 1).URL()
	}
	separator := "?"
	if strings.Contains(real, "?") {
		separator = "&"
	}
	return real + separator + "streamPrefix=test-" + uuid.NewString() + "-"
}
