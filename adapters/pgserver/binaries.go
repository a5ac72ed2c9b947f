package pgserver

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"time"

	embeddedpostgres "github.com/fergusstrange/embedded-postgres"
)

const (
	minMajor       = 14
	installTimeout = 15 * time.Minute
	probeTimeout   = 10 * time.Second
)

// installation is a folder with the programs of one PostgreSQL version.
type installation struct {
	bin   string
	major int
}

// usualFolders are where packages put the programs without putting them on PATH.
var usualFolders = []string{
	"/usr/lib/postgresql/*/bin",
	"/usr/pgsql-*/bin",
	"/usr/local/pgsql/bin",
	"/opt/homebrew/opt/postgresql*/bin",
	"/usr/local/opt/postgresql*/bin",
	"/Applications/Postgres.app/Contents/Versions/*/bin",
}

// search is how installations are looked for. Its fields are the outside world.
type search struct {
	path    string                                 // as in PATH
	fetched string                                 // where fetched programs would be
	glob    func(string) ([]string, error)         // as filepath.Glob
	probe   func(dir string) (installation, error) // an error when the folder has no usable programs
}

// installations lists what is there, the preferred first: what PATH names, then
// the usual folders from the newest version down, then what was fetched.
func (s search) installations() []installation {
	var found []installation
	seen := map[string]bool{}
	try := func(dirs ...string) []installation {
		var got []installation
		for _, dir := range dirs {
			if !filepath.IsAbs(dir) {
				continue
			}
			if i, err := s.probe(dir); err == nil && !seen[i.bin] {
				seen[i.bin] = true
				got = append(got, i)
			}
		}
		return got
	}
	found = append(found, try(filepath.SplitList(s.path)...)...)
	var usual []string
	for _, pattern := range usualFolders {
		matches, _ := s.glob(pattern) // fails only for a malformed pattern
		usual = append(usual, matches...)
	}
	packaged := try(usual...)
	slices.SortStableFunc(packaged, func(a, b installation) int { return cmp.Compare(b.major, a.major) })
	return append(append(found, packaged...), try(s.fetched)...)
}

// choose picks the programs for a cluster of version want; 0 stands for a new
// cluster. A cluster can be served by its own major version only.
func choose(found []installation, want int) (installation, error) {
	for _, i := range found {
		if i.major == want || want == 0 && i.major >= minMajor {
			return i, nil
		}
	}
	return installation{}, &missingError{want: want, found: found}
}

// missingError says which programs are needed and what there is instead.
type missingError struct {
	want  int
	found []installation
}

func (e *missingError) Error() string {
	var majors []int
	for _, i := range e.found {
		majors = append(majors, i.major)
	}
	slices.Sort(majors)
	here := "there is none on this machine"
	if len(majors) > 0 {
		here = fmt.Sprintf("found only versions %v", slices.Compact(majors))
	}
	if e.want != 0 {
		return fmt.Sprintf("pgserver: the cluster was made by PostgreSQL %d and needs its programs, but %s; install PostgreSQL %d, or move the data with pg_dump", e.want, here, e.want)
	}
	return fmt.Sprintf("pgserver: PostgreSQL %d or newer is needed, but %s; install it, or put its programs on PATH", minMajor, here)
}

// findOrInstall returns the account and the programs for the cluster in data,
// or for a new one when data is empty. When the machine has no PostgreSQL at
// all, it installs or fetches one.
func findOrInstall(ctx context.Context, log *slog.Logger, data, dir string, major int) (account, installation, error) {
	var fetched string
	find := func() (account, installation, error) {
		a, err := chooseAccount(data)
		if err != nil {
			return account{}, installation{}, err
		}
		if fetched, err = fetchFolder(ctx, a, dir); err != nil {
			return account{}, installation{}, err
		}
		s := search{path: os.Getenv("PATH"), fetched: filepath.Join(fetched, "bin"), glob: filepath.Glob,
			probe: func(dir string) (installation, error) { return probe(ctx, a, dir) }}
		programs, err := choose(s.installations(), major)
		return a, programs, err
	}
	a, programs, err := find()
	var missing *missingError
	if !errors.As(err, &missing) || major != 0 && len(missing.found) > 0 {
		return a, programs, err
	}
	ctx, cancel := context.WithTimeout(ctx, installTimeout)
	defer cancel()
	if apt, lookErr := exec.LookPath("apt-get"); lookErr == nil && os.Geteuid() == 0 && ctx.Err() == nil {
		installErr := installPackage(ctx, log, apt)
		if installErr == nil {
			// The package brings the user postgres, so the account is chosen anew.
			if a, programs, err = find(); err == nil {
				return a, programs, nil
			}
		}
		err = errors.Join(err, installErr)
		log.Warn("installing PostgreSQL did not help; fetching its programs instead", "err", err)
	}
	if ctx.Err() != nil { // a search that was cut short proves nothing
		return account{}, installation{}, fmt.Errorf("pgserver: look for PostgreSQL: %w", ctx.Err())
	}
	if fetchErr := fetch(ctx, log, fetched, major); fetchErr != nil {
		return account{}, installation{}, errors.Join(err, fetchErr)
	}
	return find()
}

var versionPattern = regexp.MustCompile(`\(PostgreSQL\) (\d+)`)

