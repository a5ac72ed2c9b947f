package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// The map in README.md has each package of the module and no other, and docs/README.md has each page.
func TestMapNamesEveryPackage(t *testing.T) {
	if !inTree() {
		t.Skip("needs the source")
	}
	text, err := os.ReadFile("../../README.md")
	require.NoError(t, err)
	_, listing, _ := strings.Cut(string(text), "## The map\n\n```\n")
	listing, _, _ = strings.Cut(listing, "```")

	// A line begins with a folder, indented below its parent. A second folder on the line is within the first one, or beside it.
	entry := regexp.MustCompile(`(?:^|  )([a-z/]+)/(?: |$)`)
	var named []string
	folders := map[string]bool{}
	var parents []string
	for line := range strings.SplitSeq(listing, "\n") {
		depth := (len(line) - len(strings.TrimLeft(line, " "))) / 2
		parents = parents[:min(depth, len(parents))]
		above := strings.Join(parents, "/")
		for i, m := range entry.FindAllStringSubmatch(line, -1) {
			if i == 0 {
				parents = append(parents, m[1])
			}
			within := strings.Trim(strings.Join([]string{above, m[1]}, "/"), "/")
			if below := strings.Join(append(slices.Clone(parents), m[1]), "/"); i > 0 && isFolder(below) {
				within = below
			}
			require.True(t, isFolder(within), "%s is no folder: %s", within, line)
			folders[within] = true
			named = append(named, within)
		}
	}
	out, err := exec.Command("go", "list", "../../...").Output()
	require.NoError(t, err)
	for _, pkg := range strings.Fields(string(out)) {
		require.Contains(t, folders, strings.TrimPrefix(pkg, module), "the map in README.md lacks a package")
	}
	require.Equal(t, len(folders), len(named), "a folder is there twice: %v", named)

	index, err := os.ReadFile("../../docs/README.md")
	require.NoError(t, err)
	pages, err := filepath.Glob("../../docs/*.md")
	require.NoError(t, err)
	for _, page := range pages {
		if name := filepath.Base(page); name != "README.md" {
			require.Contains(t, string(index), "("+name+")", "docs/README.md lacks a page")
		}
	}
}

func isFolder(path string) bool {
	info, err := os.Stat(filepath.Join("../..", path))
	return err == nil && info.IsDir()
}

// docs/configuration.md has each environment variable of the commands and no other.
func TestConfigurationNamesEveryVariable(t *testing.T) {
	if !inTree() {
		t.Skip("needs the source")
	}
	text, err := os.ReadFile("../../docs/configuration.md")
	require.NoError(t, err)
	var documented []string
	for _, m := range regexp.MustCompile("(?m)^\\| `(TOLLGATE_[A-Z_]+)`").FindAllStringSubmatch(string(text), -1) {
		documented = append(documented, m[1])
	}
	read := map[string]bool{}
	var walk func(of reflect.Type)
	walk = func(of reflect.Type) {
		for i := range of.NumField() {
			f := of.Field(i)
			if variable := f.Tag.Get("env"); variable != "" {
				read[variable] = true
			} else if f.Type.Kind() == reflect.Struct {
				walk(f.Type)
			}
		}
	}
	walk(reflect.TypeFor[commands]())
	require.Len(t, documented, len(read))
	for variable := range read {
		require.Contains(t, documented, variable)
	}
}
