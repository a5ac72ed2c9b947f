// Package esdbtest is an EventStoreDB in the test's own process: the parts of the server's protocol that the client of
// this project uses, with the real one's rules for repeated appends, deleted streams and large appends, and with faults on
// demand. It is for tests only: it keeps nothing, and says nothing about how fast or durable the real one is.
package esdbtest

import (
	"context"
	"fmt"
	"net"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/EventStore/EventStore-Client-Go/v4/protos/gossip"
	"github.com/EventStore/EventStore-Client-Go/v4/protos/serverfeatures"
	"github.com/EventStore/EventStore-Client-Go/v4/protos/shared"
	"github.com/EventStore/EventStore-Client-Go/v4/protos/streams"
	"github.com/google/uuid"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// MaxAppendSize is the real server's default, in bytes of one append.
const MaxAppendSize = 1 << 20

// Op is a call that arrives.
type Op struct {
	Kind   Kind
	Stream string // of an append or a read of one stream
}

// Kind of a call.
type Kind int

// The kinds.
const (
	Append Kind = iota
	ReadStream
	ReadAll
	Subscribe
)

// Fault is what happens to a call.
type Fault struct {
	// Before answers instead of doing anything; After does the work and answers so all the same.
	Before, After error
	// Stall never answers; with After it has done the work.
	Stall bool
	// Cut ends a read or a subscription as a lost connection does, or stalls it with Stall, after so many messages and one
	// more; 0 never.
	Cut int
}

// Faults decides about each call; it is called from many goroutines.
type Faults func(Op) Fault

// The answers of a server that is in trouble.
var (
	Unavailable = status.Error(codes.Unavailable, "the connection is lost")
	Aborted     = status.Error(codes.Aborted, "prepare timeout")
	errRestart  = status.Error(codes.Unavailable, "the server restarts")
)

// Cluster is nodes that share one log. One of them leads.
type Cluster struct {
	Nodes  []*Node
	ledger *ledger
	auth   string // the header that calls must carry; "" for any

	mu     sync.Mutex
	leader int
	faults Faults
}

// Node is one server of a cluster.
type Node struct {
	streams.UnimplementedStreamsServer
	serverfeatures.UnimplementedServerFeaturesServer

	cluster *Cluster
	number  int
	creds   credentials.TransportCredentials

	mu      sync.Mutex
	address string
	server  *grpc.Server
	ended   chan struct{} // of the server that runs
	lag     int           // so many records a follower does not show yet
}

// New starts a cluster, which ends with the test.
func New(t testing.TB, nodes int) *Cluster { return NewSecure(t, nodes, nil, "", "") }

// NewSecure starts a cluster that speaks TLS, where creds are given, and lets in only who knows the password, if there is
// one.
func NewSecure(t testing.TB, nodes int, creds credentials.TransportCredentials, user, password string) *Cluster {
	t.Helper()
	c, err := start(nodes, creds, user, password)
	t.Cleanup(c.Stop)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// Start starts a cluster without a test, such as for a benchmark.
func Start(nodes int) (*Cluster, error) { return start(nodes, nil, "", "") }

func start(nodes int, creds credentials.TransportCredentials, user, password string) (*Cluster, error) {
	c := &Cluster{ledger: newLedger()}
	if user != "" {
		c.auth = basic(user, password)
	}
	for i := range nodes {
		n := &Node{cluster: c, number: i, address: "127.0.0.1:0", creds: creds}
		c.Nodes = append(c.Nodes, n)
		if err := n.Start(); err != nil {
			return c, err
		}
	}
	return c, nil
}

// Stop ends all nodes, as a crash does.
func (c *Cluster) Stop() {
	for _, n := range c.Nodes {
		n.Stop()
	}
}

// URL is that of the first node: no gossip is asked for.
func (c *Cluster) URL() string { return "esdb://" + c.Nodes[0].Address() + "?tls=false" }

// Seeds is the URL of the whole cluster.
func (c *Cluster) Seeds() string {
	var hosts []string
	for _, n := range c.Nodes {
		hosts = append(hosts, n.Address())
	}
	return "esdb://" + strings.Join(hosts, ",") + "?tls=false"
}

// SetFaults makes the cluster unreliable; nil ends that.
func (c *Cluster) SetFaults(f Faults) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.faults = f
}

// SetClock is where the events' times come from.
func (c *Cluster) SetClock(now func() time.Time) {
	c.ledger.mu.Lock()
	defer c.ledger.mu.Unlock()
	c.ledger.now = now
}

// Lead makes another node the leader. Connections stay: the old one refers its callers to the new one.
func (c *Cluster) Lead(node int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.leader = node
}

// Noise writes events of others, as the server's own statistics are.
func (c *Cluster) Noise(n int) {
	c.ledger.mu.Lock()
	defer c.ledger.mu.Unlock()
	for range n {
		c.ledger.write("$stats-127.0.0.1:2113", []proposed{{id: uuid.New(), kind: "$statsCollected", contentType: jsonType, data: []byte("{}")}})
	}
}

// Write puts an event of another program into a stream.
func (c *Cluster) Write(stream string) {
	c.ledger.mu.Lock()
	defer c.ledger.mu.Unlock()
	c.ledger.write(stream, []proposed{{id: uuid.New(), kind: "of another program", contentType: jsonType, data: []byte("{}")}})
}

// Events counts the events of streams with a prefix, as the log has them.
func (c *Cluster) Events(prefix string) (n int) {
	c.ledger.mu.Lock()
	defer c.ledger.mu.Unlock()
	for _, r := range c.ledger.records {
		if strings.HasPrefix(r.stream, prefix) {
			n++
		}
	}
	return n
}

func (c *Cluster) leads() *Node {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.Nodes[c.leader]
}

func (c *Cluster) fault(op Op) Fault {
	c.mu.Lock()
	f := c.faults
	c.mu.Unlock()
	if f == nil {
		return Fault{}
	}
	return f(op)
}

// Address is where the node listens; it keeps it over restarts.
func (n *Node) Address() string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.address
}

