package eventstoretest

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/tollgate-io/tollgate/adapters/memory"
	"github.com/tollgate-io/tollgate/domain/eventstore"
)

// The broken stores fail on purpose: their random runs need no fail file and little shrinking. And the store inside is
// run in full where it lives.
func TestMain(m *testing.M) {
	for name, value := range map[string]string{"rapid.nofailfile": "true", "rapid.shrinktime": "200ms", "rapid.checks": "50"} {
		if err := flag.Set(name, value); err != nil {
			panic(err)
		}
	}
	os.Exit(m.Run())
}

// fault is one way to be wrong. The suite must refuse it, and by these cases: a fault that is found only by luck in some
// other case is not covered.
type fault struct {
	name      string
	refusedBy []string
	// log makes one empty log with the fault; what it returns opens handles on it.
	log func() func() eventstore.Store
	// lacks, when set, declares the fault: then the suite must accept it.
	lacks Features
	// despite is what is declared while the suite must still refuse.
	despite Features
}

// broken passes everything on to a correct store, but for what is replaced.
type broken struct {
	eventstore.Store
	append     func(context.Context, []eventstore.Append) []result
	readStream func(context.Context, stream, revision, int) ([]recorded, error)
	readLog    func(context.Context, position, int) ([]recorded, error)
	readAt     func(context.Context, []position) ([]recorded, error)
	head       func(context.Context, int) (position, error)
	wait       func(context.Context, position) error
	imports    func(context.Context, []original) error
	originals  func([]original) // changes what ReadOriginals returns
	sparse     bool
}

func (b *broken) DenseOffsets() bool { return !b.sparse && b.Store.DenseOffsets() }

func (b *broken) Append(ctx context.Context, batch []eventstore.Append) []result {
	if b.append != nil {
		return b.append(ctx, batch)
	}
	return b.Store.Append(ctx, batch)
}

func (b *broken) ReadStream(ctx context.Context, name stream, from revision, limit int) ([]recorded, error) {
	if b.readStream != nil {
		return b.readStream(ctx, name, from, limit)
	}
	return b.Store.ReadStream(ctx, name, from, limit)
}

func (b *broken) ReadLog(ctx context.Context, after position, limit int) ([]recorded, error) {
	if b.readLog != nil {
		return b.readLog(ctx, after, limit)
	}
	return b.Store.ReadLog(ctx, after, limit)
}

func (b *broken) ReadAt(ctx context.Context, at []position) ([]recorded, error) {
	if b.readAt != nil {
		return b.readAt(ctx, at)
	}
	return b.Store.ReadAt(ctx, at)
}

func (b *broken) Head(ctx context.Context, partition int) (position, error) {
	if b.head != nil {
		return b.head(ctx, partition)
	}
	return b.Store.Head(ctx, partition)
}

func (b *broken) Wait(ctx context.Context, after position) error {
	if b.wait != nil {
		return b.wait(ctx, after)
	}
	return b.Store.Wait(ctx, after)
}

const partitions = 4

func correct() eventstore.Store { return memory.NewStore(partitions, time.Now) }

// each makes logs whose handles are all broken in the same way and share nothing but the correct log inside.
func each(breakIt func(b *broken)) func() func() eventstore.Store {
	return func() func() eventstore.Store {
		inner := correct()
		return func() eventstore.Store {
			b := &broken{Store: inner}
			breakIt(b)
			return b
		}
	}
}

// answers breaks the results of Append.
func answers(change func(s eventstore.Store, a eventstore.Append, r result) result) func() func() eventstore.Store {
	return each(func(b *broken) {
		b.append = func(ctx context.Context, batch []eventstore.Append) []result {
			results := b.Store.Append(ctx, batch)
			for i := range results {
				results[i] = change(b.Store, batch[i], results[i])
			}
			return results
		}
	})
}

// kept breaks what is written: the correct log inside gets something else than the caller sent.
func kept(change func(a eventstore.Append) eventstore.Append) func() func() eventstore.Store {
	return each(func(b *broken) {
		b.append = func(ctx context.Context, batch []eventstore.Append) []result {
			batch = copyOf(batch)
			for i := range batch {
				if batch[i].Check() == nil {
					batch[i] = change(batch[i])
				}
			}
			return b.Store.Append(ctx, batch)
		}
	})
}

// renamed breaks stream names: two names that become one are one stream.
func renamed(change func(string) string) func() func() eventstore.Store {
	return func() func() eventstore.Store {
		open := kept(func(a eventstore.Append) eventstore.Append {
			a.Stream = stream(change(string(a.Stream)))
			for i, name := range a.Absent {
				a.Absent[i] = stream(change(string(name)))
			}
			return a
		})()
		return func() eventstore.Store {
			b := &broken{Store: open()}
			b.readStream = func(ctx context.Context, name stream, from revision, limit int) ([]recorded, error) {
				events, err := b.Store.ReadStream(ctx, stream(change(string(name))), from, limit)
				for i := range events {
					events[i].Stream = name
				}
				return events, err
			}
			return b
		}
	}
}

// data breaks the payloads that are kept.
func data(change func([]byte) []byte) func() func() eventstore.Store {
	return kept(func(a eventstore.Append) eventstore.Append {
		for i := range a.Events {
			a.Events[i].Data = change(a.Events[i].Data)
		}
		return a
	})
}

// reads breaks every event on its way out, also in the answers of Append.
func reads(change func(recorded) recorded) func() func() eventstore.Store {
	all := func(events []recorded, err error) ([]recorded, error) {
		for i := range events {
			events[i] = change(events[i])
		}
		return events, err
	}
	return each(func(b *broken) {
		b.append = func(ctx context.Context, batch []eventstore.Append) []result {
			results := b.Store.Append(ctx, batch)
			for i, r := range results {
				if r.Outcome == eventstore.Appended || r.Outcome == eventstore.Duplicate {
					out := change(recorded{Position: r.Position, RecordedAt: r.RecordedAt})
					results[i].Position, results[i].RecordedAt = out.Position, out.RecordedAt
				}
			}
			return results
		}
		b.readStream = func(ctx context.Context, name stream, from revision, limit int) ([]recorded, error) {
			return all(b.Store.ReadStream(ctx, name, from, limit))
		}
		b.readLog = func(ctx context.Context, after position, limit int) ([]recorded, error) {
			return all(b.Store.ReadLog(ctx, after, limit))
		}
		b.readAt = func(ctx context.Context, at []position) ([]recorded, error) {
			return all(b.Store.ReadAt(ctx, at))
		}
	})
}

// logReads breaks the pages of ReadLog.
func logReads(
	change func(ctx context.Context, s eventstore.Store, after position, limit int) ([]recorded, error),
) func() func() eventstore.Store {
	return each(func(b *broken) {
		b.readLog = func(ctx context.Context, after position, limit int) ([]recorded, error) {
			return change(ctx, b.Store, after, limit)
		}
	})
}

// appendAtEnd appends whatever the expected revision says.
func appendAtEnd(ctx context.Context, s eventstore.Store, a eventstore.Append) result {
	for {
		there, err := s.ReadStream(ctx, a.Stream, 0, eventstore.MaxReadLimit)
		if err != nil {
			return result{Err: err}
		}
		a.Expected = revision(len(there)) - 1
		if r := s.Append(ctx, []eventstore.Append{a})[0]; r.Outcome != eventstore.Conflict {
			return r
		}
	}
}

