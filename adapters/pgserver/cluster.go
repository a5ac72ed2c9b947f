package pgserver

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

const (
	newSuffix    = ".new" // something in the making
	oldLogSuffix = ".1"
	maxLogBytes  = 16 << 20
	tailBytes    = 4 << 10
	// fallbackFolder holds the clusters whose user cannot get into the data folder.
	fallbackFolder = "/var/lib/tollgate"
	// minSharedMemory is what parallel queries may need; containers often have 64 MiB.
	minSharedMemory = 256 << 20
)

// hba lets in who has the password and comes over the loopback interface.
const hba = `# Written once by tollgate. There is no socket, and no other way in.
host all all 127.0.0.1/32 scram-sha-256
`

// cluster is the server's place on disk and what its programs run with.
type cluster struct {
	dir      string // the data folder, absolute
	data     string // the cluster itself, without links
	account  account
	programs installation
	settings map[string]string
}

func (c *cluster) link() string         { return filepath.Join(c.dir, "postgres") }
func (c *cluster) logFile() string      { return filepath.Join(c.dir, "postgres.log") }
func (c *cluster) passwordFile() string { return filepath.Join(c.dir, "postgres.password") }

func (c *cluster) binary(name string) string { return filepath.Join(c.programs.bin, name) }

// locate finds an existing cluster and sets data. It reports false when there is none yet.
func (c *cluster) locate() (bool, error) {
	link := c.link()
	if _, err := os.Lstat(link); errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	data, err := filepath.EvalSymlinks(link)
	if err != nil {
		// A link without its target means lost data; a new cluster in its place would hide that.
		return false, fmt.Errorf("pgserver: the cluster behind %s cannot be found; bring it back, or remove the link to start without data: %w", link, err)
	}
	if _, err := os.Stat(filepath.Join(data, "PG_VERSION")); err != nil {
		return false, fmt.Errorf("pgserver: %s is not a cluster that we can use: %w", data, err)
	}
	c.data = data
	return true, nil
}

// openCluster finds the cluster of the folder or the place for a new one, the
// account it runs as and programs that fit it.
func openCluster(ctx context.Context, log *slog.Logger, dir string) (*cluster, error) {
	c := &cluster{dir: dir}
	found, err := c.locate()
	if err != nil {
		return nil, err
	}
	major := 0
	if found {
		text, err := os.ReadFile(filepath.Join(c.data, "PG_VERSION"))
		if err != nil {
			return nil, fmt.Errorf("pgserver: version of the cluster: %w", err)
		}
		if major, err = strconv.Atoi(strings.TrimSpace(string(text))); err != nil {
			return nil, fmt.Errorf("pgserver: version of the cluster: %w", err)
		}
	}
	c.account, c.programs, err = findOrInstall(ctx, log, c.data, dir, major)
	if err != nil {
		return nil, err
	}
	if !found {
		return c, nil
	}
	if entered, err := c.account.canEnter(ctx, filepath.Dir(c.data)); err != nil {
		return nil, err
	} else if !entered {
		return nil, fmt.Errorf("pgserver: user %s cannot get into %s any more; give search permission (chmod a+x) on the folders that lead there", c.account.name, filepath.Dir(c.data))
	}
	if info, err := os.Stat(c.data); err == nil && c.account.drop {
		if stat, ok := info.Sys().(*syscall.Stat_t); ok && stat.Uid == 0 {
			return c, c.account.ownAll(c.data)
		}
	}
	return c, nil
}

