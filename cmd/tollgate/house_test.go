package main

import (
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const module = "github.com/tollgate-io/tollgate/"

// mayImport is the direction of dependencies: domain <- projections <- adapters <- cmd, domain <- api <- cmd.
var mayImport = map[string][]string{
	"domain":      {"domain"},
	"projections": {"projections", "domain"},
	"migrations":  {"migrations"},
	"adapters":    {"adapters", "projections", "domain", "migrations"},
	"api":         {"api", "domain"},
	"cmd":         {"cmd", "adapters", "api", "projections", "domain", "migrations"},
	"scripts":     {"scripts", "cmd", "adapters", "api", "projections", "domain", "migrations"},
}

// domainLibraries are the only modules from outside that the domain knows: exact numbers, text and encodings.
var domainLibraries = []string{
	"github.com/cockroachdb/apd/", "github.com/go-json-experiment/json", "github.com/google/btree", "github.com/google/uuid", "go.yaml.in/yaml/",
	"golang.org/x/net/idna", "golang.org/x/text/", "google.golang.org/protobuf/encoding/protowire",
}

// inTree is whether the tests run where the source is, and not only the file with them on another machine.
func inTree() bool {
	_, err := os.Stat("../../go.mod")
	return err == nil
}

func TestDependenciesPointInwards(t *testing.T) {
	if !inTree() {
		t.Skip("it is about the source, which is not here")
	}
	out, err := exec.Command("go", "list", "-f", `{{.ImportPath}}{{range .Imports}} {{.}}{{end}}`, module+"...").Output()
	require.NoError(t, err)
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	require.Greater(t, len(lines), 10)
	for _, line := range lines {
		pkg, imports, _ := strings.Cut(line, " ")
		from := strings.TrimPrefix(pkg, module)
		room, _, _ := strings.Cut(from, "/")
		allowed, known := mayImport[room]
		require.True(t, known, "%s is in no room of the house", from)
		for _, imported := range strings.Fields(imports) {
			to, ours := strings.CutPrefix(imported, module)
			switch {
			case ours:
				target, rest, _ := strings.Cut(to, "/")
				require.Contains(t, allowed, target, "%s imports %s", from, to)
				if room == "adapters" && target == "adapters" && !strings.HasPrefix(from, "adapters/"+first(rest)) {
					t.Errorf("%s imports another adapter, %s", from, to)
				}
			case room == "domain" && strings.Contains(first(imported), ".") && !strings.Contains(from, "test"):
				require.True(t, startsWithAny(imported, domainLibraries), "%s imports %s", from, imported)
			}
		}
	}
}

func first(path string) string {
	head, _, _ := strings.Cut(path, "/")
	return head
}

func startsWithAny(s string, prefixes []string) bool {
	for _, p := range prefixes {
		if strings.HasPrefix(s, p) {
			return true
		}
	}
	return false
}