// sparse keeps every third offset only, as a log does whose positions are byte addresses.
func sparse() func() eventstore.Store {
	const step = 3
	open := reads(func(r recorded) recorded {
		r.Position.Offset *= step
		return r
	})()
	return func() eventstore.Store {
		b := &broken{Store: open(), sparse: true}
		inner := b.Store
		b.append = func(ctx context.Context, batch []eventstore.Append) []result {
			results := inner.Append(ctx, batch)
			for i, r := range results {
				for j := range batch[i].Events {
					results[i].Offsets = append(results[i].Offsets, r.Position.Offset-int64(step*(len(batch[i].Events)-1-j)))
				}
			}
			return results
		}
		down := func(p position) position { return position{Partition: p.Partition, Offset: p.Offset / step} }
		b.readLog = func(ctx context.Context, after position, limit int) ([]recorded, error) {
			return inner.ReadLog(ctx, down(after), limit)
		}
		b.readAt = func(ctx context.Context, at []position) ([]recorded, error) {
			at = slices.Clone(at)
			for i, p := range at {
				if at[i] = down(p); p.Offset%step != 0 {
					return nil, eventstore.ErrHole
				}
			}
			return inner.ReadAt(ctx, at)
		}
		b.head = func(ctx context.Context, partition int) (position, error) {
			head, err := inner.Head(ctx, partition)
			head.Offset *= step
			return head, err
		}
		b.wait = func(ctx context.Context, after position) error { return inner.Wait(ctx, down(after)) }
		return b
	}
}

// boasting promises dense offsets.
type boasting struct{ eventstore.Store }

func (*boasting) DenseOffsets() bool { return true }

