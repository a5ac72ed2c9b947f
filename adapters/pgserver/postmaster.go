package pgserver

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

const (
	// quitReserve is kept for the immediate shutdown at the end of a stop: the
	// postmaster gives its children 5 s before it kills them.
	quitReserve = 7 * time.Second
	// orphanPatience is how long the children of a killed postmaster have to
	// notice its death. Idle ones notice at once. What a busy one computes can
	// never be committed, so killing it loses nothing.
	orphanPatience = 2 * time.Second
	watchInterval  = 100 * time.Millisecond
)

var (
	errExited    = errors.New("the server exited")
	errStopping  = errors.New("the server is shutting down")
	errPortTaken = errors.New("the port is taken")
	errPassword  = errors.New("the server does not accept the password that we kept")
)

// postmaster is one run of the server, from its start or adoption to its exit.
type postmaster struct {
	process   *os.Process
	port      int
	logOffset int64
	done      chan struct{} // closed when the process has exited
	watchers  sync.WaitGroup
	quit      chan struct{} // closed to end the watch over an adopted process
	quitOnce  sync.Once
}

// pidFile is what a postmaster notes about itself in its cluster.
type pidFile struct {
	pid, port int
	status    string
}

func readPIDFile(data string) (pidFile, error) {
	text, err := os.ReadFile(filepath.Join(data, "postmaster.pid"))
	if err != nil {
		return pidFile{}, err
	}
	// Lines: pid, folder, start time, port, socket folder, address, shared
	// memory, status. A server that is just starting has only the first ones.
	lines := strings.Split(string(text), "\n")
	line := func(i int) string {
		if i < len(lines) {
			return strings.TrimSpace(lines[i])
		}
		return ""
	}
	f := pidFile{status: line(7)}
	if f.pid, err = strconv.Atoi(line(0)); err != nil {
		return pidFile{}, fmt.Errorf("pgserver: postmaster.pid: %w", err)
	}
	f.port, _ = strconv.Atoi(line(3))
	return f, nil
}

// findPostmaster returns the live postmaster of the cluster, or nil. A file that
// names a process of something else is no postmaster.
func findPostmaster(data string) (*postmaster, error) {
	note, err := readPIDFile(data)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, strconv.ErrSyntax) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("pgserver: read the pid file: %w", err)
	}
	if note.pid <= 1 {
		return nil, nil
	}
	// The handle comes before the check, so that what was checked is what will
	// be signalled even if the number is given to another process later.
	process, err := os.FindProcess(note.pid)
	if err != nil {
		return nil, nil //nolint:nilerr // no such process: no postmaster
	}
	mark, err := mark(data)
	if err != nil {
		return nil, err
	}
	if !bears(commandLine(note.pid), mark) {
		return nil, nil
	}
	p := &postmaster{process: process, port: note.port, done: make(chan struct{}), quit: make(chan struct{})}
	p.watchers.Go(func() {
		// Nobody but its parent can wait for a process, and its parent is gone.
		tick := time.NewTicker(watchInterval)
		defer tick.Stop()
		for bears(commandLine(note.pid), mark) {
			select {
			case <-p.quit:
				return
			case <-tick.C:
			}
		}
		close(p.done)
	})
	return p, nil
}

// launch starts a postmaster. It may outlive this process: nothing ties it to us but the wait.
func (c *cluster) launch(port int) (*postmaster, error) {
	logFile, offset, err := c.openLog()
	if err != nil {
		return nil, err
	}
	defer func() { _ = logFile.Close() }()
	cmd := c.account.command(context.Background(), c.binary("postgres"), c.arguments(port)...)
	cmd.Stdout, cmd.Stderr = logFile, logFile
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("pgserver: run postgres: %w", err)
	}
	p := &postmaster{process: cmd.Process, port: port, logOffset: offset, done: make(chan struct{}), quit: make(chan struct{})}
	p.watchers.Go(func() {
		defer close(p.done)
		_ = cmd.Wait() // how it ended is in its log
	})
	return p, nil
}

// unwatch ends the watch over an adopted process and waits for it.
func (p *postmaster) unwatch() {
	p.quitOnce.Do(func() { close(p.quit) })
	p.watchers.Wait()
}

