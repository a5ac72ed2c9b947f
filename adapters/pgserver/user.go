package pgserver

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"
	"time"
)

// account is the user whom the server's programs run as. PostgreSQL refuses to
// run as root, so root hands its programs to another user.
type account struct {
	name     string
	uid, gid int
	drop     bool // this process is root and the account is not
}

// chooseAccount returns ourselves, or for root the owner of the cluster, or for
// a new cluster a user without privileges. An empty data means a new cluster.
func chooseAccount(data string) (account, error) {
	if euid := os.Geteuid(); euid != 0 {
		return account{name: strconv.Itoa(euid), uid: euid, gid: os.Getegid()}, nil
	}
	if data != "" {
		info, err := os.Stat(data)
		if err != nil {
			return account{}, fmt.Errorf("pgserver: owner of the cluster: %w", err)
		}
		if stat, ok := info.Sys().(*syscall.Stat_t); ok && stat.Uid != 0 {
			return account{name: "uid " + strconv.Itoa(int(stat.Uid)), uid: int(stat.Uid), gid: int(stat.Gid), drop: true}, nil
		}
	}
	for _, name := range []string{"postgres", "nobody"} {
		u, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, uidErr := strconv.Atoi(u.Uid)
		gid, gidErr := strconv.Atoi(u.Gid)
		if uidErr == nil && gidErr == nil && uid > 0 {
			return account{name: name, uid: uid, gid: gid, drop: true}, nil
		}
	}
	return account{}, errors.New("pgserver: PostgreSQL refuses to run as root and there is no user postgres or nobody to run it as; create one, or run as another user")
}

// command prepares a program to run as the account, in its own process group,
// so that Ctrl-C in a terminal does not reach it before we decide what to do.
// Its environment is bare: the server has no use for our secrets, and variables
// such as PGDATA and PGPORT would change what it does.
func (a account) command(ctx context.Context, program string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Dir = "/" // our own folder may be closed to the account
	cmd.Env = []string{"LC_ALL=C", "PATH=" + os.Getenv("PATH")}
	for _, name := range []string{"LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH"} {
		if value := os.Getenv(name); value != "" {
			cmd.Env = append(cmd.Env, name+"="+value)
		}
	}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) } // with its children
	cmd.WaitDelay = 5 * time.Second
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if a.drop {
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: uint32(a.uid), Gid: uint32(a.gid)} //nolint:gosec // ids of the system
	}
	return cmd
}

// canEnter asks the kernel whether the account gets into the folder: modes,
// access lists and mounts all count.
func (a account) canEnter(ctx context.Context, dir string) (bool, error) {
	if !a.drop {
		return true, nil
	}
	cmd := a.command(ctx, "true")
	cmd.Dir = dir
	err := cmd.Run()
	if err == nil || errors.Is(err, fs.ErrPermission) {
		return err == nil, nil
	}
	return false, fmt.Errorf("pgserver: see whether user %s gets into %s: %w", a.name, dir, err)
}

// own gives the file to the account.
func (a account) own(path string) error {
	if !a.drop {
		return nil
	}
	return os.Lchown(path, a.uid, a.gid)
}

// ownAll gives a folder and all in it to the account.
func (a account) ownAll(root string) error {
	return filepath.WalkDir(root, func(path string, _ fs.DirEntry, err error) error {
		return errors.Join(err, a.own(path))
	})
}
