package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"time"

	"github.com/go-redis/redis_rate/v10"
	"github.com/labstack/echo/v4"
	"github.com/redis/go-redis/v9"
)

// redisServer is the usual choice for limits as a baseline: Redis with the generic cell rate algorithm as a script. It remembers no
// check, explains nothing and has one limit.
type redisServer struct{ addr string }

// redis starts a Redis of our own; with durable it writes every command to the disk before it answers. The program comes
// from the distribution.
func (b *bench) redis(ctx context.Context, durable bool) (*redisServer, error) {
	program, err := redisProgram(ctx)
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp(b.dir, "redis-")
	if err != nil {
		return nil, err
	}
	port, err := freePort(ctx)
	if err != nil {
		return nil, err
	}
	args := []string{"--port", strconv.Itoa(port), "--bind", "127.0.0.1", "--dir", dir, "--save", "", "--appendonly", "no"}
	if durable {
		args[len(args)-1] = "yes"
		args = append(args, "--appendfsync", "always")
	}
	cmd := exec.Command(program, args...) // ends with the scope
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start redis: %w", err)
	}
	b.onClose(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	s := &redisServer{addr: net.JoinHostPort("127.0.0.1", strconv.Itoa(port))}
	client := redis.NewClient(&redis.Options{Addr: s.addr})
	defer func() { _ = client.Close() }()
	for started := time.Now(); ; {
		if err = client.Ping(ctx).Err(); err == nil {
			return s, nil
		}
		if time.Since(started) > 10*time.Second || ctx.Err() != nil {
			return nil, fmt.Errorf("redis does not answer: %w", err)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// redisProgram finds redis-server, or installs Debian's package where that is possible.
func redisProgram(ctx context.Context) (string, error) {
	const name = "redis-server"
	if path, err := exec.LookPath(name); err == nil {
		return path, nil
	}
	for _, args := range [][]string{{"update"}, {"install", "-y", "--no-install-recommends", name}} {
		if out, err := exec.CommandContext(ctx, "apt-get", args...).CombinedOutput(); err != nil {
			return "", fmt.Errorf("these benchmarks need the package %s: %w\n%s", name, err, out[max(0, len(out)-500):])
		}
	}
	return exec.LookPath(name)
}

func freePort(ctx context.Context) (int, error) {
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer func() { _ = l.Close() }()
	tcp, ok := l.Addr().(*net.TCPAddr)
	if !ok {
		return 0, errors.New("no TCP address")
	}
	return tcp.Port, nil
}

// The limit of the baselines is never reached: what is compared is the cost of admitting.
const baselineLimit = 1_000_000_000

// redisHandler answers checks as our server does, from Redis.
func redisHandler(addr string) (http.Handler, func()) {
	client := redis.NewClient(&redis.Options{Addr: addr, PoolSize: 64})
	limiter := redis_rate.NewLimiter(client)
	limit := redis_rate.Limit{Rate: baselineLimit, Burst: baselineLimit, Period: time.Minute}
	e := echo.New()
	e.POST("/v1/limits/check", func(c echo.Context) error {
		check, err := readCheck(c)
		if err != nil {
			return err
		}
		result, err := limiter.Allow(c.Request().Context(), check.TenantID, limit)
		if err != nil {
			return err
		}
		return c.JSON(http.StatusOK, checkAnswer{Allowed: result.Allowed > 0, Remaining: int64(result.Remaining)})
	})
	return e, func() { _ = client.Close() }
}

// readCheck decodes as much as a limiter needs.
func readCheck(c echo.Context) (check struct {
	TenantID string `json:"tenantId"`
	SourceID string `json:"sourceId"`
	Quantity int64  `json:"quantity"`
}, err error) {
	body, err := io.ReadAll(c.Request().Body)
	if err != nil {
		return check, err
	}
	return check, json.Unmarshal(body, &check)
}

type checkAnswer struct {
	Allowed   bool  `json:"allowed"`
	Remaining int64 `json:"remaining"`
}