var storeFaults = []fault{
	{
		name:      "loses an acknowledged event",
		refusedBy: []string{"append/new", "concurrent/one_stream", "model/random_batches"},
		log: each(func(b *broken) {
			b.append = func(ctx context.Context, batch []eventstore.Append) []result {
				results := make([]result, len(batch))
				for i, a := range batch {
					there, _ := b.Store.ReadStream(ctx, a.Stream, 0, eventstore.MaxReadLimit)
					if a.Check() == nil && a.Expected >= 0 && a.Expected == revision(len(there))-1 {
						head, _ := b.Store.Head(ctx, eventstore.PartitionOf(a.Tenant, partitions))
						head.Offset += int64(len(a.Events))
						results[i] = result{Outcome: eventstore.Appended, Position: head, RecordedAt: there[0].RecordedAt}
						continue
					}
					results[i] = b.Store.Append(ctx, batch[i:i+1])[0]
				}
				return results
			}
		}),
	},
	{
		name: "keeps no more than the first of several events", refusedBy: []string{"append/new", "batch/repeated"},
		log: kept(func(a eventstore.Append) eventstore.Append {
			a.Events = a.Events[:1]
			return a
		}),
	},
	{
		name:      "doubles on retry",
		refusedBy: []string{"append/duplicate", "concurrent/same_batch_twice", "model/random_batches"},
		log: answers(func(s eventstore.Store, a eventstore.Append, r result) result {
			if r.Outcome == eventstore.Duplicate {
				for i := range a.Events {
					a.Events = slices.Clone(a.Events)
					a.Events[i].ID = uuid.NewSHA1(a.Events[i].ID, nil)
				}
				appendAtEnd(context.Background(), s, a)
			}
			return r
		}),
	},
	{
		name:      "answers a retry as new",
		refusedBy: []string{"append/duplicate", "concurrent/same_identities", "concurrent/same_batch_twice"},
		log: answers(func(_ eventstore.Store, _ eventstore.Append, r result) result {
			if r.Outcome == eventstore.Duplicate {
				r.Outcome = eventstore.Appended
			}
			return r
		}),
	},
	{
		name:      "answers an honest retry as a conflict",
		refusedBy: []string{"append/duplicate", "batch/repeated", "concurrent/same_batch_twice"},
		log: answers(func(_ eventstore.Store, _ eventstore.Append, r result) result {
			if r.Outcome == eventstore.Duplicate {
				return result{Outcome: eventstore.Conflict}
			}
			return r
		}),
	},
	{
		name:      "answers a conflict as a duplicate",
		refusedBy: []string{"append/conflict", "concurrent/same_identities", "model/random_batches"},
		log: answers(func(s eventstore.Store, a eventstore.Append, r result) result {
			there, _ := s.ReadStream(context.Background(), a.Stream, 0, 1)
			if r.Outcome == eventstore.Conflict && len(there) > 0 {
				return result{Outcome: eventstore.Duplicate, Position: there[0].Position, RecordedAt: there[0].RecordedAt}
			}
			return r
		}),
	},
	{
		name:      "answers a partial overlap as a duplicate",
		refusedBy: []string{"append/conflict_on_partial_overlap", "model/random_batches"},
		log: answers(func(s eventstore.Store, a eventstore.Append, r result) result {
			if r.Outcome == eventstore.Conflict {
				a.Events = a.Events[:1]
				if head := s.Append(context.Background(), []eventstore.Append{a})[0]; head.Outcome == eventstore.Duplicate {
					return head
				}
			}
			return r
		}),
	},
	{
		name:      "answers a duplicate with a new position",
		refusedBy: []string{"append/duplicate", "append/duplicate_long_after", "batch/repeated"},
		log: answers(func(s eventstore.Store, _ eventstore.Append, r result) result {
			if r.Outcome == eventstore.Duplicate {
				r.Position, _ = s.Head(context.Background(), r.Position.Partition)
				r.Position.Offset++
			}
			return r
		}),
	},
	{
		name:      "answers a duplicate with the time of the retry",
		refusedBy: []string{"append/duplicate", "data/recorded_at"},
		log: answers(func(_ eventstore.Store, _ eventstore.Append, r result) result {
			if r.Outcome == eventstore.Duplicate {
				r.RecordedAt = time.Now().Add(time.Hour).Truncate(time.Microsecond)
			}
			return r
		}),
	},
	{
		name:      "answers a duplicate of a part with the end of the whole",
		refusedBy: []string{"append/duplicate_of_a_part", "model/random_batches"},
		log: answers(func(s eventstore.Store, a eventstore.Append, r result) result {
			if r.Outcome == eventstore.Duplicate {
				there, _ := s.ReadStream(context.Background(), a.Stream, 0, eventstore.MaxReadLimit)
				last := there[len(there)-1]
				r.Position, r.RecordedAt = last.Position, last.RecordedAt
			}
			return r
		}),
	},
	{
		name: "forgets identities after a while", refusedBy: []string{"append/duplicate_long_after"},
		log: answers(func(s eventstore.Store, _ eventstore.Append, r result) result {
			head, _ := s.Head(context.Background(), r.Position.Partition)
			if r.Outcome == eventstore.Duplicate && head.Offset-r.Position.Offset > 500 {
				return result{Outcome: eventstore.Conflict}
			}
			return r
		}),
	},
	{
		name: "compares payloads beside ids", refusedBy: []string{"append/duplicate_by_id_alone"},
		log: answers(func(s eventstore.Store, a eventstore.Append, r result) result {
			if r.Outcome == eventstore.Duplicate {
				there, _ := s.ReadStream(context.Background(), a.Stream, a.Expected+1, len(a.Events))
				for i, ev := range a.Events {
					if !bytes.Equal(ev.Data, there[i].Data) {
						return result{Outcome: eventstore.Conflict}
					}
				}
			}
			return r
		}),
	},
	{
		name: "recognises an id anywhere", refusedBy: []string{"append/same_id_elsewhere_is_new"},
		log: func() func() eventstore.Store {
			var mu sync.Mutex
			known := map[uuid.UUID]result{}
			return answers(func(_ eventstore.Store, a eventstore.Append, r result) result {
				mu.Lock()
				defer mu.Unlock()
				if r.Outcome != eventstore.Appended {
					return r
				}
				if first, ok := known[a.Events[0].ID]; ok {
					first.Outcome = eventstore.Duplicate
					return first
				}
				known[a.Events[0].ID] = r
				return r
			})()
		},
	},
	{
		name:      "ignores the expected revision",
		refusedBy: []string{"append/conflict_on_wrong_revision", "model/random_batches"},
		log: answers(func(s eventstore.Store, a eventstore.Append, r result) result {
			if r.Outcome == eventstore.Conflict && a.Expected != noStream {
				return appendAtEnd(context.Background(), s, a)
			}
			return r
		}),
	},
	{
		name:      "takes an expected revision that is too high",
		refusedBy: []string{"append/conflict_on_wrong_revision", "model/random_batches"},
		log: answers(func(s eventstore.Store, a eventstore.Append, r result) result {
			there, _ := s.ReadStream(context.Background(), a.Stream, 0, eventstore.MaxReadLimit)
			if r.Outcome == eventstore.Conflict && a.Expected >= revision(len(there)) {
				return appendAtEnd(context.Background(), s, a)
			}
			return r
		}),
	},
	{
		name: "cuts an expected revision to 32 bits", refusedBy: []string{"append/conflict_on_wrong_revision"},
		log: kept(func(a eventstore.Append) eventstore.Append {
			a.Expected = revision(int32(a.Expected)) //nolint:gosec // the fault
			return a
		}),
	},
	{
		name:      "writes a part of a stream's batch",
		refusedBy: []string{"append/conflict_on_partial_overlap", "model/random_batches"},
		log: answers(func(s eventstore.Store, a eventstore.Append, r result) result {
			there, _ := s.ReadStream(context.Background(), a.Stream, 0, eventstore.MaxReadLimit)
			fit := len(there) - 1 - int(a.Expected)
			if r.Outcome == eventstore.Conflict && a.Expected < revision(len(there)) && fit < len(a.Events) {
				a.Events = a.Events[fit:]
				appendAtEnd(context.Background(), s, a)
			}
			return r
		}),
	},
	{
		name: "writes the good events before a bad one", refusedBy: []string{"append/atomic_per_stream"},
		log: answers(func(s eventstore.Store, a eventstore.Append, r result) result {
			for i := range a.Events {
				part := a
				part.Events = a.Events[:len(a.Events)-1-i]
				if r.Outcome == eventstore.Unknown && part.Check() == nil {
					s.Append(context.Background(), []eventstore.Append{part})
					break
				}
			}
			return r
		}),
	},
	{
		name:      "refuses a whole batch for one bad element",
		refusedBy: []string{"batch/elements_fail_alone", "batch/one_stream_many_times"},
		log: each(func(b *broken) {
			b.append = func(ctx context.Context, batch []eventstore.Append) []result {
				for _, a := range batch {
					if err := a.Check(); err != nil {
						return eventstore.Refuse(len(batch), err)
					}
				}
				return b.Store.Append(ctx, batch)
			}
		}),
	},
	{
		name:      "stops a batch at its first conflict",
		refusedBy: []string{"batch/elements_fail_alone", "batch/results_in_order", "model/random_batches"},
		log: each(func(b *broken) {
			b.append = func(ctx context.Context, batch []eventstore.Append) []result {
				results := make([]result, len(batch))
				stopped := len(batch) > eventstore.MaxAppends
				for i := range batch {
					if stopped {
						results[i].Outcome = eventstore.Conflict
						continue
					}
					results[i] = b.Store.Append(ctx, batch[i:i+1])[0]
					stopped = results[i].Outcome == eventstore.Conflict
				}
				return results
			}
		}),
	},
	{
		name:      "judges a whole batch by the state before it",
		refusedBy: []string{"batch/one_stream_many_times", "model/random_batches"},
		log: each(func(b *broken) {
			b.append = func(ctx context.Context, batch []eventstore.Append) []result {
				seen := map[stream]bool{}
				var first []eventstore.Append
				var at []int
				results := make([]result, len(batch))
				for i, a := range batch {
					if results[i] = (result{Outcome: eventstore.Conflict}); !seen[a.Stream] {
						first, at = append(first, a), append(at, i)
					}
					seen[a.Stream] = true
				}
				for i, r := range b.Store.Append(ctx, first) {
					results[at[i]] = r
				}
				return results
			}
		}),
	},
	{
		name: "answers out of order", refusedBy: []string{"batch/results_in_order", "batch/all_partitions"},
		log: each(func(b *broken) {
			b.append = func(ctx context.Context, batch []eventstore.Append) []result {
				results := b.Store.Append(ctx, batch)
				slices.Reverse(results)
				return results
			}
		}),
	},
	{
		name: "answers for what it wrote only", refusedBy: []string{"batch/results_in_order"},
		log: each(func(b *broken) {
			b.append = func(ctx context.Context, batch []eventstore.Append) []result {
				results := b.Store.Append(ctx, batch)
				return slices.DeleteFunc(results, func(r result) bool { return r.Outcome != eventstore.Appended })
			}
		}),
	},
	{
		name: "writes what fits of a batch that is too large", refusedBy: []string{"append/too_large"},
		log: each(func(b *broken) {
			b.append = func(ctx context.Context, batch []eventstore.Append) []result {
				if len(batch) > eventstore.MaxAppends {
					b.Store.Append(ctx, batch[:eventstore.MaxAppends])
				}
				return b.Store.Append(ctx, batch)
			}
		}),
	},
	{
		name:      "gives a type to an event without one",
		refusedBy: []string{"append/invalid", "append/atomic_per_stream", "batch/elements_fail_alone"},
		log: answers(func(s eventstore.Store, a eventstore.Append, r result) result {
			a.Events = slices.Clone(a.Events)
			for i := range a.Events {
				a.Events[i].Type = cmp.Or(a.Events[i].Type, "unnamed")
			}
			if r.Outcome == eventstore.Unknown && a.Check() == nil {
				return s.Append(context.Background(), []eventstore.Append{a})[0]
			}
			return r
		}),
	},
	{
		name: "answers too large instead of invalid", refusedBy: []string{"append/invalid", "batch/elements_fail_alone"},
		log: answers(func(_ eventstore.Store, _ eventstore.Append, r result) result {
			if errors.Is(r.Err, eventstore.ErrInvalid) {
				r.Err = eventstore.ErrTooLarge
			}
			return r
		}),
	},
	{
		name:      "places tenants by another hash",
		refusedBy: []string{"batch/all_partitions", "append/offsets_in_commit_order"},
		log: func() func() eventstore.Store {
			open := kept(func(a eventstore.Append) eventstore.Append {
				a.Tenant += "!"
				return a
			})()
			return func() eventstore.Store { return open() }
		},
	},
	{
		name: "keeps the caller's memory", refusedBy: []string{"append/leaves_the_callers_memory_alone"},
		log: func() func() eventstore.Store {
			var mu sync.Mutex
			borrowed := map[uuid.UUID][]byte{}
			open := each(func(b *broken) {
				b.append = func(ctx context.Context, batch []eventstore.Append) []result {
					mu.Lock()
					defer mu.Unlock()
					marked := copyOf(batch)
					for i, a := range batch {
						for j, ev := range a.Events {
							if _, known := borrowed[ev.ID]; !known {
								borrowed[ev.ID] = ev.Data
							}
							if len(ev.Data) <= eventstore.MaxEventBytes {
								marked[i].Events[j].Data = ev.ID[:]
							}
						}
					}
					return b.Store.Append(ctx, marked)
				}
				b.readStream = func(ctx context.Context, name stream, from revision, limit int) ([]recorded, error) {
					mu.Lock()
					defer mu.Unlock()
					events, err := b.Store.ReadStream(ctx, name, from, limit)
					for i, r := range events {
						events[i].Data = borrowed[uuid.UUID(r.Data)]
					}
					return events, err
				}
			})()
			return open
		},
	},
	{
		name: "sorts the caller's batch", refusedBy: []string{"append/leaves_the_callers_memory_alone"},
		log: each(func(b *broken) {
			b.append = func(ctx context.Context, batch []eventstore.Append) []result {
				slices.SortStableFunc(batch, func(x, y eventstore.Append) int { return cmp.Compare(x.Stream, y.Stream) })
				return b.Store.Append(ctx, batch)
			}
		}),
	},
	{
		name: "cuts data at NUL", refusedBy: []string{"data/exact_bytes"},
		log: data(func(d []byte) []byte {
			d, _, _ = bytes.Cut(d, []byte{0})
			return d
		}),
	},
	{
		name: "repairs invalid UTF-8", refusedBy: []string{"data/exact_bytes"},
		log: data(func(d []byte) []byte { return bytes.ToValidUTF8(d, []byte("\ufffd")) }),
	},
	{
		name: "trims data", refusedBy: []string{"data/exact_bytes"}, log: data(bytes.TrimSpace),
	},
	{
		name: "turns no data into null", refusedBy: []string{"data/exact_bytes"},
		log: data(func(d []byte) []byte {
			if len(d) == 0 {
				return []byte("null")
			}
			return d
		}),
	},
	{
		name: "cuts large data", refusedBy: []string{"data/exact_bytes"},
		log: data(func(d []byte) []byte { return d[:min(len(d), eventstore.MaxEventBytes-1)] }),
	},
	{
		name:      "folds the case of stream names",
		refusedBy: []string{"data/stream_names"}, log: renamed(strings.ToLower),
	},
	{
		name: "trims stream names", refusedBy: []string{"data/stream_names"}, log: renamed(strings.TrimSpace),
	},
	{
		name: "cuts long stream names", refusedBy: []string{"data/stream_names"},
		log: renamed(func(name string) string { return name[:min(len(name), 250)] }),
	},
	{
		name: "packs a name to its uuid", refusedBy: []string{"data/stream_names"},
		log: renamed(func(name string) string {
			if _, rest, ok := strings.Cut(name, "-"); ok {
				if id, err := uuid.Parse(rest); err == nil {
					return "packed-" + id.String()
				}
			}
			return name
		}),
	},
	{
		name: "packs everything that uuid.Parse accepts", refusedBy: []string{"data/stream_names"},
		log: renamed(func(name string) string {
			if category, rest, ok := strings.Cut(name, "-"); ok {
				if id, err := uuid.Parse(rest); err == nil {
					return category + "-" + id.String()
				}
			}
			return name
		}),
	},
	{
		name: "reports a name that is not text as an outage", refusedBy: []string{"data/names_that_are_no_text"},
		log: each(func(b *broken) {
			b.append = func(ctx context.Context, batch []eventstore.Append) []result {
				for _, a := range batch {
					if strings.ContainsRune(string(a.Stream), 0) {
						err := fmt.Errorf("%w: invalid byte sequence", eventstore.ErrUnavailable)
						return eventstore.Refuse(len(batch), err)
					}
				}
				return b.Store.Append(ctx, batch)
			}
		}),
	},
	{
		name: "cuts long types", refusedBy: []string{"data/types"},
		log: kept(func(a eventstore.Append) eventstore.Append {
			for i, ev := range a.Events {
				a.Events[i].Type = ev.Type[:min(len(ev.Type), 200)]
			}
			return a
		}),
	},
	{
		name: "folds the case of tenants", refusedBy: []string{"data/tenants"},
		log: reads(func(r recorded) recorded {
			r.Tenant = strings.ToLower(r.Tenant)
			return r
		}),
	},
	{
		name: "answers in nanoseconds, keeps microseconds", refusedBy: []string{"data/recorded_at", "append/new"},
		log: answers(func(_ eventstore.Store, _ eventstore.Append, r result) result {
			if r.Outcome == eventstore.Appended {
				r.RecordedAt = r.RecordedAt.Add(time.Nanosecond)
			}
			return r
		}),
	},
	{
		name: "answers with its own clock", refusedBy: []string{"data/recorded_at", "append/new"},
		log: answers(func(_ eventstore.Store, _ eventstore.Append, r result) result {
			if r.Outcome == eventstore.Appended {
				r.RecordedAt = r.RecordedAt.Add(time.Millisecond)
			}
			return r
		}),
	},
	{
		name: "goes back in time", refusedBy: []string{"data/recorded_at", "read/log_pages"},
		lacks: Features{SteadyClock: "the wrapper counts time down"},
		log:   countsDown,
	},
	{
		name: "returns wrong positions within an append", refusedBy: []string{"append/new", "absent/none_exists"},
		log: answers(func(_ eventstore.Store, a eventstore.Append, r result) result {
			if len(a.Events) > 1 {
				r.Offsets = make([]int64, len(a.Events))
			}
			return r
		}),
	},
	{
		name: "claims dense offsets that have holes", refusedBy: []string{"append/new", "read/log_pages"},
		despite: Features{DenseOffsets: "the wrapper uses every third offset"},
		log: func() func() eventstore.Store {
			open := sparse()
			return func() eventstore.Store { return &boasting{open()} }
		},
	},
	{
		name: "refuses large appends", refusedBy: []string{"data/exact_bytes"},
		lacks: Features{LargeAppends: "the wrapper has bounds"},
		log: each(func(b *broken) {
			b.append = func(ctx context.Context, batch []eventstore.Append) []result {
				for _, a := range batch {
					size := 0
					for _, e := range a.Events {
						size += len(e.Data)
					}
					if size > 1<<20 {
						return eventstore.Refuse(len(batch), eventstore.ErrTooLarge)
					}
				}
				return b.Store.Append(ctx, batch)
			}
		}),
	},
	{
		name:      "has holes in its offsets",
		refusedBy: []string{"append/offsets_in_commit_order", "read/log_pages", "concurrent/follower"},
		lacks:     Features{DenseOffsets: "the wrapper uses every third offset"},
		log:       sparse,
	},
	{
		name: "counts offsets from 0", refusedBy: []string{"append/new", "read/log_pages"},
		log: reads(func(r recorded) recorded {
			r.Position.Offset--
			return r
		}),
	},
	{
		name: "swaps the order of the log", refusedBy: []string{"read/log_pages", "concurrent/follower"},
		log: logReads(func(ctx context.Context, s eventstore.Store, after position, limit int) ([]recorded, error) {
			events, err := s.ReadLog(ctx, after, limit)
			if len(events) > 1 {
				events[0], events[1] = events[1], events[0]
			}
			return events, err
		}),
	},
	{
		name:      "swaps the order of the log, but not the offsets",
		refusedBy: []string{"read/log_pages", "model/random_batches"},
		log: logReads(func(ctx context.Context, s eventstore.Store, after position, limit int) ([]recorded, error) {
			events, err := s.ReadLog(ctx, after, limit)
			if len(events) > 1 {
				events[0], events[1] = events[1], events[0]
				events[0].Position, events[1].Position = events[1].Position, events[0].Position
			}
			return events, err
		}),
	},
	{
		name:      "starts the log at the position, not after it",
		refusedBy: []string{"read/log_pages", "concurrent/follower"},
		log: logReads(func(ctx context.Context, s eventstore.Store, after position, limit int) ([]recorded, error) {
			after.Offset = max(0, after.Offset-1)
			return s.ReadLog(ctx, after, limit)
		}),
	},
	{
		name:      "skips an event of the log",
		refusedBy: []string{"read/log_pages", "read/log_after_head", "concurrent/follower"},
		log: logReads(func(ctx context.Context, s eventstore.Store, after position, limit int) ([]recorded, error) {
			events, err := s.ReadLog(ctx, after, limit)
			return slices.DeleteFunc(events, func(r recorded) bool { return r.Position.Offset%7 == 5 }), err
		}),
	},
	{
		name: "ignores the limit of the log", refusedBy: []string{"read/log_pages"},
		log: logReads(func(ctx context.Context, s eventstore.Store, after position, limit int) ([]recorded, error) {
			if limit < 1 || limit > eventstore.MaxReadLimit {
				return s.ReadLog(ctx, after, limit)
			}
			return s.ReadLog(ctx, after, eventstore.MaxReadLimit)
		}),
	},
	{
		name: "reads more than the bound", refusedBy: []string{"read/bounds"},
		log: logReads(func(ctx context.Context, s eventstore.Store, after position, limit int) ([]recorded, error) {
			return s.ReadLog(ctx, after, min(limit, eventstore.MaxReadLimit))
		}),
	},
	{
		name: "fails after the head", refusedBy: []string{"read/log_after_head"},
		log: logReads(func(ctx context.Context, s eventstore.Store, after position, limit int) ([]recorded, error) {
			if head, err := s.Head(ctx, after.Partition); err == nil && after.Offset > head.Offset {
				return nil, eventstore.ErrHole
			}
			return s.ReadLog(ctx, after, limit)
		}),
	},
	{
		name:      "starts a stream after the revision, not at it",
		refusedBy: []string{"read/stream_pages", "append/new"},
		log: each(func(b *broken) {
			b.readStream = func(ctx context.Context, name stream, from revision, limit int) ([]recorded, error) {
				return b.Store.ReadStream(ctx, name, from+1, limit)
			}
		}),
	},
	{
		name: "ignores the limit of a stream", refusedBy: []string{"read/stream_pages"},
		log: each(func(b *broken) {
			b.readStream = func(ctx context.Context, name stream, from revision, limit int) ([]recorded, error) {
				return b.Store.ReadStream(ctx, name, from, max(limit, min(20, limit*20)))
			}
		}),
	},
	{
		name: "skips a missing position", refusedBy: []string{"read/at"},
		log: each(func(b *broken) {
			b.readAt = func(ctx context.Context, at []position) ([]recorded, error) {
				var all []recorded
				for i := range at {
					one, err := b.Store.ReadAt(ctx, at[i:i+1])
					if err == nil {
						all = append(all, one...)
					}
				}
				return all, nil
			}
		}),
	},
	{
		name: "reads positions in the order of the log", refusedBy: []string{"read/at"},
		log: each(func(b *broken) {
			b.readAt = func(ctx context.Context, at []position) ([]recorded, error) {
				at = slices.Clone(at)
				slices.SortFunc(at, func(x, y position) int { return int(x.Offset - y.Offset) })
				return b.Store.ReadAt(ctx, at)
			}
		}),
	},
	{
		name: "has a head that lags", refusedBy: []string{"read/head", "append/offsets_in_commit_order"},
		log: each(func(b *broken) {
			b.head = func(ctx context.Context, partition int) (position, error) {
				head, err := b.Store.Head(ctx, partition)
				head.Offset = max(0, head.Offset-1)
				return head, err
			}
		}),
	},
	{
		name: "shows a handle its own appends only", refusedBy: []string{"read/other_handle_at_once", "read/head"},
		log: func() func() eventstore.Store {
			inner := correct()
			return func() eventstore.Store {
				b := &broken{Store: inner}
				var mu sync.Mutex
				known := map[int]position{}
				for p := range partitions {
					known[p], _ = inner.Head(context.Background(), p)
				}
				b.append = func(ctx context.Context, batch []eventstore.Append) []result {
					mu.Lock()
					defer mu.Unlock()
					results := inner.Append(ctx, batch)
					for p := range partitions {
						known[p], _ = inner.Head(context.Background(), p)
					}
					return results
				}
				b.head = func(_ context.Context, partition int) (position, error) {
					mu.Lock()
					defer mu.Unlock()
					return position{Partition: partition, Offset: known[partition].Offset}, nil
				}
				return b
			}
		},
	},
	{
		name: "shows late events after later ones", refusedBy: []string{"concurrent/follower"},
		// Without the promise of density nothing but the follower's own list can show this.
		despite: Features{DenseOffsets: "the wrapper uses every third offset"}, log: lateEvents,
	},
	{
		name: "never wakes for another handle", refusedBy: []string{"wait/other_handle", "wait/ping_pong"},
		log: func() func() eventstore.Store {
			inner := correct()
			return func() eventstore.Store {
				own := make(chan struct{}, 1)
				b := &broken{Store: inner}
				b.append = func(ctx context.Context, batch []eventstore.Append) []result {
					defer func() {
						select {
						case own <- struct{}{}:
						default:
						}
					}()
					return inner.Append(ctx, batch)
				}
				b.wait = func(ctx context.Context, after position) error {
					for {
						if head, err := inner.Head(ctx, after.Partition); err != nil || head.Offset > after.Offset {
							return err
						}
						select {
						case <-own:
						case <-ctx.Done():
							return ctx.Err()
						}
					}
				}
				return b
			}
		},
	},
	{
		name: "wakes one waiter only", refusedBy: []string{"wait/this_handle"},
		log: each(func(b *broken) {
			turn := make(chan struct{}, 1)
			b.wait = func(ctx context.Context, after position) error {
				select {
				case turn <- struct{}{}: // never given back
					return b.Store.Wait(ctx, after)
				case <-ctx.Done():
					return ctx.Err()
				}
			}
		}),
	},
	{
		name: "waits for the next append even when there is one", refusedBy: []string{"wait/already_there"},
		log: each(func(b *broken) {
			b.wait = func(ctx context.Context, after position) error {
				head, err := b.Store.Head(ctx, after.Partition)
				if err != nil {
					return err
				}
				return b.Store.Wait(ctx, position{Partition: head.Partition, Offset: max(head.Offset, after.Offset)})
			}
		}),
	},
	{
		name:      "wakes for nothing",
		refusedBy: []string{"wait/only_its_partition", "wait/not_for_refused_appends", "context/ends_a_wait"},
		log: each(func(b *broken) {
			b.wait = func(context.Context, position) error { return nil }
		}),
	},
	{
		name:      "wakes for any later event, not for one after the position",
		refusedBy: []string{"wait/further_ahead"},
		log: each(func(b *broken) {
			b.wait = func(ctx context.Context, after position) error {
				head, err := b.Store.Head(ctx, after.Partition)
				if err != nil {
					return err
				}
				return b.Store.Wait(ctx, position{Partition: head.Partition, Offset: min(head.Offset, after.Offset)})
			}
		}),
	},
	{
		name:      "ends a wait without the context's error",
		refusedBy: []string{"context/ends_a_wait", "context/ended_before"},
		log: each(func(b *broken) {
			b.wait = func(ctx context.Context, after position) error {
				if err := b.Store.Wait(ctx, after); err != nil {
					return eventstore.ErrUnavailable
				}
				return nil
			}
		}),
	},
	{
		name: "keeps waiting when its context has ended", refusedBy: []string{"context/ends_a_wait"},
		log: each(func(b *broken) {
			b.wait = func(ctx context.Context, after position) error {
				return b.Store.Wait(context.WithoutCancel(ctx), after)
			}
		}),
	},
	{
		name:      "says a cancelled append was invalid",
		refusedBy: []string{"context/ended_before", "context/ends_during_append"},
		log: answers(func(_ eventstore.Store, a eventstore.Append, r result) result {
			if r.Outcome == eventstore.Unknown && a.Check() == nil {
				r.Err = eventstore.ErrInvalid
			}
			return r
		}),
	},
	{
		name: "checks the revision first and writes later", refusedBy: []string{"concurrent/one_stream"},
		log: each(checkThenWrite),
	},
	{
		name:      "fails when two writers meet",
		refusedBy: []string{"concurrent/crossing_batches", "concurrent/same_batch_twice"},
		log: func() func() eventstore.Store {
			inner := correct()
			var lock sync.Mutex
			return func() eventstore.Store {
				b := &broken{Store: inner}
				b.append = func(ctx context.Context, batch []eventstore.Append) []result {
					if !lock.TryLock() {
						return eventstore.Refuse(len(batch), fmt.Errorf("%w: deadlock detected", eventstore.ErrUnavailable))
					}
					defer lock.Unlock()
					meet(ctx, nil)
					return inner.Append(ctx, batch)
				}
				return b
			}
		},
	},
	{
		name:      "answers an empty batch",
		refusedBy: []string{"append/nothing"},
		log: each(func(b *broken) {
			b.append = func(ctx context.Context, batch []eventstore.Append) []result {
				if len(batch) == 0 {
					return eventstore.Refuse(1, eventstore.ErrInvalid)
				}
				return b.Store.Append(ctx, batch)
			}
		}),
	},
	{
		name:      "refuses the largest batch",
		refusedBy: []string{"append/as_large_as_allowed"},
		log: each(func(b *broken) {
			b.append = func(ctx context.Context, batch []eventstore.Append) []result {
				if len(batch) == eventstore.MaxAppends {
					return eventstore.Refuse(len(batch), eventstore.ErrTooLarge)
				}
				return b.Store.Append(ctx, batch)
			}
		}),
	},
	{
		name:      "fails for an unknown stream",
		refusedBy: []string{"read/empty_log"},
		log: each(func(b *broken) {
			b.readStream = func(ctx context.Context, name stream, from revision, limit int) ([]recorded, error) {
				events, err := b.Store.ReadStream(ctx, name, from, limit)
				if err == nil && len(events) == 0 && from == 0 {
					return nil, errors.New("no such stream")
				}
				return events, err
			}
		}),
	},
	{
		name:      "recognises only the identities of its own handle",
		refusedBy: []string{"read/new_handle", "append/duplicate", "append/duplicate_long_after", "concurrent/same_batch_twice"},
		log: each(func(b *broken) {
			var mu sync.Mutex
			known := map[uuid.UUID]bool{}
			b.append = func(ctx context.Context, batch []eventstore.Append) []result {
				mu.Lock()
				defer mu.Unlock()
				results := b.Store.Append(ctx, batch)
				for i, r := range results {
					switch {
					case r.Outcome == eventstore.Appended:
						known[batch[i].Events[0].ID] = true
					case r.Outcome == eventstore.Duplicate && !known[batch[i].Events[0].ID]:
						results[i] = result{Outcome: eventstore.Conflict}
					}
				}
				return results
			}
		}),
	},
	{
		name: "ignores what must be absent",
		refusedBy: []string{
			"absent/present", "absent/names_apart", "absent/sees_earlier_elements", "absent/large_batch", "batch/elements_fail_alone",
			"append/as_large_as_allowed", "wait/not_for_refused_appends", "concurrent/absent", "model/random_batches",
		},
		log: kept(func(a eventstore.Append) eventstore.Append {
			a.Absent = nil
			return a
		}),
	},
	{
		name: "checks only the first stream that must be absent", refusedBy: []string{"absent/present", "model/random_batches"},
		log: kept(func(a eventstore.Append) eventstore.Append {
			a.Absent = a.Absent[:min(1, len(a.Absent))]
			return a
		}),
	},
	{
		name:      "says that a stream is present and writes",
		refusedBy: []string{"absent/present", "wait/not_for_refused_appends", "model/random_batches"},
		log: guards(func(s eventstore.Store, a eventstore.Append, r result) result {
			again(s, a)
			return r
		}),
	},
	{
		name:      "writes the first event where a stream is present",
		refusedBy: []string{"absent/present", "model/random_batches"},
		log: guards(func(s eventstore.Store, a eventstore.Append, r result) result {
			if len(a.Events) > 1 {
				a.Events = a.Events[:1]
				again(s, a)
			}
			return r
		}),
	},
	{
		name:      "says that it wrote where a stream is present",
		refusedBy: []string{"absent/present", "absent/sees_earlier_elements"},
		log: guards(func(s eventstore.Store, a eventstore.Append, _ result) result {
			there, _ := s.ReadStream(context.Background(), a.Absent[len(a.Absent)-1], 0, 1)
			if len(there) == 0 {
				there, _ = s.ReadLog(context.Background(), position{Partition: eventstore.PartitionOf(a.Tenant, partitions)}, 1)
			}
			return result{Outcome: eventstore.Appended, Position: there[0].Position, RecordedAt: there[0].RecordedAt}
		}),
	},
	{
		name:      "answers a present stream as a conflict",
		refusedBy: []string{"absent/present", "absent/sees_earlier_elements", "concurrent/absent", "model/random_batches"},
		log: guards(func(eventstore.Store, eventstore.Append, result) result {
			return result{Outcome: eventstore.Conflict}
		}),
	},
	{
		name: "answers a present stream as an error", refusedBy: []string{"absent/present", "batch/elements_fail_alone"},
		log: guards(func(_ eventstore.Store, a eventstore.Append, _ result) result {
			return result{Err: fmt.Errorf("%w: one of %q exists", eventstore.ErrInvalid, a.Absent)}
		}),
	},
	{
		name:      "answers a repetition by what is present now",
		refusedBy: []string{"absent/duplicate_before_present", "absent/same_place_in_a_batch", "model/random_batches"},
		log:       guardFirst(eventstore.Duplicate),
	},
	{
		name:      "answers a conflict by what is present",
		refusedBy: []string{"absent/conflict_before_present", "model/random_batches"},
		log:       guardFirst(eventstore.Conflict),
	},
	{
		name: "does not say which streams are present", refusedBy: []string{"absent/present", "batch/elements_fail_alone"},
		log: guards(func(_ eventstore.Store, _ eventstore.Append, r result) result {
			r.Present = nil
			return r
		}),
	},
	{
		name:      "names only the first present stream",
		refusedBy: []string{"absent/present", "absent/names_apart", "model/random_batches"},
		log: guards(func(_ eventstore.Store, _ eventstore.Append, r result) result {
			r.Present = r.Present[:1]
			return r
		}),
	},
	{
		name: "names present streams backwards", refusedBy: []string{"absent/present", "absent/names_apart"},
		log: guards(func(_ eventstore.Store, _ eventstore.Append, r result) result {
			slices.Reverse(r.Present)
			return r
		}),
	},
	{
		name: "counts present streams from 1", refusedBy: []string{"absent/present", "absent/large_batch"},
		log: guards(func(_ eventstore.Store, _ eventstore.Append, r result) result {
			for i := range r.Present {
				r.Present[i]++
			}
			return r
		}),
	},
	{
		name: "names every stream that it was to look at", refusedBy: []string{"absent/present", "model/random_batches"},
		log: guards(func(_ eventstore.Store, a eventstore.Append, r result) result {
			r.Present = nil
			for i := range a.Absent {
				r.Present = append(r.Present, i)
			}
			return r
		}),
	},
	{
		name: "names a present stream once", refusedBy: []string{"absent/present"},
		log: guards(func(_ eventstore.Store, a eventstore.Append, r result) result {
			r.Present = slices.DeleteFunc(r.Present, func(i int) bool { return slices.Index(a.Absent, a.Absent[i]) < i })
			return r
		}),
	},
	{
		name: "names streams beside what it wrote", refusedBy: []string{"absent/none_exists", "absent/duplicate_before_present"},
		log: answers(func(_ eventstore.Store, a eventstore.Append, r result) result {
			for i := range a.Absent {
				if r.Outcome == eventstore.Appended {
					r.Present = append(r.Present, i)
				}
			}
			return r
		}),
	},
	{
		name: "refuses a stream that wants itself absent", refusedBy: []string{"absent/none_exists"},
		log: each(func(b *broken) {
			b.append = func(ctx context.Context, batch []eventstore.Append) []result {
				results := make([]result, len(batch))
				for i, a := range batch {
					if slices.Contains(a.Absent, a.Stream) {
						results[i] = result{Outcome: eventstore.Present, Present: []int{slices.Index(a.Absent, a.Stream)}}
					} else {
						results[i] = b.Store.Append(ctx, batch[i:i+1])[0]
					}
				}
				return results
			}
		}),
	},
	{
		name:      "folds the case of what must be absent",
		refusedBy: []string{"absent/names_apart"},
		log: kept(func(a eventstore.Append) eventstore.Append {
			for i, name := range a.Absent {
				a.Absent[i] = stream(strings.ToLower(string(name)))
			}
			return a
		}),
	},
	{
		name:      "judges the guards of a batch by the state before it",
		refusedBy: []string{"absent/sees_earlier_elements", "absent/large_batch", "model/random_batches"},
		log: guardOfBatch(func(s eventstore.Store, batch []eventstore.Append, i int) []int {
			return existing(s, batch[i].Absent)
		}),
	},
	{
		name: "judges the guards of a batch by all that it wants to write",
		refusedBy: []string{
			"absent/not_later_elements", "absent/sees_earlier_elements", "absent/large_batch", "model/random_batches",
		},
		log: guardOfBatch(func(s eventstore.Store, batch []eventstore.Append, i int) []int {
			present := existing(s, batch[i].Absent)
			for j, name := range batch[i].Absent {
				writes := func(a eventstore.Append) bool { return a.Stream == name && name != batch[i].Stream }
				if !slices.Contains(present, j) && slices.ContainsFunc(batch, writes) {
					present = append(present, j)
				}
			}
			slices.Sort(present)
			return present
		}),
	},
	{
		name: "lets the first of one place answer for the others", refusedBy: []string{"absent/same_place_in_a_batch", "model/random_batches"},
		log: each(func(b *broken) {
			type place struct {
				stream stream
				after  revision
			}
			b.append = func(ctx context.Context, batch []eventstore.Append) []result {
				if len(batch) > eventstore.MaxAppends {
					return b.Store.Append(ctx, batch)
				}
				results := make([]result, len(batch))
				missed := map[place]bool{}
				for i, a := range batch {
					if at := (place{a.Stream, a.Expected}); missed[at] {
						results[i] = result{Outcome: eventstore.Conflict}
					} else {
						results[i] = b.Store.Append(ctx, batch[i:i+1])[0]
						missed[at] = results[i].Outcome == eventstore.Present
					}
				}
				return results
			}
		}),
	},
	{
		name: "looks at what must be absent first and writes later", refusedBy: []string{"concurrent/absent"},
		lacks: Features{ExactAbsence: "the wrapper has no transaction over two streams"},
		log:   lookThenWrite(),
	},
	{
		name: "refuses the most absent streams", refusedBy: []string{"append/as_large_as_allowed"},
		log: answers(func(_ eventstore.Store, a eventstore.Append, r result) result {
			if len(a.Absent) == eventstore.MaxStreamBatch {
				return result{Err: eventstore.ErrTooLarge}
			}
			return r
		}),
	},
	{
		name: "takes a nameless stream for absent", refusedBy: []string{"append/invalid", "batch/elements_fail_alone"},
		log: answers(func(s eventstore.Store, a eventstore.Append, r result) result {
			if slices.Contains(a.Absent, "") {
				return again(s, a)
			}
			return r
		}),
	},
	{
		name: "looks at as many absent streams as are allowed", refusedBy: []string{"append/too_large"},
		log: answers(func(s eventstore.Store, a eventstore.Append, r result) result {
			if len(a.Absent) <= eventstore.MaxStreamBatch {
				return r
			}
			a.Absent = a.Absent[:eventstore.MaxStreamBatch]
			return s.Append(context.Background(), []eventstore.Append{a})[0]
		}),
	},
	{
		name: "sorts what must be absent", refusedBy: []string{"append/leaves_the_callers_memory_alone"},
		log: each(func(b *broken) {
			b.append = func(ctx context.Context, batch []eventstore.Append) []result {
				for _, a := range batch {
					slices.Sort(a.Absent)
				}
				return b.Store.Append(ctx, batch)
			}
		}),
	},
}

