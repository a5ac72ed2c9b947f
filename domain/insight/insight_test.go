package insight_test

import (
	"fmt"
	"math/big"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/tollgate-io/tollgate/domain/catalog"
	"github.com/tollgate-io/tollgate/domain/costs"
	"github.com/tollgate-io/tollgate/domain/event"
	"github.com/tollgate-io/tollgate/domain/insight"
	"github.com/tollgate-io/tollgate/domain/invalid"
	"github.com/tollgate-io/tollgate/domain/money"
	"github.com/tollgate-io/tollgate/domain/tenant"
)

var noon = time.Date(2026, 4, 5, 12, 0, 0, 0, time.UTC)

func TestAQuestionIsCompleted(t *testing.T) {
	midnight := time.Date(2026, 4, 6, 0, 0, 0, 0, time.UTC)
	for name, c := range map[string]struct{ from, to, wantFrom, wantTo time.Time }{
		"nothing said":   {time.Time{}, time.Time{}, midnight.AddDate(0, 0, -31), midnight},
		"within a day":   {noon, noon.Add(1), midnight.AddDate(0, 0, -1), midnight},
		"up to midnight": {noon, midnight, midnight.AddDate(0, 0, -1), midnight},
		"past midnight":  {noon, midnight.Add(1), midnight.AddDate(0, 0, -1), midnight.AddDate(0, 0, 1)},
		"another zone":   {noon.In(time.FixedZone("", 13*3600)), noon.In(time.FixedZone("", -13*3600)).Add(1), midnight.AddDate(0, 0, -1), midnight},
		"the longest":    {midnight, midnight.AddDate(0, 0, 366), midnight, midnight.AddDate(0, 0, 366)},
	} {
		q, err := insight.Question{Kind: insight.Cost, From: c.from, To: c.to}.Complete(noon)
		require.NoError(t, err, name)
		require.Equal(t, c.wantFrom, q.From, name)
		require.Equal(t, c.wantTo, q.To, name)
		again, err := q.Complete(noon)
		require.NoError(t, err, name)
		require.Equal(t, q, again, name)
	}
	for kind, want := range map[insight.Kind][]insight.Dimension{
		insight.Cost: {"tenant"}, insight.Latency: {"plan"}, insight.Retries: {"promptVersion"}, insight.Denials: {"tenant", "limit"}, insight.Providers: {"provider", "feature"},
	} {
		q, err := insight.Question{Kind: kind}.Complete(noon)
		require.NoError(t, err)
		require.Equal(t, want, q.GroupBy)
		require.Equal(t, insight.DefaultLimit, q.Limit)
	}
	for pointer, q := range map[string]insight.Question{
		"/kind":    {Kind: "profit"},
		"/groupBy": {Kind: insight.Latency, GroupBy: []insight.Dimension{insight.Limit}},
		"/limit":   {Kind: insight.Cost, Limit: insight.MaxLimit + 1},
		"/from":    {Kind: insight.Cost, From: noon, To: midnight.AddDate(0, 0, 366)},
		"/to":      {Kind: insight.Cost, To: time.Date(9999, 1, 1, 0, 0, 0, 0, time.UTC)},
	} {
		_, err := q.Complete(noon)
		var bad *invalid.Error
		require.ErrorAs(t, err, &bad, pointer)
		require.Equal(t, pointer, bad.Fields[0].Pointer)
	}
}

