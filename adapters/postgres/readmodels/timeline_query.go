package readmodels

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tollgate-io/tollgate/adapters/postgres/internal/pg"
	"github.com/tollgate-io/tollgate/domain/eventstore"
	"github.com/tollgate-io/tollgate/domain/invalid"
	"github.com/tollgate-io/tollgate/domain/timeline"
	"github.com/tollgate-io/tollgate/projections"
)

// Bounds of a list.
const (
	defaultPage = 50
	maxPage     = 500
)

func pageLimit(limit int) (int, error) {
	switch {
	case limit == 0:
		return defaultPage, nil
	case limit < 0 || limit > maxPage:
		return 0, invalid.New("/limit", "out_of_range", "limit must be between 1 and 500")
	}
	return limit, nil
}

type timelineCursor struct {
	Occurred int64 `json:"t"` // microseconds since 1970
	Position int64 `json:"p"`
}

// The time is walked backwards in the primary key.
const selectTimeline = `select occurred_at, position from %s.timeline
	where tenant_id = $1 and occurred_at >= $2 and occurred_at < $3 and (occurred_at, position) < ($4, $5)
		and ($6 = 0 or type_hash = $7 or kind = $8)
	order by occurred_at desc, position desc limit $9`

// A source has few events: they are found by its index and sorted, whatever the planner thinks of the time range.
const selectTimelineOfSource = `with found as materialized (
		select occurred_at, position, type_hash, kind from %s.timeline where tenant_id = $1 and source_hash = $10
	)
	select occurred_at, position from found
	where occurred_at >= $2 and occurred_at < $3 and (occurred_at, position) < ($4, $5)
		and ($6 = 0 or type_hash = $7 or kind = $8)
	order by occurred_at desc, position desc limit $9`

// Timeline returns where the events of a page are in the log, the cursor of the next page ("" on the last) and the
// position that the answer reflects. The filters by type and source compare hashes: the caller, who reads the events
// anyway, drops those that timeline.Item.Is refuses. Errors: *invalid.Error.
func (r *Store) Timeline(ctx context.Context, q timeline.Query) (events []eventstore.Position, next string, at eventstore.Position, err error) {
	if q.Limit, err = pageLimit(q.Limit); err != nil {
		return nil, "", at, err
	}
	from, to := q.From, q.To
	if from.IsZero() {
		from = time.Date(1, 1, 1, 0, 0, 0, 0, time.UTC)
	}
	if to.IsZero() {
		to = time.Date(10_000, 1, 1, 0, 0, 0, 0, time.UTC)
	}
	scope := "timeline\x00" + string(q.Tenant)
	after, position := to, int64(0)
	if q.Cursor != "" {
		var c timelineCursor
		if err := openCursor(q.Cursor, scope, &c); err != nil {
			return nil, "", at, err
		}
		after, position = time.UnixMicro(c.Occurred).UTC(), c.Position
		if after.Year() < 1 || after.Year() > 9999 {
			return nil, "", at, invalid.New("/cursor", "malformed", "the cursor is not one that was given out; start again without one")
		}
	}
	arguments := []any{string(q.Tenant), from, to, after, position, len(q.Type), projections.TypeHash(q.Type),
		timeline.Kind(q.Type).Number(), q.Limit + 1}
	statement := selectTimeline
	if q.Source != "" {
		statement = selectTimelineOfSource
		arguments = append(arguments, projections.SourceHash(q.Tenant, q.Source))
	}
	at, err = r.read(ctx, projections.TimelineModel, q.Tenant, func(b *pgx.Batch, schema string) {
		events, next = nil, ""
		var last timelineCursor
		b.Queue(inSchema(statement, schema), arguments...).Query(func(rows pgx.Rows) error {
			for rows.Next() {
				var (
					occurred time.Time
					packed   int64
				)
				if err := rows.Scan(&occurred, &packed); err != nil {
					return err
				}
				if len(events) == q.Limit {
					next = newCursor(scope, last)
					continue
				}
				events = append(events, pg.PositionOf(packed))
				last = timelineCursor{occurred.UnixMicro(), packed}
			}
			return rows.Err()
		})
	})
	return events, next, at, err
}