// guards breaks what becomes of an append where some of its Absent streams exist.
func guards(change func(s eventstore.Store, a eventstore.Append, r result) result) func() func() eventstore.Store {
	return answers(func(s eventstore.Store, a eventstore.Append, r result) result {
		if r.Outcome == eventstore.Present {
			return change(s, a, r)
		}
		return r
	})
}

// again sends an append without its guard.
func again(s eventstore.Store, a eventstore.Append) result {
	a.Absent = nil
	return s.Append(context.Background(), []eventstore.Append{a})[0]
}

// existing are the indexes of the streams that exist.
func existing(s eventstore.Store, names []stream) []int {
	var present []int
	for i, name := range names {
		if there, _ := s.ReadStream(context.Background(), name, 0, 1); len(there) > 0 {
			present = append(present, i)
		}
	}
	return present
}

// guardFirst looks at the Absent streams before anything else, and does no more where one exists.
func guardFirst(instead eventstore.Outcome) func() func() eventstore.Store {
	return answers(func(s eventstore.Store, a eventstore.Append, r result) result {
		if r.Outcome != instead {
			return r
		}
		if present := existing(s, a.Absent); len(present) > 0 {
			return result{Outcome: eventstore.Present, Present: present}
		}
		return r
	})
}

// guardOfBatch judges the guards of a batch by what a look at all of it at once says.
func guardOfBatch(look func(s eventstore.Store, batch []eventstore.Append, i int) []int) func() func() eventstore.Store {
	return each(func(b *broken) {
		b.append = func(ctx context.Context, batch []eventstore.Append) []result {
			if len(batch) > eventstore.MaxAppends {
				return b.Store.Append(ctx, batch)
			}
			results := make([]result, len(batch))
			seen := make([][]int, len(batch))
			for i := range batch {
				seen[i] = look(b.Store, batch, i)
			}
			for i, a := range batch {
				if a.Check() == nil && len(seen[i]) > 0 {
					results[i] = result{Outcome: eventstore.Present, Present: seen[i]}
					continue
				}
				if a.Check() == nil {
					a.Absent = nil
				}
				results[i] = b.Store.Append(ctx, []eventstore.Append{a})[0]
			}
			return results
		}
	})
}

