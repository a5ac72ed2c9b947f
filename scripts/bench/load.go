package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strconv"
	"sync"
	"time"
)

// The client writes requests that were built before, in which only the source ids change, and reads as much of the answer
// as it needs to tell success from failure. net/http's client costs as much processor time as its server; on a machine
// where client and server share few cores it would hide what is to be measured. Our server and the baseline get the same
// client and the same bytes.

// request is a prebuilt HTTP request.
type request struct {
	bytes  []byte
	ids    []int // offsets of the source ids
	answer []byte
}

// renew makes the events new ones.
func (r *request) renew() {
	last := ids.Add(uint64(len(r.ids)))
	for i, at := range r.ids {
		putID(r.bytes[at:at+idLength], last-uint64(i))
	}
}

const requestLines = "POST %s HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nAuthorization: Bearer %s\r\nContent-Length: %d\r\n\r\n"

// newRequest builds a request for one event, or for an array of more.
func newRequest(g *generator, key string, events int) *request {
	var body []byte
	r := &request{answer: []byte(`{"status":"recorded"`)}
	if events > 1 {
		body = append(body, '[')
		r.answer = fmt.Appendf(nil, `{"recorded":%d,`, events)
	}
	for i := range events {
		if i > 0 {
			body = append(body, ',')
		}
		var at int
		body, at = g.next().appendJSON(body)
		r.ids = append(r.ids, at)
	}
	if events > 1 {
		body = append(body, ']')
	}
	return buildRequest("/v1/events", key, body, r.ids, string(r.answer))
}

// buildRequest assembles a request; at are the offsets of the source ids in the body, and answer is how the answer begins.
func buildRequest(path, key string, body []byte, at []int, answer string) *request {
	head := fmt.Appendf(nil, requestLines, path, key, len(body))
	for i := range at {
		at[i] += len(head)
	}
	return &request{bytes: slices.Concat(head, body), ids: at, answer: []byte(answer)}
}

// load sends requests over keep-alive connections, each of which waits for an answer before it sends the next one.
type load struct {
	addr        string
	connections [][]*request  // those of one connection are sent in turn
	every       time.Duration // between the requests of a connection; 0: as fast as answers come
}

// newLoad builds the requests of all connections; events is the size of a batch.
func newLoad(addr, key string, connections, events int) load {
	l := load{addr: addr}
	perConnection := 4
	if events == 1 {
		perConnection = 32
	}
	for c := range connections {
		g := newGenerator(uint64(c), time.Now().Add(-15*time.Minute))
		// The events of a connection cover the last quarter of an hour, like those of a product that reports as it goes.
		g.step = 15 * time.Minute / time.Duration(perConnection*events)
		requests := make([]*request, perConnection)
		for i := range requests {
			requests[i] = newRequest(g, key, events)
		}
		l.connections = append(l.connections, requests)
	}
	return l
}

// answerTimeout bounds one request; a server that needs longer has failed.
const answerTimeout = 30 * time.Second

// run sends for a duration and waits for the last answers. Any answer but a success fails it.
func (l load) run(ctx context.Context, d time.Duration) (measurement, error) {
	clients := make([]*client, len(l.connections))
	for i := range clients {
		conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", l.addr)
		if err != nil {
			return measurement{}, fmt.Errorf("connect to the server: %w", err)
		}
		defer func() { _ = conn.Close() }()
		clients[i] = &client{conn: conn, in: bufio.NewReaderSize(conn, 16<<10)}
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var workers sync.WaitGroup
	started := time.Now()
	for i, c := range clients {
		workers.Go(func() {
			// Paced connections start one after the other, so that requests do not come in bursts.
			if err := c.work(ctx, l.connections[i], started.Add(l.every*time.Duration(i)/time.Duration(len(clients))), started.Add(d), l.every); err != nil {
				cancel(err)
			}
		})
	}
	workers.Wait()
	m := measurement{took: time.Since(started)}
	if ctx.Err() != nil {
		return m, context.Cause(ctx)
	}
	for _, c := range clients {
		m.events += c.events
		m.latencies = append(m.latencies, c.latencies...)
	}
	slices.Sort(m.latencies)
	return m, nil
}

type client struct {
	conn      net.Conn
	in        *bufio.Reader
	events    int
	latencies []time.Duration
}

func (c *client) work(ctx context.Context, requests []*request, next, end time.Time, every time.Duration) error {
	for n := 0; ctx.Err() == nil; n++ {
		if every > 0 {
			select {
			case <-time.After(time.Until(next)):
			case <-ctx.Done():
				return ctx.Err()
			}
			next = next.Add(every)
		}
		started := time.Now()
		if !started.Before(end) {
			return nil
		}
		r := requests[n%len(requests)]
		r.renew()
		if n%64 == 0 {
			_ = c.conn.SetDeadline(started.Add(answerTimeout))
		}
		if _, err := c.conn.Write(r.bytes); err != nil {
			return fmt.Errorf("send a request: %w", err)
		}
		if err := c.readAnswer(r.answer); err != nil {
			return err
		}
		c.latencies = append(c.latencies, time.Since(started))
		c.events += len(r.ids)
	}
	return ctx.Err()
}

// readAnswer reads one response, whose body must begin as expected.
func (c *client) readAnswer(want []byte) error {
	line, err := c.in.ReadSlice('\n')
	if err != nil {
		return fmt.Errorf("read an answer: %w", err)
	}
	status := string(bytes.TrimSpace(line))
	ok := bytes.HasPrefix(line, []byte("HTTP/1.1 20"))
	length, chunked := 0, false
	for {
		if line, err = c.in.ReadSlice('\n'); err != nil {
			return fmt.Errorf("read an answer: %w", err)
		}
		if len(line) <= 2 {
			break
		}
		if name, value, _ := bytes.Cut(line, []byte(": ")); bytes.EqualFold(name, []byte("Content-Length")) {
			length, err = strconv.Atoi(string(bytes.TrimSpace(value)))
		} else if bytes.EqualFold(name, []byte("Transfer-Encoding")) {
			chunked = true
		}
		if err != nil {
			return fmt.Errorf("read an answer: %w", err)
		}
	}
	for first := true; ; first = false {
		if chunked {
			if line, err = c.in.ReadSlice('\n'); err != nil {
				return fmt.Errorf("read an answer: %w", err)
			}
			size, err := strconv.ParseUint(string(bytes.TrimSpace(line)), 16, 31)
			if err != nil {
				return fmt.Errorf("read an answer: %w", err)
			}
			length = int(size)
		}
		if first {
			head, err := c.in.Peek(min(length, 512))
			if err != nil {
				return fmt.Errorf("read an answer: %w", err)
			}
			if !ok || !bytes.HasPrefix(head, want) {
				return fmt.Errorf("the server answered %s: %s", status, head)
			}
		}
		rest := length
		if chunked {
			rest += len("\r\n")
		}
		if _, err := c.in.Discard(rest); err != nil {
			return fmt.Errorf("read an answer: %w", errors.Join(err, io.ErrUnexpectedEOF))
		}
		if !chunked || length == 0 {
			return nil
		}
	}
}