// probe asks the programs in the folder for their version, as the account that
// will have to run them. Links are followed to where the programs really are.
func probe(ctx context.Context, a account, dir string) (installation, error) {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	postgres, err := filepath.EvalSymlinks(filepath.Join(dir, "postgres"))
	if err != nil {
		return installation{}, err
	}
	bin := filepath.Dir(postgres)
	if _, err := os.Stat(filepath.Join(bin, "initdb")); err != nil {
		return installation{}, err
	}
	out, err := a.command(ctx, postgres, "--version").Output()
	if err != nil {
		return installation{}, err
	}
	match := versionPattern.FindSubmatch(out)
	if match == nil {
		return installation{}, fmt.Errorf("pgserver: unknown version %q", out)
	}
	major, err := strconv.Atoi(string(match[1]))
	return installation{bin: bin, major: major}, err
}

// noMainCluster tells Debian's package not to create and start a server of its own.
const noMainCluster = "/etc/postgresql-common/createcluster.d/tollgate.conf"

// installPackage installs the distribution's PostgreSQL. The setting is for this
// one installation; an administrator's later one behaves as usual.
func installPackage(ctx context.Context, log *slog.Logger, apt string) error {
	if err := errors.Join(os.MkdirAll(filepath.Dir(noMainCluster), 0o755), os.WriteFile(noMainCluster, []byte("create_main_cluster = false\n"), 0o644)); err != nil { //nolint:gosec // Debian's own file mode
		return fmt.Errorf("pgserver: prepare the installation: %w", err)
	}
	defer func() { _ = os.Remove(noMainCluster) }()
	for _, args := range [][]string{
		{"update"},
		{"install", "-y", "--no-install-recommends", "postgresql"},
	} {
		log.Info("PostgreSQL is not installed; running apt-get", "args", args)
		start := time.Now()
		cmd := exec.CommandContext(ctx, apt, append([]string{"-q", "-o", "DPkg::Lock::Timeout=120"}, args...)...)
		cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive")
		cmd.WaitDelay = 5 * time.Second
		var out bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &out
		if err := cmd.Run(); err != nil {
			return fmt.Errorf("pgserver: apt-get %s: %w\n%s", args[0], err, tail(out.Bytes()))
		}
		log.Info("apt-get is done", "args", args, "took", time.Since(start).Round(time.Second))
	}
	return nil
}

// fetchFolder is where fetched programs live: somewhere the account can run them.
func fetchFolder(ctx context.Context, a account, dir string) (string, error) {
	entered, err := a.canEnter(ctx, dir)
	if !entered {
		dir = fallbackFolder
	}
	return filepath.Join(dir, "postgres-programs"), err
}

var fetchable = map[int]embeddedpostgres.PostgresVersion{
	14: embeddedpostgres.V14, 15: embeddedpostgres.V15, 16: embeddedpostgres.V16, 17: embeddedpostgres.V17, 18: embeddedpostgres.V18,
}

// fetch unpacks the programs into the folder. The library has no call for just
// that: it goes on to create a cluster. A locale that does not exist makes it
// stop there, so what counts is whether the programs are there in the end.
func fetch(ctx context.Context, log *slog.Logger, folder string, major int) error {
	version, ok := fetchable[cmp.Or(major, 17)]
	if !ok {
		return fmt.Errorf("pgserver: programs of PostgreSQL %d cannot be fetched", major)
	}
	port, err := freePort()
	if err != nil {
		return err
	}
	if err := makeFolder(filepath.Dir(folder)); err != nil {
		return err
	}
	work, err := os.MkdirTemp(filepath.Dir(folder), filepath.Base(folder)+newSuffix)
	if err != nil {
		return fmt.Errorf("pgserver: fetch PostgreSQL: %w", err)
	}
	log.Info("fetching the PostgreSQL programs", "version", version, "folder", folder)
	unpacked := filepath.Join(work, "programs")
	library := embeddedpostgres.NewDatabase(embeddedpostgres.DefaultConfig().
		Version(version).Port(uint32(port)).Password(role).Locale("no such locale").Logger(io.Discard). //nolint:gosec // a port has 16 bits
		CachePath(work).RuntimePath(filepath.Join(work, "run")).BinariesPath(unpacked))
	// The library takes no context, so a call that outlives ours is left to end
	// on its own: the start has failed by then and the process is about to end.
	result := make(chan error, 1)
	go func() {
		err := library.Start()
		if ctx.Err() != nil {
			_ = os.RemoveAll(work)
		}
		result <- err
	}()
	select {
	case err = <-result:
		defer func() { _ = os.RemoveAll(work) }()
	case <-ctx.Done():
		return fmt.Errorf("pgserver: fetch PostgreSQL %s: %w", version, ctx.Err())
	}
	if _, missing := os.Stat(filepath.Join(unpacked, "bin", "postgres")); missing != nil {
		return fmt.Errorf("pgserver: fetch PostgreSQL %s: %w", version, err)
	}
	// The rename comes last: programs under the final name are complete. Those
	// that another process put there meanwhile are as good as ours.
	err = errors.Join(shareAll(unpacked), os.Rename(unpacked, folder))
	if err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("pgserver: put the programs in place: %w", err)
	}
	return nil
}

// shareAll gives everybody the owner's right to read, search and run, which our
// umask may have kept from the account.
func shareAll(root string) error {
	return filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.Type()&fs.ModeSymlink != 0 {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		own := info.Mode().Perm() & 0o500
		return os.Chmod(path, info.Mode().Perm()|own>>3|own>>6) //nolint:gosec // in a folder that only we write
	})
}