// lookThenWrite is a store without a transaction over two streams: it looks at the Absent streams, and then writes.
func lookThenWrite() func() func() eventstore.Store {
	return each(func(b *broken) {
		door := make(chan struct{})
		b.append = func(ctx context.Context, batch []eventstore.Append) []result {
			if ctx.Err() != nil || len(batch) > eventstore.MaxAppends {
				return b.Store.Append(ctx, batch)
			}
			results := make([]result, len(batch))
			for i, a := range batch {
				if a.Check() == nil && len(a.Absent) > 0 && len(existing(b.Store, a.Absent)) == 0 {
					meet(ctx, door)
					a.Absent = nil
				}
				results[i] = b.Store.Append(ctx, []eventstore.Append{a})[0]
			}
			return results
		}
	})
}

// meet stays until another caller is here as well, or for a moment when there is none: so that a race that a store
// loses is one that happens.
func meet(ctx context.Context, door chan struct{}) {
	timer := time.NewTimer(2 * time.Millisecond)
	defer timer.Stop()
	select {
	case door <- struct{}{}:
	case <-door:
	case <-ctx.Done():
	case <-timer.C:
	}
}

// checkThenWrite reads the revision outside of what makes the write atomic.
func checkThenWrite(b *broken) {
	door := make(chan struct{})
	b.append = func(ctx context.Context, batch []eventstore.Append) []result {
		results := make([]result, len(batch))
		for i, a := range batch {
			there, err := b.Store.ReadStream(ctx, a.Stream, 0, eventstore.MaxReadLimit)
			if err != nil || a.Check() != nil || a.Expected != revision(len(there))-1 {
				results[i] = b.Store.Append(ctx, batch[i:i+1])[0]
				continue
			}
			meet(ctx, door)
			results[i] = appendAtEnd(ctx, b.Store, a)
		}
		return results
	}
}

