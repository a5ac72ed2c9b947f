package esdbtest_test

import (
	"context"
	"io"
	"testing"
	"time"

	"github.com/EventStore/EventStore-Client-Go/v4/esdb"
	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/tollgate-io/tollgate/adapters/eventstoredb/esdbtest"
)

func TestConformance(t *testing.T) { esdbtest.Conformance(t, esdbtest.New(t, 1).URL()) }

func TestAnyForgetsAndNoStreamDoesNot(t *testing.T) {
	client := esdbtest.Connect(t, esdbtest.New(t, 1).URL())
	add := func(expected esdb.ExpectedRevision, stream string, e ...esdb.EventData) uint64 {
		r, err := client.AppendToStream(t.Context(), stream, esdb.AppendToStreamOptions{ExpectedRevision: expected}, e...)
		require.NoError(t, err)
		return r.NextExpectedVersion
	}
	require.Zero(t, add(esdb.NoStream{}, "s", esdbtest.Events("a")...))
	var others []string
	for range 1200 {
		others = append(others, uuid.NewString())
	}
	add(esdb.Any{}, "others", esdbtest.Events(others...)...)
	require.Zero(t, add(esdb.NoStream{}, "s", esdbtest.Events("a")...), "an exact expectation is held against the stream itself")
	require.EqualValues(t, 1, add(esdb.Any{}, "s", esdbtest.Events("a")...), "any is held against the latest events only")
}

func TestALargeAppendIsRefused(t *testing.T) {
	client := esdbtest.Connect(t, esdbtest.New(t, 1).URL())
	large := esdbtest.Events("a")
	large[0].Data = make([]byte, esdbtest.MaxAppendSize+1)
	_, err := client.AppendToStream(t.Context(), "s", esdb.AppendToStreamOptions{ExpectedRevision: esdb.NoStream{}}, large...)
	require.ErrorContains(t, err, "Maximum Append Size")
}

func TestAFollowerTellsWhoLeads(t *testing.T) {
	cluster := esdbtest.New(t, 3)
	cluster.Lead(2)
	// The client itself never asks for the leader; a header of the caller's own does.
	client := esdbtest.Connect(t, cluster.URL())
	option := esdb.AppendToStreamOptions{ExpectedRevision: esdb.NoStream{}}
	_, err := client.AppendToStream(t.Context(), "s", option, esdbtest.Events("a")...)
	require.NoError(t, err, "a follower forwards")
	cluster.Nodes[0].SetLag(1)
	read := func(ctx context.Context) error {
		stream, err := client.ReadStream(ctx, "s", esdb.ReadStreamOptions{From: esdb.Start{}}, 10)
		require.NoError(t, err)
		defer stream.Close()
		_, err = stream.Recv()
		return err
	}
	require.ErrorIs(t, read(t.Context()), io.EOF, "a follower may be behind")
	require.Equal(t, esdb.ErrorCodeNotLeader, esdbtest.Code(read(esdbtest.WantLeader(t.Context()))))
	require.NoError(t, read(esdbtest.WantLeader(t.Context())), "the client has gone to the leader")
}

func TestFaults(t *testing.T) {
	cluster := esdbtest.New(t, 1)
	client := esdbtest.Connect(t, cluster.URL()+"&maxDiscoverAttempts=1000")
	option := esdb.AppendToStreamOptions{ExpectedRevision: esdb.NoStream{}}
	once := func(f esdbtest.Fault) {
		cluster.SetFaults(func(esdbtest.Op) esdbtest.Fault {
			cluster.SetFaults(nil)
			return f
		})
	}
	once(esdbtest.Fault{After: esdbtest.Unavailable})
	_, err := client.AppendToStream(t.Context(), "s", option, esdbtest.Events("a")...)
	require.Equal(t, esdb.ErrorUnavailable, esdbtest.Code(err))
	require.Equal(t, 1, cluster.Events("s"), "the answer is lost, the event is not")

	once(esdbtest.Fault{Before: esdbtest.Aborted})
	_, err = client.AppendToStream(t.Context(), "t", option, esdbtest.Events("a")...)
	require.Equal(t, esdb.ErrorAborted, esdbtest.Code(err))
	require.Zero(t, cluster.Events("t"))

	once(esdbtest.Fault{Stall: true})
	short, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	_, err = client.AppendToStream(short, "t", option, esdbtest.Events("a")...)
	require.Equal(t, esdb.ErrorCodeDeadlineExceeded, esdbtest.Code(err))
	_, err = client.AppendToStream(t.Context(), "t", option, esdbtest.Events("a")...)
	require.NoError(t, err)
}
