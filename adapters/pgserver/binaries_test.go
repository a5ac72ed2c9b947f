package pgserver

import (
	"errors"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestInstallationsAndChoice(t *testing.T) {
	t.Parallel()
	const debian, apple, fetched = "/usr/lib/postgresql/*/bin", "/opt/homebrew/opt/postgresql*/bin", "/data/postgres-programs/bin"
	for _, c := range []struct {
		name     string
		path     string
		globs    map[string][]string
		programs map[string]installation // by folder asked
		want     int                     // version of the cluster, 0 for a new one
		chosen   string
		err      string
	}{
		{
			name: "PATH wins over a newer package", path: "/bin:/opt/pg/bin",
			globs:    map[string][]string{debian: {"/usr/lib/postgresql/17/bin"}},
			programs: map[string]installation{"/opt/pg/bin": {"/opt/pg/bin", 15}, "/usr/lib/postgresql/17/bin": {"/usr/lib/postgresql/17/bin", 17}},
			chosen:   "/opt/pg/bin",
		},
		{
			name: "links are followed", path: "/usr/local/bin",
			globs:    map[string][]string{debian: {"/usr/lib/postgresql/15/bin"}},
			programs: map[string]installation{"/usr/local/bin": {"/usr/lib/postgresql/15/bin", 15}, "/usr/lib/postgresql/15/bin": {"/usr/lib/postgresql/15/bin", 15}},
			chosen:   "/usr/lib/postgresql/15/bin",
		},
		{
			name:     "newest of the usual folders, by number and not by letter",
			globs:    map[string][]string{debian: {"/d/100", "/d/14", "/d/9.6"}, apple: {"/a/16"}},
			programs: map[string]installation{"/d/100": {"/d/100", 100}, "/d/14": {"/d/14", 14}, "/d/9.6": {"/d/9.6", 9}, "/a/16": {"/a/16", 16}},
			chosen:   "/d/100",
		},
		{
			name: "too old on PATH, new enough elsewhere", path: "/old",
			globs:    map[string][]string{debian: {"/d/14"}},
			programs: map[string]installation{"/old": {"/old", 13}, "/d/14": {"/d/14", 14}},
			chosen:   "/d/14",
		},
		{
			name: "an existing cluster wants its own version", path: "/new",
			globs:    map[string][]string{debian: {"/d/15", "/d/16"}},
			programs: map[string]installation{"/new": {"/new", 17}, "/d/15": {"/d/15", 15}, "/d/16": {"/d/16", 16}},
			want:     15, chosen: "/d/15",
		},
		{
			name: "an existing cluster without its version", path: "/new:/newer",
			programs: map[string]installation{"/new": {"/new", 17}, "/newer": {"/newer", 18}},
			want:     15, err: "made by PostgreSQL 15 and needs its programs, but found only versions [17 18]; install PostgreSQL 15",
		},
		{
			name:     "fetched programs come last",
			programs: map[string]installation{fetched: {fetched, 17}},
			chosen:   fetched,
		},
		{
			name: "all too old", path: "/old",
			programs: map[string]installation{"/old": {"/old", 13}},
			err:      "PostgreSQL 14 or newer is needed, but found only versions [13]",
		},
		{
			name: "relative folders of PATH are not asked", path: ".::bin",
			programs: map[string]installation{".": {".", 17}, "": {"", 17}, "bin": {"bin", 17}},
			err:      "PostgreSQL 14 or newer is needed, but there is none on this machine",
		},
		{name: "nothing", path: "/bin", err: "but there is none on this machine; install it, or put its programs on PATH"},
		{name: "nothing for an existing cluster", path: "/bin", want: 15, err: "made by PostgreSQL 15 and needs its programs, but there is none on this machine"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s := search{
				path: c.path, fetched: fetched,
				glob: func(pattern string) ([]string, error) { return c.globs[pattern], nil },
				probe: func(dir string) (installation, error) {
					if i, ok := c.programs[dir]; ok {
						return i, nil
					}
					return installation{}, errors.New("no programs")
				},
			}
			got, err := choose(s.installations(), c.want)
			if c.err != "" {
				require.ErrorContains(t, err, c.err)
				return
			}
			require.NoError(t, err)
			assert.Equal(t, c.chosen, got.bin)
		})
	}
}
