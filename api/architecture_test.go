package api_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// The page names files and functions: `path/file.go` | `Type.Function`, in the last two columns of its tables.
var (
	placeRow     = regexp.MustCompile("(?m)^\\|(.*)\\| `([a-z_/]+\\.go)` \\| `([A-Za-z.]+)` \\|$")
	operationRow = regexp.MustCompile("^ `([A-Za-z]+)` $")
)

// docs/architecture.md leads from each operation to its use case: each has one row, what the row names is there, and the
// operation's handler calls it.
func TestArchitecturePage(t *testing.T) {
	page, err := os.ReadFile("../docs/architecture.md")
	require.NoError(t, err)
	written := map[string]string{}
	for _, row := range placeRow.FindAllStringSubmatch(string(page), -1) {
		file, function := row[2], row[3]
		assert.Contains(t, functionsOf(t, filepath.Join("..", file)), function, file)
		if operation := operationRow.FindStringSubmatch(row[1]); operation != nil {
			assert.NotContains(t, written, operation[1], "each operation has one row")
			written[operation[1]] = function
		}
	}
	calls := callsOf(t, ".")
	for route, o := range operations(t) {
		function, ok := written[o.OperationID]
		if assert.True(t, ok, "%s (%s) has no row", o.OperationID, route) {
			handler := strings.ToUpper(o.OperationID[:1]) + o.OperationID[1:]
			if _, name, _ := strings.Cut(function, "."); name != handler {
				assert.True(t, reaches(calls, handler, name, map[string]bool{}), "the handler of %s does not call %s", o.OperationID, function)
			}
		}
		delete(written, o.OperationID)
	}
	assert.Empty(t, written, "no such operation")
}

// functionsOf are the functions of a file: Name, or Type.Name.
func functionsOf(t *testing.T, path string) []string {
	file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
	require.NoError(t, err)
	var names []string
	for _, d := range file.Decls {
		f, ok := d.(*ast.FuncDecl)
		if !ok {
			continue
		}
		name := f.Name.Name
		if f.Recv != nil {
			of := f.Recv.List[0].Type
			if star, ok := of.(*ast.StarExpr); ok {
				of = star.X
			}
			if id, ok := of.(*ast.Ident); ok {
				name = id.Name + "." + name
			}
		}
		names = append(names, name)
	}
	return names
}

// callsOf are the names that each function of a package mentions, by its own name without a type.
func callsOf(t *testing.T, dir string) map[string][]string {
	paths, err := filepath.Glob(filepath.Join(dir, "*.go"))
	require.NoError(t, err)
	calls := map[string][]string{}
	for _, path := range paths {
		if strings.HasSuffix(path, "_test.go") || strings.HasSuffix(path, ".gen.go") {
			continue
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
		require.NoError(t, err)
		for _, d := range file.Decls {
			f, ok := d.(*ast.FuncDecl)
			if !ok {
				continue
			}
			ast.Inspect(f.Body, func(n ast.Node) bool {
				if id, ok := n.(*ast.Ident); ok {
					calls[f.Name.Name] = append(calls[f.Name.Name], id.Name)
				}
				return true
			})
		}
	}
	return calls
}

// reaches reports whether a function mentions a name, itself or through others of its package.
func reaches(calls map[string][]string, from, name string, seen map[string]bool) bool {
	if seen[from] {
		return false
	}
	seen[from] = true
	for _, called := range calls[from] {
		if called == name || reaches(calls, called, name, seen) {
			return true
		}
	}
	return false
}