func TestWhatAnEventSays(t *testing.T) {
	for name, c := range map[string]struct {
		data    string
		retried bool
		failed  bool
		counted bool
		tokens  string
		timed   bool
	}{
		"nothing":             {data: `{}`, tokens: "0 0 0"},
		"nulls":               {data: `{"attempt":null,"retryOf":null,"status":null,"inputTokens":null,"latencyMs":null,"provider":null}`, tokens: "0 0 0"},
		"a first attempt":     {data: `{"attempt":1,"status":"ok","inputTokens":812,"cachedInputTokens":12,"outputTokens":5,"latencyMs":0.5}`, counted: true, tokens: "812 12 5", timed: true},
		"a second attempt":    {data: `{"attempt":2,"status":"success"}`, retried: true, tokens: "0 0 0"},
		"a retry by name":     {data: `{"attempt":1,"retryOf":"call_1","status":"timeout"}`, retried: true, failed: true, tokens: "0 0 0"},
		"empty texts":         {data: `{"retryOf":"","status":""}`, tokens: "0 0 0"},
		"texts for numbers":   {data: `{"attempt":"2","inputTokens":"812","latencyMs":"930"}`, tokens: "0 0 0"},
		"below zero":          {data: `{"attempt":-2,"inputTokens":-1,"outputTokens":3,"latencyMs":-1}`, counted: true, tokens: "0 0 3"},
		"more cached":         {data: `{"inputTokens":10,"cachedInputTokens":11}`, counted: true, tokens: "10 11 0"},
		"no tokens, but said": {data: `{"outputTokens":0}`, counted: true, tokens: "0 0 0"},
		"another status":      {data: `{"status":500}`, failed: true, tokens: "0 0 0"},
	} {
		data, err := event.ParseData([]byte(c.data), "")
		require.NoError(t, err, name)
		call := insight.CallOf(event.Usage{Data: data})
		require.Equal(t, c.retried, call.Retried, name)
		require.Equal(t, c.failed, call.Failed, name)
		require.Equal(t, c.counted, call.Counted, name)
		require.Equal(t, c.timed, call.Timed, name)
		require.Equal(t, c.tokens, fmt.Sprint(call.Input, " ", call.CachedInput, " ", call.Output), name)
		require.Empty(t, call.Provider, name)
	}
}

func answer(t require.TestingT, q insight.Question, plans insight.Plans, book costs.Book, cells ...insight.Cell) insight.Answer {
	q, err := q.Complete(noon)
	require.NoError(t, err)
	tally := insight.NewTally(q, plans, book)
	for _, c := range cells {
		require.NoError(t, tally.Add(c))
	}
	return tally.Answer()
}

// bookOf says what a model costs, in parts that follow each other.
func bookOf(all ...catalog.Cost) costs.Book { return costs.Imports{}.Combine(all) }

func tokens(input, cached, output int64) costs.Tokens {
	return costs.Tokens{Input: money.Int(input), CachedInput: money.Int(cached), Output: money.Int(output)}
}

// A provider changes its price at midnight, and nobody knows what another model costs.
func TestCosts(t *testing.T) {
	price := func(from, until catalog.Date, input, cached, output string) catalog.Cost {
		return catalog.Cost{Provider: "openai", Model: "gpt-4.1", From: from, Until: until,
			InputPerMillion: money.MustParse(input), CachedInputPerMillion: money.MustParse(cached), OutputPerMillion: money.MustParse(output)}
	}
	book := bookOf(price("2026-04-01", "2026-04-05", "2", "0.5", "8"), price("2026-04-05", "", "1", "0.25", "4"))
	call := func(of event.TenantID, day catalog.Date, model string, tk costs.Tokens) insight.Cell {
		return insight.Cell{Tenant: of, Day: day, Provider: "openai", Model: model, Events: 5, Counted: 3, Tokens: tk}
	}
	cells := []insight.Cell{
		call("acme", "2026-04-04", "gpt-4.1", tokens(1000, 400, 100)), // 1000*2 + 400*0.5 + 100*8 = 3000
		call("acme", "2026-04-05", "gpt-4.1", tokens(1000, 400, 100)), // half of it
		call("acme", "2026-04-05", "o9", tokens(7, 0, 3)),
		call("beta", "2026-03-31", "gpt-4.1", tokens(10, 0, 1)), // before the book begins
		call("beta", "2026-04-05", "o9", tokens(1, 0, 1)),
		{Tenant: "beta", Day: "2026-04-05", Provider: "openai", Model: "gpt-4.1", Events: 4}, // say nothing of tokens
		call("cora", "2026-04-05", "gpt-4.1", tokens(1, 0, 0)),
	}
	a := answer(t, insight.Question{Kind: insight.Cost, From: noon.AddDate(0, -1, 0), To: noon}, nil, book, cells...)
	require.Equal(t, 3, a.Groups)
	for i, want := range []struct {
		tenant, cost string
		events       int64
		unpriced     insight.Unpriced
	}{
		{"acme", "0.0045", 9, insight.Unpriced{Events: 3, Input: money.Int(7), Output: money.Int(3)}},
		{"cora", "0.000001", 3, insight.Unpriced{}},
		{"beta", "", 6, insight.Unpriced{Events: 6, Input: money.Int(11), Output: money.Int(2)}},
	} {
		row := a.Rows[i]
		require.Equal(t, []string{want.tenant}, row.Labels)
		require.Equal(t, want.events, row.Events)
		require.Equal(t, want.unpriced, row.Unpriced)
		if want.cost == "" {
			require.Nil(t, row.Cost, "what is not priced is not free of charge")
		} else {
			require.Equal(t, want.cost, row.Cost.String())
		}
	}
	require.Equal(t, "0.004501", a.Total.Cost.String())
	require.EqualValues(t, 18, a.Total.Events)
	require.EqualValues(t, 9, a.Total.Unpriced.Events)
	require.Equal(t, []insight.Unpriced{
		{Provider: "openai", Model: "o9", Events: 6, Input: money.Int(8), Output: money.Int(4)},
		{Provider: "openai", Model: "gpt-4.1", Events: 3, Input: money.Int(10), Output: money.Int(1)},
	}, a.Unpriced)

	byDay := answer(t, insight.Question{Kind: insight.Cost, GroupBy: []insight.Dimension{insight.Day, insight.Model}}, nil, book, cells...)
	require.Equal(t, []string{"2026-04-04", "gpt-4.1"}, byDay.Rows[0].Labels)
	require.Equal(t, "0.003", byDay.Rows[0].Cost.String())
	require.Equal(t, []string{"2026-04-05", "gpt-4.1"}, byDay.Rows[1].Labels)
	require.Equal(t, "0.001501", byDay.Rows[1].Cost.String())
	require.Equal(t, a.Total.Cost.String(), byDay.Total.Cost.String())

	free := answer(t, insight.Question{Kind: insight.Cost}, nil, bookOf(price("2026-04-01", "", "0", "0", "0")), cells[:3]...)
	require.Equal(t, "0", free.Rows[0].Cost.String())
	few := answer(t, insight.Question{Kind: insight.Cost, Limit: 1}, nil, book, cells...)
	require.Len(t, few.Rows, 1)
	require.Len(t, few.Unpriced, 1)
	require.Equal(t, 3, few.Groups)
	require.Equal(t, a.Total.Cost.String(), few.Total.Cost.String())
}

