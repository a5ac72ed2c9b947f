package app_test

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tollgate-io/tollgate/domain/app"
	"github.com/tollgate-io/tollgate/domain/catalog"
	"github.com/tollgate-io/tollgate/domain/costs"
	"github.com/tollgate-io/tollgate/domain/event"
	"github.com/tollgate-io/tollgate/domain/eventstore"
	"github.com/tollgate-io/tollgate/domain/invalid"
	"github.com/tollgate-io/tollgate/domain/money"
)

func (h *fixture) newCosts() *app.Costs {
	return app.NewCosts(h.Store, h.Directory, func() time.Time { return h.Now })
}

func priced(t testing.TB, model, input string) app.CostImport {
	list, err := costs.ParseList(fmt.Appendf(nil, `[{"provider":"openai","model":%q,"inputPerMillion":%s,"outputPerMillion":8}]`, model, input))
	require.NoError(t, err)
	return app.CostImport{List: list, Source: "list"}
}

func inputCost(t testing.TB, b costs.Book, model string, on catalog.Date) string {
	c, ok := b.Cost("openai", model, on)
	if !ok {
		return "unknown"
	}
	return c.InputPerMillion.String()
}

func TestTheSameImportTwiceIsOnce(t *testing.T) {
	h := newFixture(t)
	c := h.newCosts()
	for i := range 3 {
		change, err := c.ImportCosts(ctx, priced(t, "gpt", "2"), "cli")
		require.NoError(t, err)
		require.Equal(t, catalog.Date("2026-04-05"), change.From, "today")
		require.Equal(t, i == 0, change.Applied)
		require.Equal(t, i > 0, change.Repeated)
	}
	require.Len(t, h.All()["costs_imported"], 1)

	// Nobody can tell a retry that comes late from the wish to go back, so a list is imported once from a day on.
	other := priced(t, "gpt", "3")
	_, err := c.ImportCosts(ctx, other, "cli")
	require.NoError(t, err)
	change, err := c.ImportCosts(ctx, priced(t, "gpt", "2"), "cli")
	require.NoError(t, err)
	require.True(t, change.Repeated)
	// A list of other text with the same prices changes nothing either.
	same, err := costs.ParseList([]byte(`{"openai/gpt": {"input_cost_per_token": 3e-6, "output_cost_per_token": 8e-6}}`))
	require.NoError(t, err)
	change, err = c.ImportCosts(ctx, app.CostImport{List: same, Source: "other"}, "cli")
	require.NoError(t, err)
	require.False(t, change.Applied)
	require.Equal(t, 1, change.Unchanged)
	require.Len(t, h.All()["costs_imported"], 2)
	book, err := c.Book(ctx)
	require.NoError(t, err)
	require.Equal(t, "3", inputCost(t, book, "gpt", "2026-04-05"))
	require.Equal(t, "unknown", inputCost(t, book, "gpt", "2026-04-04"))
	require.Equal(t, "unknown", inputCost(t, book, "o3", "2026-04-05"))
}

// Imports at the same time, through several processes, are one after the other: each finds what those before it left, the same
// list is recorded once, and the log can be folded.
func TestImportsAreSerialised(t *testing.T) {
	h := newFixture(t)
	replicas := []*app.Costs{h.newCosts(), h.newCosts(), h.newCosts()}
	const lists, attempts = 6, 3
	var group sync.WaitGroup
	var mu sync.Mutex
	applied := map[int]int{}
	for i := range lists * attempts {
		n := i % lists
		in := priced(t, fmt.Sprintf("m%d", n%2), fmt.Sprint(n+10))
		in.From, in.AllowJumps = "2026-04-05", true
		group.Go(func() {
			change, err := replicas[i%len(replicas)].ImportCosts(ctx, in, event.Actor(fmt.Sprintf("key:%d", i)))
			if err != nil {
				t.Error(err)
				return
			}
			if change.Applied {
				mu.Lock()
				applied[n]++
				mu.Unlock()
			}
		})
	}
	group.Wait()
	for n := range lists {
		require.Equal(t, 1, applied[n], "list %d", n)
	}
	recorded := h.All()["costs_imported"]
	require.Len(t, recorded, lists)
	last := map[string]string{}
	for _, r := range recorded {
		e, err := event.Decode(r)
		require.NoError(t, err)
		imported := e.(event.CostsImported).Costs[0]
		last[imported.Model] = imported.Input.String()
	}
	for _, c := range replicas {
		book, err := c.Current(ctx)
		require.NoError(t, err)
		for model, want := range last {
			require.Equal(t, want, inputCost(t, book, model, "2026-04-05"))
		}
		require.Len(t, book.Versions(costs.Query{}), 2)
	}
}