// SetLag makes a follower show so many of the latest records not yet.
func (n *Node) SetLag(records int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.lag = records
}

// Start lets a node listen, for the first time or again.
func (n *Node) Start() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.server != nil {
		return nil
	}
	var listener net.Listener
	var err error
	for range 100 { // the port of a server that has just ended may need a moment
		if listener, err = net.Listen("tcp", n.address); err == nil {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	if err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	n.address = listener.Addr().String()
	var options []grpc.ServerOption
	if n.creds != nil {
		options = append(options, grpc.Creds(n.creds))
	}
	// The real server does not mind how often a client asks whether it is there.
	patient := grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: time.Second, PermitWithoutStream: true})
	n.server = grpc.NewServer(append(options, grpc.MaxRecvMsgSize(17<<20), patient)...)
	n.ended = make(chan struct{})
	streams.RegisterStreamsServer(n.server, n)
	serverfeatures.RegisterServerFeaturesServer(n.server, n)
	gossip.RegisterGossipServer(n.server, gossiper{node: n})
	go func(s *grpc.Server) { _ = s.Serve(listener) }(n.server)
	return nil
}

// Stop ends a node as a crash does: connections are cut, and what was appended stays.
func (n *Node) Stop() {
	n.mu.Lock()
	s, ended := n.server, n.ended
	n.server = nil
	n.mu.Unlock()
	if s != nil {
		close(ended)
		s.Stop()
	}
}

// Restart cuts all connections.
func (n *Node) Restart() error {
	n.Stop()
	return n.Start()
}

func (n *Node) life() <-chan struct{} {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.ended == nil {
		ended := make(chan struct{})
		close(ended)
		return ended
	}
	return n.ended
}

// visible is how many records this node shows.
func (n *Node) visible() int {
	n.mu.Lock()
	lag := n.lag
	n.mu.Unlock()
	return max(len(n.cluster.ledger.records)-lag, 0)
}

// GetSupportedMethods implements the ServerFeatures service.
func (n *Node) GetSupportedMethods(context.Context, *shared.Empty) (*serverfeatures.SupportedMethods, error) {
	return &serverfeatures.SupportedMethods{EventStoreServerVersion: "24.10.0"}, nil
}

// Read implements the Gossip service.
func (g gossiper) Read(context.Context, *shared.Empty) (*gossip.ClusterInfo, error) {
	return g.node.members(), nil
}

type gossiper struct {
	gossip.UnimplementedGossipServer
	node *Node
}

func (n *Node) members() *gossip.ClusterInfo {
	info := &gossip.ClusterInfo{}
	leader := n.cluster.leads()
	for _, m := range n.cluster.Nodes {
		state := gossip.MemberInfo_Follower
		if m == leader {
			state = gossip.MemberInfo_Leader
		}
		host, port, _ := net.SplitHostPort(m.Address())
		number, _ := strconv.Atoi(port)
		m.mu.Lock()
		alive := m.server != nil
		m.mu.Unlock()
		info.Members = append(info.Members, &gossip.MemberInfo{
			State: state, IsAlive: alive, HttpEndPoint: &gossip.EndPoint{Address: host, Port: uint32(number)}, //nolint:gosec // a port
		})
	}
	return info
}

// admit refuses who may not call, and who wants the leader and asked another node, as the real server does.
func (n *Node) admit(ctx context.Context, trailer func(metadata.MD)) error {
	md, _ := metadata.FromIncomingContext(ctx)
	if auth := md.Get("authorization"); n.cluster.auth != "" && (len(auth) == 0 || auth[0] != n.cluster.auth) {
		return status.Error(codes.Unauthenticated, "who are you")
	}
	leader := n.cluster.leads()
	if wants := md.Get("requires-leader"); leader == n || len(wants) == 0 || wants[0] != "true" {
		return nil
	}
	return notLeader(leader, trailer)
}

func notLeader(leader *Node, trailer func(metadata.MD)) error {
	host, port, _ := net.SplitHostPort(leader.Address())
	trailer(metadata.Pairs("exception", "not-leader", "leader-endpoint-host", host, "leader-endpoint-port", port))
	return status.Error(codes.NotFound, "Leader info available")
}

// WantLeader makes calls with the context ask for the leader, which the client means to do, and does not.
func WantLeader(ctx context.Context) context.Context {
	return metadata.AppendToOutgoingContext(ctx, "requires-leader", "true")
}
