package eventstoredb

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/EventStore/EventStore-Client-Go/v4/esdb"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// maxCalls bounds the calls of one client, those that were given up and still hang in it included. A server admits about a
// hundred at a time on one connection.
const maxCalls = 128

var (
	// errClosed: the log is closed.
	errClosed = errors.New("the log is closed")
	// errSilent is the cause of a context whose end says that the server was given time enough to answer.
	errSilent = errors.New("the server does not answer")
)

// connection contains the client, which is not to be trusted with its own life: it may hang without regard for the context,
// it never recovers from a long outage, it leaks its connection when it finds a new one, and closing it
// during a call panics. So a call runs on a goroutine of its own, is given up when its context ends, and a client that has
// failed is replaced; it is closed when the last call has left it.
type connection struct {
	config *esdb.Configuration

	mu      sync.Mutex
	current *client // nil: the next call makes one
	closed  bool
	trouble error // of the last call that met an outage; nil after one that did not

	replaced atomic.Int64 // clients that were given up
}

// client is one of the clients of a connection.
type client struct {
	db    *esdb.Client
	calls chan struct{} // holds a token for each call

	// Guarded by the connection's lock.
	inside  int
	retired bool
}

func newConnection(config *esdb.Configuration) *connection { return &connection{config: config} }

// acquire gives a client for one call, after which it must be released.
func (c *connection) acquire(ctx context.Context) (*client, error) {
	for {
		c.mu.Lock()
		if c.closed {
			c.mu.Unlock()
			return nil, errClosed
		}
		if c.current == nil {
			config := *c.config
			db, err := esdb.NewClient(&config)
			if err != nil {
				c.mu.Unlock()
				return nil, err
			}
			c.current = &client{db: db, calls: make(chan struct{}, maxCalls)}
		}
		cl := c.current
		c.mu.Unlock()
		select {
		case cl.calls <- struct{}{}:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		c.mu.Lock()
		if !cl.retired {
			cl.inside++
			c.mu.Unlock()
			return cl, nil
		}
		c.mu.Unlock()
		<-cl.calls
	}
}

func (c *connection) release(cl *client) {
	c.mu.Lock()
	cl.inside--
	last := cl.retired && cl.inside == 0
	c.mu.Unlock()
	<-cl.calls
	if last {
		_ = cl.db.Close()
	}
}

// retire makes the next call use another client.
func (c *connection) retire(cl *client) {
	c.mu.Lock()
	if cl.retired {
		c.mu.Unlock()
		return
	}
	cl.retired = true
	if c.current == cl {
		c.current = nil
	}
	unused := cl.inside == 0
	c.mu.Unlock()
	c.replaced.Add(1)
	if unused {
		_ = cl.db.Close()
	}
}

// close lets no more calls begin. Those that are under way end by their contexts.
func (c *connection) close() {
	c.mu.Lock()
	c.closed = true
	cl := c.current
	c.mu.Unlock()
	if cl != nil {
		c.retire(cl)
	}
}

// note remembers what the last call met.
func (c *connection) note(err error) {
	c.mu.Lock()
	c.trouble = err
	c.mu.Unlock()
}

// state is nil while calls get through.
func (c *connection) state() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.trouble
}

// call runs f on a client and returns when it has returned or the context has ended, whatever f does. A call that was given
// up continues in the background, so f must not touch what its caller uses. The context of f asks for the leader: the client itself
// does not, although its settings ask for it.
func call[T any](ctx context.Context, c *connection, f func(context.Context, *esdb.Client) (T, error)) (result T, err error) {
	cl, err := c.acquire(ctx)
	if err != nil {
		if silence := context.Cause(ctx); errors.Is(silence, errSilent) {
			err = silence
			c.note(silence)
		}
		return result, err
	}
	type answer struct {
		result T
		err    error
	}
	answered := make(chan answer, 1)
	asking := wantLeader(ctx)
	go func() {
		defer c.release(cl)
		r, err := careful(asking, cl.db, f)
		if sick(err) {
			c.retire(cl)
		}
		answered <- answer{r, err}
	}()
	select {
	case a := <-answered:
		if definite(a.err) {
			c.note(nil)
		} else if !errors.Is(ctx.Err(), context.Canceled) { // that says nothing about the server
			c.note(a.err)
		}
		return a.result, a.err
	case <-ctx.Done():
		select {
		case a := <-answered: // at the same time
			return a.result, a.err
		default:
		}
		if silence := context.Cause(ctx); errors.Is(silence, errSilent) { // it hangs, or its connection leads nowhere
			c.retire(cl)
			c.note(silence)
			return result, silence
		}
		return result, ctx.Err()
	}
}

// careful turns a panic of the client into an error: it panics at what it does not expect of a server.
func careful[T any](ctx context.Context, db *esdb.Client, f func(context.Context, *esdb.Client) (T, error)) (result T, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("the client panicked: %v", p)
		}
	}()
	return f(ctx, db)
}

func wantLeader(ctx context.Context) context.Context {
	return metadata.AppendToOutgoingContext(ctx, "requires-leader", "true")
}

func codeOf(err error) esdb.ErrorCode {
	var e *esdb.Error
	if errors.As(err, &e) {
		return e.Code()
	}
	return esdb.ErrorCodeUnknown
}

// sick: the client is of no use any more, or only after it has looked for a node again, which is when it leaks.
func sick(err error) bool {
	if err == nil {
		return false
	}
	code := codeOf(err)
	return code == esdb.ErrorCodeConnectionClosed || code == esdb.ErrorUnavailable
}

// definite: the server has answered, and would answer the same again.
func definite(err error) bool {
	if err == nil {
		return true
	}
	switch codeOf(err) {
	case esdb.ErrorCodeWrongExpectedVersion, esdb.ErrorCodeStreamDeleted:
		return true
	default:
		return isMissing(err)
	}
}

// isMissing: the server says that there is no such stream. A call that failed with the status of the same name says nothing
// about the stream: a proxy may answer so, or a node that does not lead.
func isMissing(err error) bool {
	var e *esdb.Error
	if !errors.As(err, &e) || e.Code() != esdb.ErrorCodeResourceNotFound {
		return false
	}
	_, failed := status.FromError(e.Err())
	return !failed
}

// hopeless: trying again will not help until somebody changes something.
func hopeless(err error) bool {
	switch codeOf(err) {
	case esdb.ErrorCodeUnauthenticated, esdb.ErrorCodeAccessDenied, esdb.ErrorCodeUnsupportedFeature:
		return true
	default:
		return errors.Is(err, errClosed)
	}
}
