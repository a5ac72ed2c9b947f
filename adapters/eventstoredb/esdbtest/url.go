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
	return WithPrefix(real, "test-"+uuid.NewString()+"-")
}

// WithPrefix is the URL of a log whose streams have names of their own.
func WithPrefix(url, prefix string) string {
	separator := "?"
	if strings.Contains(url, "?") {
		separator = "&"
	}
	return url + separator + "streamPrefix=" + prefix
}