// A day belongs to the plan that the tenant had when it ended.
func TestPlans(t *testing.T) {
	plans := insight.Plans{"acme": tenant.Subscription{Assignments: []tenant.Assignment{{Plan: "free", EffectiveAt: noon}, {Plan: "pro", EffectiveAt: noon.Add(12 * time.Hour)}}}}
	slow := []insight.LatencyCount{{Bucket: 1000, Count: 2}}
	fast := []insight.LatencyCount{{Bucket: 10, Count: 1}}
	a := answer(t, insight.Question{Kind: insight.Latency}, plans, costs.Book{},
		insight.Cell{Tenant: "acme", Day: "2026-04-04", Latency: fast},
		insight.Cell{Tenant: "acme", Day: "2026-04-05", Latency: fast},
		insight.Cell{Tenant: "acme", Day: "2026-04-06", Latency: fast},
		insight.Cell{Tenant: "acme", Day: "2026-04-07", Latency: slow},
		insight.Cell{Tenant: "beta", Day: "2026-04-07", Latency: slow[:0]})
	var labels []string
	for _, row := range a.Rows {
		labels = append(labels, fmt.Sprint(row.Labels[0], row.Events))
	}
	require.Equal(t, []string{"pro3", "1", "free1"}, labels)
	require.EqualValues(t, 5, a.Total.Latency.Count())
}