// stop ends the postmaster: a fast shutdown, then an immediate one when ctx
// nears its end. It returns without error only when the process is gone.
func (p *postmaster) stop(ctx context.Context) error {
	limit := stopTimeout
	if deadline, ok := ctx.Deadline(); ok {
		limit = min(limit, time.Until(deadline))
	}
	fast := time.NewTimer(limit - min(quitReserve, limit/2))
	defer fast.Stop()
	p.signal(syscall.SIGINT)
	select {
	case <-p.done:
		return nil
	case <-ctx.Done():
	case <-fast.C:
	}
	p.signal(syscall.SIGQUIT)
	last := time.NewTimer(quitReserve)
	defer last.Stop()
	select {
	case <-p.done:
		return nil
	case <-last.C:
		return fmt.Errorf("pgserver: process %d does not stop", p.process.Pid)
	}
}

// signal ignores its error: a process that is gone closes done.
func (p *postmaster) signal(sig syscall.Signal) {
	select {
	case <-p.done:
	default:
		_ = p.process.Signal(sig)
	}
}

// clearProcesses leaves the cluster without any process of a server: it stops a
// live postmaster, waits for the children of a killed one, and removes a pid
// file whose number now belongs to an unrelated process. Two servers on one
// cluster would destroy it, so it must succeed before a start.
func clearProcesses(ctx context.Context, data string) error {
	p, err := findPostmaster(data)
	if err != nil {
		return err
	}
	if p != nil {
		err := p.stop(ctx)
		p.unwatch()
		if err != nil {
			return err
		}
	}
	if err := clearOrphans(ctx, data); err != nil {
		return err
	}
	// PostgreSQL clears a pid file whose process is dead, but refuses to start
	// while any process has that number.
	err = os.Remove(filepath.Join(data, "postmaster.pid"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("pgserver: remove the stale pid file: %w", err)
	}
	return nil
}

func clearOrphans(ctx context.Context, data string) error {
	ctx, cancel := context.WithTimeout(ctx, 5*orphanPatience)
	defer cancel()
	mark, err := mark(data)
	if err != nil {
		return err
	}
	kill := time.NewTimer(orphanPatience)
	defer kill.Stop()
	poll := time.NewTicker(pollInterval)
	defer poll.Stop()
	for {
		orphans := serverProcesses(mark)
		if len(orphans) == 0 {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("pgserver: processes %v of a killed server do not end: %w", orphans, ctx.Err())
		case <-kill.C:
			for _, pid := range orphans {
				_ = syscall.Kill(pid, syscall.SIGKILL)
			}
		case <-poll.C:
		}
	}
}

// mark names the cluster in the command lines of all its processes: the
// postmaster's has it as the setting cluster_name, and its children's begin with
// it. Command lines can be read where working folders cannot, as by root in a
// container. The folder's identity survives a move of the folder.
func mark(data string) (string, error) {
	info, err := os.Stat(data)
	if err != nil {
		return "", fmt.Errorf("pgserver: identity of the cluster: %w", err)
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return "", errors.New("pgserver: this system gives folders no identity")
	}
	return fmt.Sprintf("tollgate-%x-%x", stat.Dev, stat.Ino), nil
}

// bears reports whether the command line is that of a server process with the mark.
func bears(command, mark string) bool {
	return strings.HasPrefix(command, "postgres: "+mark+":") ||
		strings.Contains(command, "/postgres ") && strings.Contains(command, " cluster_name="+mark+" ")
}

// commandLine returns the process's arguments, each followed by a space, or ""
// when there is no such process or it has exited and waits for its parent.
func commandLine(pid int) string {
	if runtime.GOOS == "linux" {
		text, _ := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "cmdline"))
		return strings.ReplaceAll(string(text), "\x00", " ")
	}
	return listProcesses("-p", strconv.Itoa(pid))[pid]
}

func listProcesses(which ...string) map[int]string {
	ctx, cancel := context.WithTimeout(context.Background(), pingTimeout)
	defer cancel()
	out, _ := exec.CommandContext(ctx, "ps", append([]string{"-ww", "-o", "pid=,command="}, which...)...).Output()
	commands := map[int]string{}
	for line := range strings.Lines(string(out)) {
		number, command, _ := strings.Cut(strings.TrimSpace(line), " ")
		if pid, err := strconv.Atoi(number); err == nil {
			commands[pid] = strings.TrimSpace(command) + " "
		}
	}
	return commands
}

// serverProcesses lists the processes that bear the mark.
func serverProcesses(mark string) []int {
	commands := map[int]string{}
	if runtime.GOOS == "linux" {
		entries, _ := os.ReadDir("/proc")
		for _, e := range entries {
			if pid, err := strconv.Atoi(e.Name()); err == nil {
				commands[pid] = commandLine(pid)
			}
		}
	} else {
		commands = listProcesses("-ax")
	}
	var pids []int
	for pid, command := range commands {
		if bears(command, mark) {
			pids = append(pids, pid)
		}
	}
	return pids
}
