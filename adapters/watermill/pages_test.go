package watermill

import (
	"context"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/tollgate-io/tollgate/domain/eventstore"
)

// events is a log of one partition that is nothing but these.
type events struct {
	eventstore.LogReader
	all   []eventstore.Recorded
	dense bool
	reads int
}

func (*events) Partitions() int      { return 1 }
func (l *events) DenseOffsets() bool { return l.dense }

func (l *events) ReadLog(_ context.Context, after eventstore.Position, limit int) ([]eventstore.Recorded, error) {
	l.reads++
	return slices.Clone(l.window(after.Offset, limit)), nil
}

func (l *events) window(after int64, limit int) []eventstore.Recorded {
	start := slices.IndexFunc(l.all, func(r eventstore.Recorded) bool { return r.Position.Offset > after })
	if start < 0 {
		return nil
	}
	return l.all[start:min(len(l.all), start+limit)]
}

// Whatever is read in whatever order, from memory or not: it is what the log has, whether its offsets count or only rise.
func TestPagesAreTheLog(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		log := &events{dense: rapid.Bool().Draw(t, "dense")}
		offset := int64(0)
		grow := func() {
			step := int64(1)
			if !log.dense {
				step = rapid.Int64Range(1, 500).Draw(t, "step")
			}
			offset += step
			log.all = append(log.all, eventstore.Recorded{Position: eventstore.Position{Offset: offset},
				Type: "catalog_applied.v1", Data: []byte(`{"catalog":{},"by":"cli"}`)})
		}
		p := newPages(log)
		for range rapid.IntRange(1, 30).Draw(t, "steps") {
			for range rapid.IntRange(0, 10).Draw(t, "new") {
				grow()
			}
			after := int64(0) // readers are at an event, or at the beginning
			if n := rapid.IntRange(0, len(log.all)).Draw(t, "reader"); n > 0 {
				after = log.all[n-1].Position.Offset
			}
			limit := rapid.IntRange(1, 20).Draw(t, "limit")
			got, err := p.read(t.Context(), eventstore.Position{Offset: after}, limit)
			require.NoError(t, err)
			want := log.window(after, limit)
			// What is remembered may be less than what the log has by now, and never something else.
			require.LessOrEqual(t, len(got), len(want))
			require.Equal(t, len(want) > 0, len(got) > 0)
			for i := range got {
				require.Equal(t, want[i].Position, got[i].Position)
			}
		}
	})
}

// Readers that are as far as each other read the log once.
func TestPagesAreShared(t *testing.T) {
	log := &events{}
	for i := range 10 {
		log.all = append(log.all, eventstore.Recorded{Position: eventstore.Position{Offset: int64(100 * (i + 1))},
			Type: "catalog_applied.v1", Data: []byte(`{"catalog":{},"by":"cli"}`)})
	}
	p := newPages(log)
	for range 4 {
		for after, want := range map[int64]int{0: 10, 100: 9, 900: 1} {
			if log.reads == 0 {
				after, want = 0, 10
			}
			got, err := p.read(t.Context(), eventstore.Position{Offset: after}, 50)
			require.NoError(t, err)
			require.Len(t, got, want)
		}
	}
	require.Equal(t, 1, log.reads)
}