func TestDenials(t *testing.T) {
	cells := []insight.Cell{
		{Tenant: "acme", EventType: "a", Decisions: 10},
		{Tenant: "acme", EventType: "a", Decisions: 4, Reason: "plan_limit"},
		{Tenant: "acme", EventType: "a", Decisions: 2, Reason: "burst_limit"},
		{Tenant: "acme", EventType: "a", Decisions: 4, Limit: "daily", Reason: "plan_limit"},
		{Tenant: "acme", EventType: "a", Decisions: 3, Limit: "rate", Reason: "burst_limit"}, // one of them with daily
		{Tenant: "beta", EventType: "b", Decisions: 5},
		{Tenant: "beta", EventType: "b", Decisions: 4, Reason: "plan_limit"},
		{Tenant: "beta", EventType: "b", Decisions: 4, Limit: "daily", Reason: "plan_limit"},
		{Tenant: "cora", EventType: "b", Decisions: 7},
	}
	for groupBy, want := range map[string][]string{
		"tenant,limit":        {"[acme daily] 4/16", "[beta daily] 4/9", "[acme rate] 3/16"},
		"limit":               {"[daily] 8/32", "[rate] 3/32"},
		"tenant":              {"[acme] 6/16", "[beta] 4/9"},
		"reason":              {"[plan_limit] 8/32", "[burst_limit] 2/32"},
		"limit,reason,tenant": {"[daily plan_limit acme] 4/16", "[daily plan_limit beta] 4/9", "[rate burst_limit acme] 3/16"},
		"eventType":           {"[a] 6/16", "[b] 4/16"},
	} {
		q := insight.Question{Kind: insight.Denials}
		for _, d := range strings.Split(groupBy, ",") {
			q.GroupBy = append(q.GroupBy, insight.Dimension(d))
		}
		a := answer(t, q, nil, costs.Book{}, cells...)
		var got []string
		for _, row := range a.Rows {
			got = append(got, fmt.Sprintf("%v %d/%d", row.Labels, row.Denials, row.Decisions))
		}
		require.Equal(t, want, got, groupBy)
		require.EqualValues(t, 10, a.Total.Denials, "each denied check counts once")
		require.EqualValues(t, 32, a.Total.Decisions)
	}
}

func TestRetriesAndFailures(t *testing.T) {
	cells := []insight.Cell{
		{Provider: "openai", Feature: "chat", PromptVersion: "v7", Events: 10, Retries: 1, Failures: 3},
		{Provider: "openai", Feature: "chat", PromptVersion: "v8", Events: 10, Retries: 4, Failures: 2},
		{Provider: "mistral", Feature: "", PromptVersion: "v7", Events: 3, Retries: 0, Failures: 3},
		{PromptVersion: "v8", Events: 90, Failures: 80}, // whose failures these are nobody said
		{Provider: "gone", PromptVersion: "gone"},       // all of it was taken back
	}
	show := func(a insight.Answer) (got []string) {
		for _, row := range a.Rows {
			got = append(got, fmt.Sprintf("%q %d %d %d", row.Labels, row.Events, row.Retries, row.Failures))
		}
		return got
	}
	require.Equal(t, []string{`["v8"] 100 4 0`, `["v7"] 13 1 0`}, show(answer(t, insight.Question{Kind: insight.Retries}, nil, costs.Book{}, cells...)))
	require.Equal(t, []string{`["openai" "chat"] 20 0 5`, `["mistral" ""] 3 0 3`}, show(answer(t, insight.Question{Kind: insight.Providers}, nil, costs.Book{}, cells...)))
}

func TestShares(t *testing.T) {
	for name, c := range map[string]struct {
		part, whole int64
		want        string
	}{"a third": {1, 3, "0.333333"}, "two thirds": {2, 3, "0.666667"}, "all": {5, 5, "1"}, "none": {0, 9, "0"}, "half to even": {1, 2_000_000, "0"}} {
		share, ok := insight.Share(c.part, c.whole)
		require.True(t, ok, name)
		require.Equal(t, c.want, share.String(), name)
	}
	_, ok := insight.Share(0, 0)
	require.False(t, ok)
}

func TestTooManyGroups(t *testing.T) {
	q, err := insight.Question{Kind: insight.Retries, GroupBy: []insight.Dimension{insight.Model}}.Complete(noon)
	require.NoError(t, err)
	tally := insight.NewTally(q, nil, costs.Book{})
	for i := range insight.MaxGroups {
		require.NoError(t, tally.Add(insight.Cell{Model: fmt.Sprint(i), Events: 1}))
	}
	require.NoError(t, tally.Add(insight.Cell{Model: "7", Events: 1}))
	var bad *invalid.Error
	require.ErrorAs(t, tally.Add(insight.Cell{Model: "one more", Events: 1}), &bad)
	tally.Reset()
	require.Zero(t, tally.Answer().Groups)
}

