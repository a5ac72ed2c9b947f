package esdbtest

import (
	"errors"
	"strings"
	"testing"

	"github.com/EventStore/EventStore-Client-Go/v4/esdb"
	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
)

// Conformance checks the rules of a server that the log relies on, and that this package imitates. It is for the real one, and
// for this one.
func Conformance(t *testing.T, url string) {
	for name, check := range map[string]func(*testing.T, string, string){
		"idempotent": idempotent, "deleted": deleted, "subscription": subscription,
	} {
		t.Run(name, func(t *testing.T) { check(t, url, "conformance-"+uuid.NewString()+"-") })
	}
}

func connect(t *testing.T, url string) *esdb.Client {
	t.Helper()
	c, err := esdb.ParseConnectionString(url)
	require.NoError(t, err)
	c.Logger = esdb.NoopLogging()
	client, err := esdb.NewClient(c)
	require.NoError(t, err)
	t.Cleanup(func() { _ = client.Close() })
	return client
}

func events(names ...string) (all []esdb.EventData) {
	for _, name := range names {
		all = append(all, esdb.EventData{EventID: uuid.NewSHA1(uuid.NameSpaceOID, []byte(name)), EventType: "noted", Data: []byte(name)})
	}
	return all
}

func code(err error) esdb.ErrorCode {
	var e *esdb.Error
	if errors.As(err, &e) {
		return e.Code()
	}
	return -1
}

// idempotent checks what the server says about each expectation, by its own rules.
func idempotent(t *testing.T, url, prefix string) {
	const wrong = esdb.ErrorCodeWrongExpectedVersion
	none, after := esdb.NoStream{}, func(n uint64) esdb.ExpectedRevision { return esdb.Revision(n) }
	for name, c := range map[string]struct {
		expected esdb.ExpectedRevision
		events   []string
		revision uint64
		fails    bool
	}{
		"the same again":                 {none, []string{"a", "b"}, 1, false},
		"a part of it":                   {none, []string{"a"}, 0, false},
		"the same across two appends":    {none, []string{"a", "b", "c"}, 2, false},
		"the later part":                 {after(0), []string{"b", "c"}, 2, false},
		"at the end":                     {after(2), []string{"d"}, 3, false},
		"the first one again at the end": {after(2), []string{"a"}, 3, false},
		"a partial overlap":              {none, []string{"a", "b", "c", "d"}, 0, true},
		"one more than there is":         {after(1), []string{"c", "d"}, 0, true},
		"something else":                 {none, []string{"x"}, 0, true},
		"something else in the middle":   {after(0), []string{"x"}, 0, true},
		"the same, swapped":              {none, []string{"b", "a"}, 0, true},
		"too far ahead":                  {after(7), []string{"a"}, 0, true},
		"any, the same":                  {esdb.Any{}, []string{"a", "b"}, 1, false},
		"any, new":                       {esdb.Any{}, []string{"x"}, 3, false},
		"any, in part new":               {esdb.Any{}, []string{"c", "x"}, 0, true},
		"exists":                         {esdb.StreamExists{}, []string{"x"}, 3, false},
	} {
		t.Run(name, func(t *testing.T) {
			client, s := connect(t, url), prefix+strings.ReplaceAll(name, " ", "-")
			for i, first := range [][]string{{"a", "b"}, {"c"}} {
				expected := []esdb.ExpectedRevision{none, after(1)}[i]
				_, err := client.AppendToStream(t.Context(), s, esdb.AppendToStreamOptions{ExpectedRevision: expected}, events(first...)...)
				require.NoError(t, err)
			}
			result, err := client.AppendToStream(t.Context(), s, esdb.AppendToStreamOptions{ExpectedRevision: c.expected}, events(c.events...)...)
			if c.fails {
				require.Equal(t, wrong, code(err), err)
				return
			}
			require.NoError(t, err)
			require.Equal(t, c.revision, result.NextExpectedVersion)
		})
	}
}

// deleted: a stream that was deleted opens again, and one with a tombstone does not.
func deleted(t *testing.T, url, prefix string) {
	client, s := connect(t, url), prefix+"s"
	none := esdb.AppendToStreamOptions{ExpectedRevision: esdb.NoStream{}}
	_, err := client.AppendToStream(t.Context(), s, none, events("a")...)
	require.NoError(t, err)
	_, err = client.DeleteStream(t.Context(), s, esdb.DeleteStreamOptions{ExpectedRevision: esdb.Revision(0)})
	require.NoError(t, err)
	stream, err := client.ReadStream(t.Context(), s, esdb.ReadStreamOptions{From: esdb.Start{}}, 10)
	require.NoError(t, err)
	_, err = stream.Recv()
	require.Equal(t, esdb.ErrorCodeResourceNotFound, code(err))
	r, err := client.AppendToStream(t.Context(), s, none, events("b")...)
	require.NoError(t, err)
	require.EqualValues(t, 1, r.NextExpectedVersion, "it goes on where it ended")
	_, err = client.TombstoneStream(t.Context(), s, esdb.TombstoneStreamOptions{ExpectedRevision: esdb.Any{}})
	require.NoError(t, err)
	_, err = client.AppendToStream(t.Context(), s, none, events("c")...)
	require.Equal(t, esdb.ErrorCodeStreamDeleted, code(err))
}

// subscription sees its prefix, and goes on after a position.
func subscription(t *testing.T, url, prefix string) {
	client := connect(t, url)
	add := func(stream string, names ...string) {
		_, err := client.AppendToStream(t.Context(), prefix+stream, esdb.AppendToStreamOptions{ExpectedRevision: esdb.NoStream{}}, events(names...)...)
		require.NoError(t, err)
	}
	add("ours-1", "a", "b")
	add("theirs-1", "c")
	add("ours-2", "d")
	subscribe := func(from esdb.AllPosition) *esdb.Subscription {
		s, err := client.SubscribeToAll(t.Context(), esdb.SubscribeToAllOptions{From: from, MaxSearchWindow: 10, CheckpointInterval: 1,
			Filter: &esdb.SubscriptionFilter{Type: esdb.StreamFilterType, Prefixes: []string{prefix + "ours-"}}})
		require.NoError(t, err)
		return s
	}
	next := func(s *esdb.Subscription) *esdb.RecordedEvent {
		for {
			switch e := s.Recv(); {
			case e.EventAppeared != nil:
				return e.EventAppeared.Event
			case e.SubscriptionDropped != nil:
				require.Fail(t, "dropped", e.SubscriptionDropped.Error)
			}
		}
	}
	s := subscribe(esdb.Start{})
	a, b, d := next(s), next(s), next(s)
	require.Equal(t, []string{"a", "b", "d"}, []string{string(a.Data), string(b.Data), string(d.Data)})
	require.Less(t, a.Position.Commit, b.Position.Commit)
	add("ours-3", "e")
	require.Equal(t, "e", string(next(s).Data))
	require.Equal(t, "b", string(next(subscribe(a.Position)).Data))
}