// lateEvents is a log in the order of commits' beginnings: an event may appear behind others that were visible before.
func lateEvents() func() eventstore.Store {
	open := sparse()
	return func() eventstore.Store {
		b := &broken{Store: open()}
		inner := b.Store
		b.readLog = func(ctx context.Context, after position, limit int) ([]recorded, error) {
			events, err := inner.ReadLog(ctx, after, limit)
			if err != nil || len(events) < 2 {
				return events, err
			}
			head, err := inner.Head(ctx, after.Partition)
			return slices.DeleteFunc(events, func(r recorded) bool {
				return r.Position.Offset%15 == 0 && head.Offset-r.Position.Offset < 15
			}), err
		}
		return b
	}
}

// recorder stands in for a *testing.T, so that a failure can be looked at.
type recorder struct {
	name string

	mu       sync.Mutex
	failed   bool
	skipped  bool
	messages []string
}

func (r *recorder) Helper()      {}
func (r *recorder) Name() string { return r.name }
func (r *recorder) Failed() bool { r.mu.Lock(); defer r.mu.Unlock(); return r.failed }
func (r *recorder) Fail()        { r.mu.Lock(); defer r.mu.Unlock(); r.failed = true }
func (r *recorder) FailNow()     { r.Fail(); runtime.Goexit() }
func (r *recorder) SkipNow()     { r.mu.Lock(); r.skipped = true; r.mu.Unlock(); runtime.Goexit() }