// ensureInitialised makes the cluster when there is none and returns the
// password: "" when the cluster exists and its password is lost.
func (c *cluster) ensureInitialised(ctx context.Context, log *slog.Logger, fsync bool) (string, error) {
	password, err := c.readPassword()
	if err != nil || c.data != "" {
		return password, err
	}
	if password == "" {
		password = rand.Text()
	}
	target := c.link()
	if entered, err := c.account.canEnter(ctx, c.dir); err != nil {
		return "", err
	} else if !entered {
		sum := sha256.Sum256([]byte(c.dir))
		target = filepath.Join(fallbackFolder, hex.EncodeToString(sum[:])[:12])
		if err := makeFolder(fallbackFolder); err != nil {
			return "", err
		}
		log.Info("the server's user cannot get into the data folder; its cluster is in another folder", "user", c.account.name, "folder", c.dir, "cluster", target)
		if err := setAside(ctx, log, target); err != nil {
			return "", err
		}
	}
	// All the work happens beside the target and the rename comes last: a
	// cluster that bears the final name is complete. The name in between is new
	// each time, because the programs of a killed attempt may still be at work.
	if err := removeUnfinished(target); err != nil {
		return "", err
	}
	making, err := os.MkdirTemp(filepath.Dir(target), filepath.Base(target)+newSuffix)
	if err := errors.Join(err, c.account.own(making)); err != nil {
		return "", fmt.Errorf("pgserver: place for the cluster: %w", err)
	}
	defer func() { _ = os.RemoveAll(making) }() // not there any more after success
	log.Info("creating the postgres cluster", "cluster", target, "version", c.programs.major, "user", c.account.name)
	// No locale: bytes always order the same on every machine, where a
	// system's collations change under the indexes.
	args := []string{"-D", making, "-U", role, "--encoding=UTF8", "--no-locale", "--data-checksums", "--auth=reject"}
	if !fsync {
		args = append(args, "--no-sync")
	}
	if out, err := c.account.command(ctx, c.binary("initdb"), args...).CombinedOutput(); err != nil {
		return "", fmt.Errorf("pgserver: initdb: %w\n%s", err, tail(out))
	}
	hbaFile := filepath.Join(making, "pg_hba.conf")
	if err := errors.Join(os.WriteFile(hbaFile, []byte(hba), 0o600), c.account.own(hbaFile)); err != nil {
		return "", fmt.Errorf("pgserver: access rules: %w", err)
	}
	if err := c.single(ctx, making, "alter role "+role+" password '"+password+"'", "create database "+role); err != nil {
		return "", err
	}
	if err := c.writePassword(password); err != nil {
		return "", err
	}
	if err := os.Rename(making, target); err != nil {
		return "", fmt.Errorf("pgserver: put the cluster in place: %w", err)
	}
	if target != c.link() {
		if err := os.Symlink(target, c.link()); err != nil {
			return "", fmt.Errorf("pgserver: link to the cluster: %w", err)
		}
	}
	if _, err := c.locate(); err != nil {
		return "", err
	}
	return password, nil
}

// makeFolder makes a folder that is not there yet. Search permission for all,
// whatever our umask is, lets the server's user through to its own folder;
// nothing can be listed, and each file in it has its own narrow mode.
func makeFolder(dir string) error {
	if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := errors.Join(os.MkdirAll(dir, 0o711), os.Chmod(dir, 0o711)); err != nil {
		return fmt.Errorf("pgserver: create a folder: %w", err)
	}
	return nil
}

// removeUnfinished deletes what interrupted attempts to create the cluster left.
func removeUnfinished(target string) error {
	unfinished, err := filepath.Glob(target + newSuffix + "*")
	for _, path := range unfinished {
		err = errors.Join(err, os.RemoveAll(path))
	}
	if err != nil {
		return fmt.Errorf("pgserver: remove an unfinished cluster: %w", err)
	}
	return nil
}

// setAside renames a cluster whose data folder was deleted: deleting the
// folder means a fresh start, but what is not ours to delete we keep.
func setAside(ctx context.Context, log *slog.Logger, data string) error {
	if _, err := os.Stat(data); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err := clearProcesses(ctx, data); err != nil {
		return err
	}
	aside := data + ".old-" + rand.Text()[:6]
	log.Warn("the cluster of an earlier data folder of this name is set aside; delete it when it is not needed", "cluster", aside)
	if err := os.Rename(data, aside); err != nil {
		return fmt.Errorf("pgserver: set the earlier cluster aside: %w", err)
	}
	return nil
}

// single runs statements, one line each, in a server without network that ends
// with its input. The way in needs no password.
func (c *cluster) single(ctx context.Context, data string, statements ...string) error {
	mark, err := mark(data)
	if err != nil {
		return err
	}
	cmd := c.account.command(ctx, c.binary("postgres"), "--single", "-D", data, "-c", "cluster_name="+mark, "-c", "exit_on_error=on", "-c", "log_min_error_statement=panic", "postgres")
	cmd.Stdin = strings.NewReader(strings.Join(statements, "\n") + "\n")
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("pgserver: set up the cluster: %w\n%s", err, tail(out))
	}
	return nil
}