// Whatever the cells and however they are grouped, groups add up to the total, and groups of cells that were added up before, as
// far as the question lets them, are the same.
func TestGroupsAddUp(t *testing.T) {
	book := bookOf(catalog.Cost{Provider: "p0", Model: "m0", From: "2026-04-04", Until: "2026-04-06", InputPerMillion: money.MustParse("0.15"), OutputPerMillion: money.Int(3)},
		catalog.Cost{Provider: "p0", Model: "m1", From: "2026-04-05", InputPerMillion: money.Int(2), OutputPerMillion: money.MustParse("0.000000001")})
	rapid.Check(t, func(t *rapid.T) {
		pick := func(name string, n int) string { return fmt.Sprint(name, rapid.IntRange(0, n-1).Draw(t, name)) }
		var cells []insight.Cell
		for range rapid.IntRange(0, 30).Draw(t, "cells") {
			n := rapid.Int64Range(0, 9).Draw(t, "events")
			cells = append(cells, insight.Cell{Tenant: event.TenantID(pick("t", 2)), Day: catalog.Date(pick("2026-04-0", 8)),
				EventType: event.Type(pick("e", 2)), Provider: pick("p", 2), Model: pick("m", 3), Feature: pick("f", 2), PromptVersion: pick("v", 2),
				Events: n, Counted: n, Tokens: tokens(n*rapid.Int64Range(0, 1e6).Draw(t, "input"), 0, n*3)})
		}
		known := []insight.Dimension{insight.Tenant, insight.Provider, insight.Model, insight.Feature, insight.PromptVersion, insight.EventType, insight.Day}
		groupBy := rapid.Permutation(known).Draw(t, "groupBy")[:rapid.IntRange(1, len(known)).Draw(t, "groups")]
		q := insight.Question{Kind: insight.Cost, GroupBy: groupBy, Limit: insight.MaxLimit}
		a := answer(t, q, nil, book, cells...)
		sum, events := new(big.Rat), int64(0)
		for _, row := range a.Rows {
			events += row.Events
			if row.Cost != nil {
				r, _ := new(big.Rat).SetString(row.Cost.String())
				sum.Add(sum, r)
			}
		}
		require.Equal(t, a.Total.Events, events)
		total := new(big.Rat)
		if a.Total.Cost != nil {
			total.SetString(a.Total.Cost.String())
		}
		require.Zero(t, total.Cmp(sum))

		keeps := a.Keeps()
		keep := func(d insight.Dimension, text string) string {
			for _, k := range keeps {
				if k == d {
					return text
				}
			}
			return ""
		}
		added := map[string]insight.Cell{}
		for _, c := range cells {
			merged := insight.Cell{Tenant: event.TenantID(keep(insight.Tenant, string(c.Tenant))), Day: catalog.Date(keep(insight.Day, string(c.Day))),
				EventType: event.Type(keep(insight.EventType, string(c.EventType))), Provider: keep(insight.Provider, c.Provider), Model: keep(insight.Model, c.Model),
				Feature: keep(insight.Feature, c.Feature), PromptVersion: keep(insight.PromptVersion, c.PromptVersion)}
			key := fmt.Sprintf("%q", []any{merged.Tenant, merged.Day, merged.EventType, merged.Provider, merged.Model, merged.Feature, merged.PromptVersion})
			before := added[key]
			merged.Events, merged.Counted = before.Events+c.Events, before.Counted+c.Counted
			merged.Input, merged.Output = before.Input.Add(c.Input), before.Output.Add(c.Output)
			added[key] = merged
		}
		var fewer []insight.Cell
		for _, c := range added {
			fewer = append(fewer, c)
		}
		require.Equal(t, texts(a), texts(answer(t, q, nil, book, fewer...)))
	})
}

// texts makes answers comparable: equal numbers may be held in different ways.
func texts(a insight.Answer) (all []string) {
	show := func(r insight.Row) {
		cost := "null"
		if r.Cost != nil {
			cost = r.Cost.String()
		}
		all = append(all, fmt.Sprintf("%q %d %s %s %s %d %s %s", r.Labels, r.Events, r.Input, r.Output, cost, r.Unpriced.Events, r.Unpriced.Input, r.Unpriced.Output))
	}
	for _, r := range a.Rows {
		show(r)
	}
	show(a.Total)
	for _, u := range a.Unpriced {
		all = append(all, fmt.Sprintf("%s %s %d %s %s", u.Provider, u.Model, u.Events, u.Input, u.Output))
	}
	return all
}