func (r *recorder) Log(args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.messages = append(r.messages, fmt.Sprint(args...))
}

func (r *recorder) Logf(format string, args ...any)   { r.Log(fmt.Sprintf(format, args...)) }
func (r *recorder) Error(args ...any)                 { r.Log(args...); r.Fail() }
func (r *recorder) Errorf(format string, args ...any) { r.Logf(format, args...); r.Fail() }
func (r *recorder) Fatal(args ...any)                 { r.Log(args...); r.FailNow() }
func (r *recorder) Fatalf(format string, args ...any) { r.Logf(format, args...); r.FailNow() }
func (r *recorder) Skip(args ...any)                  { r.Log(args...); r.SkipNow() }
func (r *recorder) Skipf(format string, args ...any)  { r.Logf(format, args...); r.SkipNow() }

// try runs one case against a broken store and returns what it reported.
func try(t *testing.T, c contractCase, stores Stores) *recorder {
	// Short deadlines can only refuse more, and these stores must be refused.
	hasty := deadlines{wake: 200 * time.Millisecond, end: 200 * time.Millisecond}
	r := &recorder{name: t.Name()}
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer func() {
			if p := recover(); p != nil {
				r.Errorf("panic: %v", p)
			}
		}()
		c.check(t, r, stores, hasty)
	}()
	<-done
	return r
}

