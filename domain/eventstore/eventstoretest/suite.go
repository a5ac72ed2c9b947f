// Package eventstoretest is the contract suite of the port eventstore.Store. Every adapter runs it, and callers may rely only on
// what it checks.
//
// Each case gets a fresh, empty log and may open several handles on it, as several processes would. After each case the
// whole log is audited through a new handle: offsets, times, partitions and revisions must be in order, all ways to read
// must agree, and every acknowledged append must be there once, as it was sent.
package eventstoretest

import (
	"context"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/tollgate-io/tollgate/domain/eventstore"
)

// caseTime bounds one case, so that a store that hangs fails the case it hangs in.
const caseTime = 2 * time.Minute

// deadlines bound how long a case waits. They are long enough for a busy machine, and short enough to notice a lost wake-up.
type deadlines struct {
	wake time.Duration // from an acknowledged append to the return of a Wait for it, on any handle
	end  time.Duration // from the end of a context to the return of the call it was given to
}

var promised = deadlines{wake: 2 * time.Second, end: 5 * time.Second}

// Stores is one empty log.
type Stores struct {
	// Open returns another handle on the log, as another process would open it: only the log is shared. It registers the release
	// of its resources with t.Cleanup, and fails t if the handle cannot be opened.
	Open func(t *testing.T) eventstore.Store
	// Lacks is what the store cannot promise; the zero value promises everything.
	Lacks Features
}

// Features are the promises that a store may exclude. Each value is a sentence that says why, which the run prints; "" means
// that the store keeps the promise.
type Features struct {
	// DenseOffsets: the offsets of a partition are 1, 2, 3 ... Without it they only rise, and the store's DenseOffsets is false.
	DenseOffsets string
	// LargeAppends: an append may be as large as the bounds of its events allow. Without it, one of more than a mebibyte may be
	// refused with ErrTooLarge.
	LargeAppends string
	// SteadyClock: RecordedAt never goes back within a partition.
	SteadyClock string
	// ExactAbsence: an append never succeeds after one of its Absent streams began. Without it, the store may miss such a stream if
	// it appears while the append runs.
	ExactAbsence string
}

// Run checks that newStore makes event stores. It is called once per case and must return a new log each time; its t ends with
// the case.
func Run(t *testing.T, newStore func(t *testing.T) Stores) {
	t.Helper()
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			stores := newStore(t)
			if why := stores.Lacks.DenseOffsets; why != "" {
				t.Logf("not promised: dense offsets: %s", why)
			}
			if why := stores.Lacks.LargeAppends; why != "" {
				t.Logf("not promised: large appends: %s", why)
			}
			if why := stores.Lacks.SteadyClock; why != "" {
				t.Logf("not promised: a steady clock: %s", why)
			}
			if why := stores.Lacks.ExactAbsence; why != "" {
				t.Logf("not promised: exact absence: %s", why)
			}
			c.check(t, t, stores, promised)
		})
	}
}

// TB is what a case reports to: a *testing.T, or a substitute where the suite must refuse a broken store.
type TB = rapid.TB

type contractCase struct {
	name string
	run  func(e *env)
}

// check runs one case and the audit after it. t is used only to open handles.
func (c contractCase) check(t *testing.T, tb TB, stores Stores, limits deadlines) {
	ctx, cancel := context.WithTimeout(t.Context(), caseTime)
	defer cancel()
	e := &env{TB: tb, ctx: ctx, test: t, stores: stores, limits: limits}
	c.run(e)
	if !tb.Failed() {
		e.audit()
	}
}

// cases is the contract. Adapters and the broken stores refer to cases by name.
var cases = []contractCase{
	{"append/new", appendNew},
	{"append/duplicate", appendDuplicate},
	{"append/duplicate_long_after", appendDuplicateLongAfter},
	{"append/duplicate_by_id_alone", appendDuplicateByIDAlone},
	{"append/duplicate_of_a_part", appendDuplicateOfAPart},
	{"append/same_id_elsewhere_is_new", appendSameIDElsewhere},
	{"append/conflict", appendConflict},
	{"append/conflict_on_partial_overlap", appendPartialOverlap},
	{"append/conflict_on_wrong_revision", appendWrongRevision},
	{"append/atomic_per_stream", appendAtomicPerStream},
	{"append/offsets_in_commit_order", appendCommitOrder},
	{"append/nothing", appendNothing},
	{"append/invalid", appendInvalid},
	{"append/too_large", appendTooLarge},
	{"append/as_large_as_allowed", appendLargest},
	{"append/leaves_the_callers_memory_alone", appendCallersMemory},
	{"absent/none_exists", absentNoneExists},
	{"absent/present", absentPresent},
	{"absent/duplicate_before_present", absentDuplicateFirst},
	{"absent/conflict_before_present", absentConflictFirst},
	{"absent/names_apart", absentNamesApart},
	{"absent/sees_earlier_elements", absentSeesEarlier},
	{"absent/not_later_elements", absentNotLater},
	{"absent/same_place_in_a_batch", absentSamePlace},
	{"absent/large_batch", absentLargeBatch},
	{"batch/one_stream_many_times", batchOneStream},
	{"batch/elements_fail_alone", batchElementsFailAlone},
	{"batch/results_in_order", batchResultsInOrder},
	{"batch/all_partitions", batchAllPartitions},
	{"batch/repeated", batchRepeated},
	{"data/exact_bytes", dataExactBytes},
	{"data/stream_names", dataStreamNames},
	{"data/names_that_are_no_text", dataNoText},
	{"data/tenants", dataTenants},
	{"data/types", dataTypes},
	{"data/recorded_at", dataRecordedAt},
	{"read/empty_log", readEmptyLog},
	{"read/stream_pages", readStreamPages},
	{"read/log_pages", readLogPages},
	{"read/log_after_head", readLogAfterHead},
	{"read/at", readAt},
	{"read/head", readHead},
	{"read/bounds", readBounds},
	{"read/other_handle_at_once", readOtherHandle},
	{"read/new_handle", readNewHandle},
	{"wait/already_there", waitAlreadyThere},
	{"wait/this_handle", waitThisHandle},
	{"wait/other_handle", waitOtherHandle},
	{"wait/further_ahead", waitFurtherAhead},
	{"wait/only_its_partition", waitOnlyItsPartition},
	{"wait/not_for_refused_appends", waitNotForRefused},
	{"wait/ping_pong", waitPingPong},
	{"context/ended_before", contextEndedBefore},
	{"context/ends_a_wait", contextEndsWait},
	{"context/ends_during_append", contextEndsDuringAppend},
	{"concurrent/same_identities", concurrentIdentities},
	{"concurrent/same_batch_twice", concurrentSameBatch},
	{"concurrent/one_stream", concurrentOneStream},
	{"concurrent/crossing_batches", concurrentCrossingBatches},
	{"concurrent/follower", concurrentFollower},
	{"concurrent/absent", concurrentAbsent},
	{"copy/import", copyImport},
	{"copy/import_again", copyImportAgain},
	{"copy/continues", copyContinues},
	{"copy/not_a_copy", copyRefusesOthers},
	{"copy/bounds", copyBounds},
	{"model/random_batches", modelRandomBatches},
}