// chooseSettings says what the server runs with. They go on the command line,
// so that no file in the cluster can contradict them.
func (c *cluster) chooseSettings(ctx context.Context, cfg Config) (map[string]string, error) {
	s := map[string]string{
		"max_connections":                     "100",
		"shared_buffers":                      "256MB",
		"maintenance_work_mem":                "128MB",
		"random_page_cost":                    "1.1",   // the data lies on flash, or in memory
		"min_wal_size":                        "256MB", // segments are reused rather than made anew
		"max_wal_size":                        "4GB",   // few checkpoints: each one makes the next writes of a page whole-page writes
		"checkpoint_timeout":                  "15min",
		"checkpoint_completion_target":        "0.9",
		"wal_compression":                     "on",
		"synchronous_commit":                  "on",
		"fsync":                               onOff(cfg.Fsync),
		"huge_pages":                          "try",
		"jit":                                 "off", // our queries are short; compiling them takes longer than running them
		"dynamic_shared_memory_type":          "posix",
		"idle_in_transaction_session_timeout": "5min", // a forgotten transaction holds vacuum and locks
		"timezone":                            "UTC",
		"log_timezone":                        "UTC",
		"lc_messages":                         "C",
		"log_destination":                     "stderr",
		"logging_collector":                   "off",
		"log_line_prefix":                     "%m [%p] ",
	}
	// lz4 costs a fraction of the processor time; only builds with the library accept it.
	if c.account.command(ctx, c.binary("postgres"), "-D", c.data, "-c", "wal_compression=lz4", "-C", "wal_compression").Run() == nil {
		s["wal_compression"] = "lz4"
	}
	if runtime.GOOS == "linux" {
		var shm syscall.Statfs_t
		if err := syscall.Statfs("/dev/shm", &shm); err != nil || shm.Bavail*uint64(shm.Bsize) < minSharedMemory { //nolint:gosec // a block size is positive
			s["dynamic_shared_memory_type"] = "mmap"
		}
	}
	maps.Copy(s, cfg.Settings)
	s["listen_addresses"] = "127.0.0.1"
	s["unix_socket_directories"] = ""
	var err error
	s["cluster_name"], err = mark(c.data)
	return s, err
}

func onOff(on bool) string {
	if on {
		return "on"
	}
	return "off"
}

// arguments is the command line of the postmaster, the same for the same settings.
func (c *cluster) arguments(port int) []string {
	args := []string{"-D", c.data}
	for _, name := range slices.Sorted(maps.Keys(c.settings)) {
		if name != "port" {
			args = append(args, "-c", name+"="+c.settings[name])
		}
	}
	return append(args, "-c", "port="+strconv.Itoa(port))
}

// startedWith reports whether the running server was started with just these
// arguments: the server notes its own command line.
func (c *cluster) startedWith(args []string) bool {
	noted, err := os.ReadFile(filepath.Join(c.data, "postmaster.opts"))
	if err != nil {
		return false
	}
	line := c.binary("postgres")
	for _, arg := range args {
		line += ` "` + arg + `"`
	}
	return strings.TrimSpace(string(noted)) == line
}

func (c *cluster) readPassword() (string, error) {
	text, err := os.ReadFile(c.passwordFile())
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("pgserver: password: %w", err)
	}
	return strings.TrimSpace(string(text)), nil
}

// writePassword replaces the file in one step, so that a reader sees all of it or none.
func (c *cluster) writePassword(password string) error {
	making := c.passwordFile() + newSuffix
	if err := errors.Join(os.WriteFile(making, []byte(password+"\n"), 0o600), os.Rename(making, c.passwordFile())); err != nil {
		return fmt.Errorf("pgserver: keep the password: %w", err)
	}
	return nil
}

// openLog opens the server's log for appending and says where the new part
// begins. A log that has grown large becomes the old log.
func (c *cluster) openLog() (*os.File, int64, error) {
	if info, err := os.Stat(c.logFile()); err == nil && info.Size() > maxLogBytes {
		if err := os.Rename(c.logFile(), c.logFile()+oldLogSuffix); err != nil {
			return nil, 0, fmt.Errorf("pgserver: rotate the server's log: %w", err)
		}
	}
	f, err := os.OpenFile(c.logFile(), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return nil, 0, fmt.Errorf("pgserver: open the server's log: %w", err)
	}
	offset, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return nil, 0, errors.Join(fmt.Errorf("pgserver: open the server's log: %w", err), f.Close())
	}
	return f, offset, nil
}

// logTail returns the last lines that the server wrote after the offset.
func (c *cluster) logTail(offset int64) string {
	f, err := os.Open(c.logFile())
	if err != nil {
		return err.Error()
	}
	defer func() { _ = f.Close() }()
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return err.Error()
	}
	text, err := io.ReadAll(io.NewSectionReader(f, max(offset, size-tailBytes), tailBytes))
	if err != nil {
		return err.Error()
	}
	return string(text)
}

func tail(out []byte) []byte { return out[max(0, len(out)-tailBytes):] }