func caseNamed(t *testing.T, name string) contractCase {
	t.Helper()
	for _, c := range cases {
		if c.name == name {
			return c
		}
	}
	t.Fatalf("there is no case %s", name)
	return contractCase{}
}

func storesOf(open func() eventstore.Store, lacks Features) Stores {
	return Stores{Open: func(*testing.T) eventstore.Store { return open() }, Lacks: lacks}
}

func TestBrokenStoresAreRefused(t *testing.T) {
	for _, f := range faults {
		t.Run(f.name, func(t *testing.T) {
			t.Parallel()
			for _, name := range f.refusedBy {
				r := try(t, caseNamed(t, name), storesOf(f.log(), f.despite))
				if !r.Failed() || len(r.messages) == 0 {
					t.Errorf("%s accepts a store that %s: %s", name, f.name, r.messages)
				}
				t.Logf("%s: %s", name, clip(strings.Join(r.messages, "; ")))
			}
		})
	}
}

// A case that refuses no fault has not shown that it checks anything.
func TestEveryCaseRefusesABrokenStore(t *testing.T) {
	refuses := map[string]bool{}
	for _, f := range faults {
		for _, name := range f.refusedBy {
			refuses[name] = true
		}
	}
	for _, c := range cases {
		if !refuses[c.name] {
			t.Errorf("no broken store is refused by %s", c.name)
		}
	}
}

// A fault that a store declares is none; all the rest of the contract still holds for it.
func TestDeclaredFaultsAreAccepted(t *testing.T) {
	for _, f := range faults {
		if f.lacks == (Features{}) {
			continue
		}
		t.Run(f.name, func(t *testing.T) {
			t.Parallel()
			Run(t, func(*testing.T) Stores { return storesOf(f.log(), f.lacks) })
		})
	}
}

// Without a fault the wrapper passes: so it is the fault that is refused, and not the wrapper.
func TestUnbrokenStoreIsAccepted(t *testing.T) {
	for name, log := range map[string]func() func() eventstore.Store{
		"each":    each(func(*broken) {}),
		"answers": answers(func(_ eventstore.Store, _ eventstore.Append, r result) result { return r }),
		"kept":    kept(func(a eventstore.Append) eventstore.Append { return a }),
		"reads":   reads(func(r recorded) recorded { return r }),
		"renamed": renamed(func(name string) string { return name }),
	} {
		t.Run(name, func(t *testing.T) {
			Run(t, func(*testing.T) Stores { return storesOf(log(), Features{}) })
		})
	}
}