// An import whose answer was lost is not made again by sending it again, and one that was not written is.
func TestALostAnswerOfAnImport(t *testing.T) {
	for _, f := range []fault{before, after} {
		h := newFixture(t)
		c := h.newCosts()
		h.Store.Fault = func(eventstore.Append) fault { return f }
		_, err := c.ImportCosts(ctx, priced(t, "gpt", "2"), "cli")
		require.ErrorIs(t, err, eventstore.ErrUnavailable)
		h.Store.Fault = nil
		change, err := c.ImportCosts(ctx, priced(t, "gpt", "2"), "cli")
		require.NoError(t, err)
		require.Equal(t, f == before, change.Applied)
		require.Equal(t, f == after, change.Repeated)
		require.Len(t, h.All()["costs_imported"], 1)
	}
}

func TestTheGuardStopsAnImport(t *testing.T) {
	h := newFixture(t)
	c := h.newCosts()
	_, err := c.ImportCosts(ctx, priced(t, "gpt", "2"), "cli")
	require.NoError(t, err)
	in := priced(t, "gpt", "20")
	in.From = "2026-04-06"
	change, err := c.ImportCosts(ctx, in, "cli")
	var jump *costs.JumpError
	require.ErrorAs(t, err, &jump)
	require.Len(t, change.Changes, 1, "what it would be is told")
	require.Len(t, h.All()["costs_imported"], 1)
	in.DryRun = true
	change, err = c.ImportCosts(ctx, in, "cli")
	require.NoError(t, err)
	require.False(t, change.Applied)
	require.NotEmpty(t, change.Changes[0].Jump)
	require.Len(t, h.All()["costs_imported"], 1)
	in.DryRun, in.MaxJump = false, money.Int(10)
	change, err = c.ImportCosts(ctx, in, "cli")
	require.NoError(t, err)
	require.True(t, change.Applied)
}

// Another process sees an import within a second, and the catalog's own price goes first as soon as the directory shows it.
func TestTheBookFollowsTheLog(t *testing.T) {
	h := newFixture(t)
	c, other := h.newCosts(), h.newCosts()
	cost := func(of *app.Costs) string {
		book, err := of.Book(ctx)
		require.NoError(t, err)
		return inputCost(t, book, "gpt", "2026-04-05")
	}
	require.Equal(t, "unknown", cost(other))
	_, err := c.ImportCosts(ctx, priced(t, "gpt", "2"), "cli")
	require.NoError(t, err)
	require.Equal(t, "2", cost(c), "one's own import is seen at once")
	h.Now = h.Now.Add(999 * time.Millisecond)
	require.Equal(t, "unknown", cost(other))
	h.Now = h.Now.Add(time.Millisecond)
	require.Equal(t, "2", cost(other))
	h.Apply(meters + "\ncosts:\n  - {provider: openai, model: gpt, from: 2026-01-01, inputPerMillion: 1.5, outputPerMillion: 8}\n")
	require.Equal(t, "1.5", cost(c))
	require.Equal(t, "1.5", cost(other))
	h.Apply(meters)
	require.Equal(t, "2", cost(c))
	h.Directory.Fail(errDown)
	_, err = c.Book(ctx)
	require.ErrorIs(t, err, errDown)
}

func TestImportsAreChecked(t *testing.T) {
	h := newFixture(t)
	for pointer, change := range map[string]func(*app.CostImport){
		"/source":  func(i *app.CostImport) { i.Source = costs.CatalogSource },
		"/from":    func(i *app.CostImport) { i.From = "2027-04-07" }, // 367 days ahead
		"/maxJump": func(i *app.CostImport) { i.MaxJump = money.MustParse("0.99") },
	} {
		in := priced(t, "gpt", "2")
		change(&in)
		_, err := h.newCosts().ImportCosts(ctx, in, "cli")
		var bad *invalid.Error
		require.ErrorAs(t, err, &bad)
		require.Equal(t, pointer, bad.Fields[0].Pointer)
	}
	in := priced(t, "gpt", "2")
	in.From = "2027-04-06"
	_, err := h.newCosts().ImportCosts(ctx, in, "cli")
	require.NoError(t, err)
}

// A stream that says what no import may say is a fault, and nothing is guessed.
func TestAMalformedBook(t *testing.T) {
	h := newFixture(t)
	h.Log.Append(ctx, []eventstore.Append{{Stream: event.CostsStream, Expected: eventstore.NoStream,
		Events: []eventstore.NewEvent{{ID: event.CatalogApplied{}.Append(0).Events[0].ID, Type: "costs_imported.v1", Data: []byte(`{}`)}}}})
	_, err := h.newCosts().Book(ctx)
	require.ErrorIs(t, err, event.ErrMalformed)
}
