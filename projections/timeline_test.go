package projections_test

import (
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/tollgate-io/tollgate/domain/timeline"
	"github.com/tollgate-io/tollgate/projections"
)

func TestTimelineHasOneRowForEachEventOfATenant(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		store, _ := newStore(t, 2)
		add(t, store, history(t)...)
		events := all(t, store)
		rows := projections.AppendTimeline(nil, events)
		for _, e := range events {
			item := timeline.Describe(e)
			require.NotEmpty(t, item.Summary)
			require.Equal(t, e.Position, item.Position)
			if e.Tenant == "" {
				continue
			}
			require.NotEmpty(t, rows)
			row := rows[0]
			rows = rows[1:]
			require.Equal(t, e.Position, row.Position)
			require.EqualValues(t, e.Tenant, row.Tenant)
			require.Equal(t, item.OccurredAt, row.OccurredAt, "the index and the item agree")
			require.Equal(t, item.Kind.Number(), row.Kind)
			require.Positive(t, row.Kind)
			require.Equal(t, projections.SourceHash(row.Tenant, item.SourceID), row.Source)
			require.Equal(t, projections.TypeHash(item.EventType), row.Type)
		}
		require.Empty(t, rows)
	})
}
