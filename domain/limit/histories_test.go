package limit_test

import (
	"encoding/json"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/tollgate-io/tollgate/domain/calendar"
	"github.com/tollgate-io/tollgate/domain/catalog"
	"github.com/tollgate-io/tollgate/domain/event"
	"github.com/tollgate-io/tollgate/domain/eventstore"
	"github.com/tollgate-io/tollgate/domain/limit"
	"github.com/tollgate-io/tollgate/domain/money"
	"github.com/tollgate-io/tollgate/domain/tenant"
)

// Zones whose clocks do odd things, and what is odd about them in the time of the histories.
var oddZones = []string{"UTC", "Europe/Berlin", "America/Santiago", "Australia/Lord_Howe", "Asia/Kathmandu"}

var allPeriods = []catalog.Period{catalog.Minute, catalog.Hour, catalog.Day, catalog.Week, catalog.Month, catalog.BillingCycle}

func drawPeriod(t *rapid.T) catalog.Window {
	return period(rapid.SampledFrom(allPeriods).Draw(t, "period"))
}

// drawWindow makes some limits rolling.
func drawWindow(t *rapid.T, l catalog.Limit) catalog.Limit {
	if l.Window = drawPeriod(t); rapid.IntRange(0, 4).Draw(t, "rolling") == 0 {
		l.Rolling, l.Window = true, sliding(rapid.SampledFrom([]string{"24h", "30d"}).Draw(t, "length"))
	}
	return l
}

// The small numbers bite. A sliding limit's window stays the same under its key, as its state is only of that one.
var limitsOf = map[catalog.LimitKey]func(t *rapid.T) catalog.Limit{
	"rate": func(t *rapid.T) catalog.Limit {
		l := catalog.Limit{Kind: catalog.Rate, On: on("call"), Max: money.Int(rapid.Int64Range(1, 6).Draw(t, "max")), Window: sliding("1m")}
		l.Burst = rapid.Int64Range(0, min(3, rat(l.Max).Num().Int64())).Draw(t, "burst")
		return l
	},
	"rate_of_all": func(t *rapid.T) catalog.Limit {
		return catalog.Limit{Kind: catalog.Rate, On: on("call", "job"), Max: money.Int(rapid.Int64Range(1, 9).Draw(t, "max")), Window: sliding("1h")}
	},
	"units": func(t *rapid.T) catalog.Limit {
		return drawWindow(t, catalog.Limit{Kind: catalog.Quota, Meter: "units", Max: drawMax(t), HoldTTL: drawTTL(t), Soft: rapid.Bool().Draw(t, "soft")})
	},
	"tokens": func(t *rapid.T) catalog.Limit {
		return drawWindow(t, catalog.Limit{Kind: catalog.Quota, Meter: "tokens", Max: drawMax(t), HoldTTL: drawTTL(t)})
	},
	"jobs": func(t *rapid.T) catalog.Limit {
		return drawWindow(t, catalog.Limit{Kind: catalog.Quota, Meter: "jobs", Max: drawMax(t), HoldTTL: drawTTL(t)})
	},
	"running": func(t *rapid.T) catalog.Limit {
		return catalog.Limit{Kind: catalog.Concurrency, On: on("call", "job"), Max: money.Int(rapid.Int64Range(1, 4).Draw(t, "max")), HoldTTL: length("2m")}
	},
	"most_tokens": func(*rapid.T) catalog.Limit {
		return catalog.Limit{Kind: catalog.Max, On: on("call"), Field: "tokens", Max: money.Int(4)}
	},
	"most_jobs": func(*rapid.T) catalog.Limit {
		return catalog.Limit{Kind: catalog.Max, On: on("job"), Max: money.Int(3)}
	},
	"tiers": func(*rapid.T) catalog.Limit {
		return catalog.Limit{Kind: catalog.Access, On: on("job"), Field: "model", Values: []string{"small", "large"}}
	},
	"retries": func(t *rapid.T) catalog.Limit {
		return catalog.Limit{Kind: catalog.RetryBudget, On: on("call"), Ratio: money.Scaled(rapid.Int64Range(1, 10).Draw(t, "ratio"), 1),
			Minimum: rapid.Int64Range(0, 1).Draw(t, "minimum"), Window: sliding("10m"), MaxAttempts: 2}
	},
	"spend": func(t *rapid.T) catalog.Limit {
		return drawWindow(t, catalog.Limit{Kind: catalog.Budget, Max: drawMax(t)})
	},
	"abuse": func(t *rapid.T) catalog.Limit {
		return catalog.Limit{Kind: catalog.AbuseGuard, Denials: rapid.Int64Range(2, 4).Draw(t, "denials"), Ratio: money.Scaled(rapid.Int64Range(1, 10).Draw(t, "ratio"), 1),
			Window: sliding("10m"), Cooldown: length("30s"), MaxCooldown: length("100s")}
	},
}

func drawMax(t *rapid.T) money.Decimal {
	return money.Scaled(rapid.Int64Range(1, 24).Draw(t, "max"), rapid.IntRange(0, 1).Draw(t, "scale")*rapid.IntRange(0, 1).Draw(t, "small"))
}

func drawTTL(t *rapid.T) catalog.Duration {
	return rapid.SampledFrom([]catalog.Duration{{}, length("5s"), length("10m"), length("2h")}).Draw(t, "holdTTL")
}

func drawPrices(t *rapid.T) (prices []catalog.Price) {
	for i := range rapid.IntRange(0, 3).Draw(t, "prices") {
		p := catalog.Price{
			Key:      catalog.PriceKey(fmt.Sprintf("p%d", i)),
			Model:    rapid.SampledFrom([]catalog.PriceModel{catalog.Flat, catalog.PerUnit, catalog.Package, catalog.Graduated, catalog.Volume, catalog.Percentage}).Draw(t, "model"),
			Meter:    rapid.SampledFrom([]catalog.MeterKey{"calls", "units", "jobs", "tokens"}).Draw(t, "meter"),
			Included: money.Int(rapid.Int64Range(0, 3).Draw(t, "included")),
			Unit:     money.Scaled(rapid.Int64Range(0, 30).Draw(t, "unit"), 1),
			Size:     money.Int(3),
			Percent:  money.MustParse("12.5"),
			Tiers: []catalog.Tier{{UpTo: money.Int(2), Unit: money.Int(2)}, {UpTo: money.Int(5), Unit: money.Scaled(rapid.Int64Range(0, 30).Draw(t, "tier"), 1)},
				{Unit: money.Scaled(5, 1)}},
		}
		if p.Model == catalog.Flat {
			p.Meter, p.Amount = "", money.Int(1000)
		}
		if p.Meter == "tokens" && rapid.Bool().Draw(t, "filtered") {
			p.Where = map[string]string{"model": "large"}
		}
		prices = append(prices, p)
	}
	return prices
}

// history is a world beside its model.
type history struct {
	*world
	rapid *rapid.T
	model model
}

func (h *history) redraw() {
	h.plan.Limits = nil
	quota := false
	keys := []catalog.LimitKey{"rate", "rate_of_all", "units", "tokens", "jobs", "running", "most_tokens", "most_jobs", "tiers", "retries", "spend", "abuse"}
	for _, key := range rapid.SliceOfNDistinct(rapid.SampledFrom(keys), 1, 5, rapid.ID).Draw(h.rapid, "limits") {
		l := limitsOf[key](h.rapid)
		l.Key = key
		if l.Kind == catalog.Quota && !quota { // a change of plan puts the name on another meter
			l.Key, quota = "quota", true
		}
		if rapid.IntRange(0, 3).Draw(h.rapid, "renamed") == 0 {
			l.Key += "_renamed"
		}
		if counts := l.Kind != catalog.Max && l.Kind != catalog.Access && l.Kind != catalog.AbuseGuard; counts && rapid.IntRange(0, 3).Draw(h.rapid, "per") == 0 {
			l.Per = []string{"user"}
		}
		if rapid.IntRange(0, 7).Draw(h.rapid, "observed") == 0 {
			l.Mode = catalog.Observe
		}
		h.plan.Limits = append(h.plan.Limits, l)
	}
	h.plan.Prices = drawPrices(h.rapid)
}

// terms are what the plan and the overrides say now, found by looking at every one of them.
func (h *history) terms() terms { return h.termsAt(h.clock()) }

func (h *history) termsAt(at time.Time) terms {
	t := terms{prices: h.plan.Prices, cal: calendar.Calendar{Zone: h.zone, Anchor: h.sub.Assignments[0].BillingAnchor}}
	for _, l := range h.plan.Limits {
		for _, o := range h.sub.Overrides {
			if o.Per == "" && o.Limit == l.Key && l.Max.Sign() > 0 && !at.Before(o.From) && (o.Until.IsZero() || at.Before(o.Until)) {
				l.Max = o.Max
				l.Burst = min(l.Burst, rat(o.Max).Num().Int64())
			}
		}
		t.limits = append(t.limits, l)
	}
	t.later = h.termsAt
	for _, o := range h.sub.Overrides {
		if i := slices.IndexFunc(h.plan.Limits, func(l catalog.Limit) bool { return l.Key == o.Limit && l.HasMax() }); i >= 0 && o.Per != "" && o.InForce(at) {
			t.own = append(t.own, o)
		}
		t.changes = append(t.changes, o.From.UnixMilli(), o.Until.UnixMilli())
	}
	return t
}

func (h *history) drawSource() limit.Source {
	return limit.Source{Type: rapid.SampledFrom([]event.Type{"call", "call", "job"}).Draw(h.rapid, "type"), Source: nth(rapid.IntRange(0, 9).Draw(h.rapid, "source"))}
}

func (h *history) drawData() event.Data {
	data := map[string]any{}
	if n := rapid.IntRange(-1, 5).Draw(h.rapid, "tokens"); n >= 0 {
		data["tokens"] = n
	}
	if m := rapid.SampledFrom([]string{"", "small", "large", "huge"}).Draw(h.rapid, "model"); m != "" {
		data["model"] = m
	}
	if u := rapid.IntRange(0, 2).Draw(h.rapid, "user"); u > 0 {
		data["user"] = u
	}
	if n := rapid.IntRange(1, 12).Draw(h.rapid, "attempt"); n > 9 {
		data["attempt"] = n - 8
		data["retryOf"] = "s0"
	}
	return event.NewData(data)
}

func (h *history) drawQuantity() money.Decimal {
	return money.Scaled(rapid.Int64Range(1, 6).Draw(h.rapid, "quantity"), rapid.IntRange(0, 1).Draw(h.rapid, "scale")*rapid.IntRange(0, 1).Draw(h.rapid, "small"))
}

func (h *history) drawAsk() limit.Ask {
	s := h.drawSource()
	ask := limit.Ask{Check: event.Check{Identity: identity(s.Type, s.Source), Quantity: h.drawQuantity(), Data: h.drawData()}}
	if n := len(h.model.checks); n > 0 && rapid.IntRange(0, 2).Draw(h.rapid, "again") == 0 {
		ask = h.model.checks[rapid.IntRange(max(0, n-5), n-1).Draw(h.rapid, "which")].asked
		if rapid.Bool().Draw(h.rapid, "other quantity") {
			ask.Quantity = h.drawQuantity()
		}
	}
	ask.NoHold = rapid.IntRange(0, 9).Draw(h.rapid, "no hold") == 0
	ask.TTL = rapid.SampledFrom([]time.Duration{0, 0, 0, time.Second, time.Minute, time.Hour}).Draw(h.rapid, "ttl")
	ask.UpTo = rapid.IntRange(0, 3).Draw(h.rapid, "up to") == 0
	return ask
}

func TestHistoriesAgreeWithTheModel(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		h := &history{world: newWorld(t), rapid: t, model: model{meters: meters}}
		h.zone = zone(t, rapid.SampledFrom(oddZones).Draw(t, "zone"))
		h.now = time.Date(2026, time.Month(rapid.IntRange(1, 12).Draw(t, "month")), rapid.IntRange(1, 31).Draw(t, "day"), rapid.IntRange(0, 23).Draw(t, "hour"), 59, 58, 0, time.UTC)
		h.sub.Assignments[0].BillingAnchor = time.Date(2025, 1, rapid.IntRange(1, 31).Draw(t, "anchor"), 12, 0, 0, 0, h.zone)
		h.sub.Assignments[0].EffectiveAt = time.Time{}
		h.redraw()
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			h.step()
			h.compare()
		}
		h.snapshot()
	})
}

func (h *history) step() {
	r := h.rapid
	switch rapid.IntRange(0, 19).Draw(r, "step") {
	default:
		h.checkBoth()
	case 0, 1:
		h.useBoth()
	case 2:
		h.correctBoth()
	case 3:
		s := h.drawSource()
		require.Equal(r, h.model.end(s, h.clock().UnixMilli()), h.release(s), "release of %s", s)
	case 4:
		if events := h.account.Expired(h.now, rapid.IntRange(1, 3).Draw(r, "most")); len(events) > 0 {
			for _, e := range events {
				ended := e.(event.HoldExpired)
				require.False(r, ended.ExpiredAt.After(h.clock()))
				require.Nil(r, h.model.own(limit.Source{Type: ended.Type, Source: ended.Source}, h.clock().UnixMilli()))
			}
			h.append(events...)
		}
	case 5:
		if rapid.IntRange(0, 3).Draw(r, "redraw") == 0 {
			h.redraw()
		}
	case 6:
		o := tenant.Override{Limit: rapid.SampledFrom(h.plan.Limits).Draw(r, "limit").Key, Max: money.Int(rapid.Int64Range(0, 9).Draw(r, "max"))}
		if rapid.Bool().Draw(r, "later") {
			o.From = h.now.Add(time.Minute)
			o.Until = h.now.Add(time.Hour)
		}
		if rapid.Bool().Draw(r, "of a user") {
			o.Per = tenant.ValuesOf(map[string]string{"user": fmt.Sprint(rapid.IntRange(1, 2).Draw(r, "user"))})
		}
		h.sub = h.sub.SetOverride(o)
		if rapid.Bool().Draw(r, "remove") {
			h.sub = h.sub.RemoveOverride(o.Limit, o.Per)
		}
	case 7, 8, 9:
		h.pass(rapid.SampledFrom([]time.Duration{time.Millisecond, time.Second, 2 * time.Second, 10 * time.Second, time.Minute, 10 * time.Minute, time.Hour,
			13 * time.Hour, 20 * 24 * time.Hour, -time.Second, -2 * time.Hour}).Draw(r, "passes"))
	case 11:
		h.undo()
	case 10:
		h.policy()
		folded := h.fold()
		require.Equal(r, h.textAt(h.account, h.clock()), h.textAt(folded, h.clock()))
		h.account = folded
	}
}

func (h *history) useBoth() {
	r := h.rapid
	ask := h.drawAsk()
	for _, f := range h.model.facts {
		if f.Identity == ask.Identity {
			return // recorded before: the ledger lets nothing of it through
		}
	}
	u := event.Usage{Identity: ask.Identity, Quantity: ask.Quantity, Data: ask.Data}
	u.OccurredAt = h.now.Add(rapid.SampledFrom([]time.Duration{0, 0, 0, 2 * time.Minute, -time.Minute, -time.Hour, -3 * 24 * time.Hour, -40 * 24 * time.Hour}).Draw(r, "occurred"))
	for _, p := range h.model.checks { // whether or not it has ended
		if p.ask.Identity == u.Identity {
			p.over = true
		}
	}
	h.model.facts = append(h.model.facts, &fact{Usage: u})
	h.use(u)
}

func (h *history) correctBoth() {
	if len(h.model.facts) == 0 {
		return
	}
	f := rapid.SampledFrom(h.model.facts).Draw(h.rapid, "fact")
	switch {
	case f.void:
	case rapid.Bool().Draw(h.rapid, "void"):
		h.tell(event.UsageVoided{Usage: f.Usage}, f.Type)
		f.void = true
	default:
		e := event.UsageAdjusted{Usage: f.Usage, Quantity: h.drawQuantity(), Data: h.drawData()}
		h.tell(e, f.Type)
		f.Usage = e.After()
	}
}

func (h *history) checkBoth() {
	r := h.rapid
	ask := h.drawAsk()
	for _, f := range h.model.facts {
		if f.Identity == ask.Identity {
			h.recorded(ask)
			return
		}
	}
	t := h.terms()
	if err := h.policy().Check(ask.Check); err != nil || h.model.missing(t, ask) {
		require.Error(r, err)
		require.True(r, h.model.missing(t, ask), "%v", err)
		return
	}
	before := h.stands()
	want, verdicts, renewed, written := h.model.decide(t, ask, h.clock().UnixMilli())
	got := h.check(ask)
	require.Equal(r, want.allowed, got.Allowed, "%s: %s", want, text(r, got))
	require.Equal(r, renewed, got.Replayed, "%s", want)
	require.Equal(r, written, got.Record, "%s", want)
	require.Equal(r, want.until > 0, got.Keeps)
	require.Equal(r, want.ask.Quantity.String(), got.Quantity.String(), "%s", want)
	if ends := got.HoldEnds(); ask.NoHold && got.Allowed && !renewed { // it keeps nothing new, and what is held goes on
		own, open := h.account.Hold(source(ask), h.now)
		require.Equal(r, open, !ends.IsZero())
		require.Equal(r, own.HoldEnds(), ends)
	}
	if got.Keeps {
		require.Equal(r, instant(want.until), got.KeepUntil)
	}
	if renewed {
		for _, p := range got.Parts {
			i := slices.IndexFunc(t.limits, func(l catalog.Limit) bool { return string(l.Key) == p.Limit })
			if holds(t.limits[i].Kind) {
				require.Equal(r, instant(want.endsFor(t.limits[i])), p.ExpiresAt, p.Limit)
			} else {
				require.Zero(r, p.ExpiresAt, p.Limit)
			}
		}
		return
	}
	require.Len(r, got.Parts, len(verdicts))
	for _, p := range got.Parts {
		v := verdicts[catalog.LimitKey(p.Limit)]
		require.Equal(r, v.denied, p.Denied, "%s: %s", want, p.Limit)
		require.Equal(r, v.soft, p.Soft, "%s: %s", want, p.Limit)
		require.Zero(r, v.used.Cmp(rat(p.Used)), "%s: used of %s: %s, not %s", want, p.Limit, p.Used, v.used)
		require.Zero(r, v.held.Cmp(rat(p.Held)), "%s: held of %s: %s, not %s", want, p.Limit, p.Held, v.held)
		require.Zero(r, v.requested.Cmp(rat(p.Requested)), "%s: requested of %s: %s, not %s", want, p.Limit, p.Requested, v.requested)
		if p.Denied {
			var resets int64
			if !p.ResetAt.IsZero() {
				resets = p.ResetAt.UnixMilli()
			}
			require.Equal(r, v.resets, resets, "%s: %s is reset at %s, not %s", want, p.Limit, p.ResetAt, instant(v.resets))
		}
		own := want.parts[catalog.LimitKey(p.Limit)]
		if own.ends > 0 {
			require.Equal(r, instant(own.ends), p.ExpiresAt, p.Limit)
		} else {
			require.Zero(r, p.ExpiresAt, p.Limit)
		}
		if own.cooldown > 0 {
			require.Equal(r, instant(own.cooldown), p.Until)
			require.EqualValues(r, own.strikes, p.Strikes)
		} else {
			require.Zero(r, p.Until)
		}
	}
	h.reasons(got)
	if !got.Allowed {
		require.Equal(r, before, h.stands(), "%s: a denied check takes nothing", want)
		if !ask.UpTo { // later, less of it may pass
			h.tight(ask, got)
		}
	}
}

// stands is what is used and held of every limit but the abuse guards, which count denials, and when that ends.
func (h *history) stands() string {
	var parts []event.LimitPart
	for _, s := range h.account.View(h.policy(), h.now, event.Data{}) {
		if s.Kind != event.AbuseGuardLimit {
			parts = append(parts, s.LimitPart)
		}
	}
	return text(h.rapid, parts) + text(h.rapid, h.account.Held(h.policy(), h.now))
}

// tight asks again at the instants that a denial gave: a limit lets the check pass at its own and not a millisecond earlier.
func (h *history) tight(ask limit.Ask, got limit.Answer) {
	denied := slices.DeleteFunc(slices.Clone(got.Parts), func(p event.LimitPart) bool {
		return !p.Denied || p.Observed && p.Kind == event.AbuseGuardLimit // such a guard denies only what others deny
	})
	slices.SortStableFunc(denied, func(a, b event.LimitPart) int { return a.ResetAt.Compare(b.ResetAt) })
	a, latest := h.fold(), h.clock() // it has all that was ever asked for
	for _, d := range denied {
		if d.ResetAt.IsZero() || !d.Until.IsZero() { // a cooldown that this denial starts is not there without it
			continue
		}
		require.True(h.rapid, d.ResetAt.After(h.clock()))
		if earlier := d.ResetAt.Add(-time.Millisecond); !earlier.Before(latest) {
			require.True(h.rapid, part(h.rapid, a.Decide(h.policyAt(earlier), ask, earlier).LimitDecided, d.Limit).Denied, "%s passes before %s", d.Limit, d.ResetAt)
		}
		require.False(h.rapid, part(h.rapid, a.Decide(h.policyAt(d.ResetAt), ask, d.ResetAt).LimitDecided, d.Limit).Denied, "%s is still denied at %s", d.Limit, d.ResetAt)
		latest = d.ResetAt
	}
	for _, later := range []time.Duration{0, time.Second, time.Minute, time.Hour, 24 * time.Hour, 32 * 24 * time.Hour, 400 * 24 * time.Hour} {
		again := a.Decide(h.policyAt(latest.Add(later)), ask, latest.Add(later))
		for _, d := range denied {
			require.False(h.rapid, d.ResetAt.IsZero() && !part(h.rapid, again.LimitDecided, d.Limit).Denied, "%s passes after %s", d.Limit, later)
		}
	}
}

// undo proposes decisions that cannot be appended.
func (h *history) undo() {
	p := h.policy()
	before := h.text(h.account)
	asks := make([]limit.Ask, rapid.IntRange(1, 8).Draw(h.rapid, "asks"))
	h.account.Begin()
	for i := range asks {
		switch rapid.IntRange(0, 5).Draw(h.rapid, "what") {
		case 0:
			if e := h.account.Release(h.drawSource(), h.now, "test"); e != nil {
				h.account.Propose(e)
			}
		case 1:
			for _, e := range h.account.Expired(h.now, 2) {
				h.account.Propose(e)
			}
		default:
			asks[i] = h.drawAsk()
			if p.Check(asks[i].Check) != nil {
				asks[i].Type = ""
				continue
			}
			if got := h.account.Decide(h.load(p, asks[i].Data), asks[i], h.now); got.Record {
				h.account.Propose(got.LimitDecided)
			}
		}
	}
	h.account.Undo()
	require.Equal(h.rapid, before, h.text(h.account))
	folded := h.fold()
	folded.View(p, h.clock(), event.Data{})
	require.Equal(h.rapid, before, h.text(folded))
	for _, ask := range asks {
		if ask.Type != "" {
			require.Equal(h.rapid, text(h.rapid, folded.Decide(p, ask, h.now)), text(h.rapid, h.account.Decide(p, ask, h.now)))
		}
	}
}

// snapshot makes the account from what a read model keeps of the first part of the log, and the rest.
func (h *history) snapshot() {
	r, p := h.rapid, h.policy()
	cut := rapid.IntRange(0, len(h.log)).Draw(r, "cut")
	s := limit.Snapshot{Revision: eventstore.NoStream, At: int64(cut)}
	holds := map[limit.Source]limit.Hold{}
	facts := map[event.Type][]limit.Fact{}
	add := func(u event.Usage, back bool) {
		facts[u.Type] = append(facts[u.Type], limit.Fact{Usage: u, Meters: metersOf(u.Type), Back: back})
	}
	for _, e := range h.log[:cut] {
		switch p := e.Payload.(type) {
		case event.LimitDecided:
			s.Revision = e.Revision
			s.State.Apply(&p)
			if p.Keeps {
				holds[limit.Source{Type: p.Type, Source: p.Source}] = limit.Hold{LimitDecided: p, Position: e.Position}
			}
		case event.HoldReleased:
			s.Revision = e.Revision
			delete(holds, limit.Source{Type: p.Type, Source: p.Source})
		case event.HoldExpired:
			s.Revision = e.Revision
			delete(holds, limit.Source{Type: p.Type, Source: p.Source})
		case event.UsageRecorded:
			delete(holds, limit.Source{Type: p.Type, Source: p.Source})
			add(p.Usage, false)
		case event.UsageVoided:
			add(p.Usage, true)
		case event.UsageAdjusted:
			add(p.Usage, true)
			add(p.After(), false)
		}
	}
	for _, hold := range holds {
		s.Holds = append(s.Holds, hold)
	}
	kept, err := json.Marshal(s.State)
	require.NoError(r, err)
	s.State = limit.State{}
	require.NoError(r, json.Unmarshal(kept, &s.State))

	a := limit.NewAccount(acme, s)
	for _, n := range h.needs {
		loaded := limit.Loaded{Need: n, At: int64(cut), MinutesAt: int64(cut)}
		for _, f := range slices.Concat(facts["call"], facts["job"]) {
			loaded.AddMinute(f)
		}
		for _, m := range loaded.Minutes { // a quarter is the sum of its minutes
			start := m.Start - m.Start%limit.QuarterSeconds
			if last := len(loaded.Quarters) - 1; last >= 0 && loaded.Quarters[last].Start == start {
				loaded.Quarters[last].Quantity = loaded.Quarters[last].Quantity.Add(m.Quantity)
			} else {
				loaded.Quarters = append(loaded.Quarters, limit.Bucket{Start: start, Quantity: m.Quantity})
			}
		}
		a.AddSeries(loaded)
	}
	for _, e := range h.log { // what the snapshot has is skipped
		require.NoError(r, a.Apply(e))
	}
	full := h.fold()
	require.Equal(r, h.textAt(full, h.clock()), h.textAt(a, h.clock()))
	for range 3 {
		ask := h.drawAsk()
		if p.Check(ask.Check) == nil && len(a.Missing(p.NeedsOf(ask.Type, ask.Data))) == 0 {
			require.Equal(r, text(r, full.Decide(p, ask, h.clock())), text(r, a.Decide(p, ask, h.clock())))
		}
	}
}

// reasons compares what is said on top with what the limits say.
func (h *history) reasons(got limit.Answer) {
	r := h.rapid
	var denied []event.LimitPart
	for _, p := range got.Parts {
		if p.Denied && !p.Observed {
			denied = append(denied, p)
		}
	}
	why := limit.Why(&got.LimitDecided)
	binding := limit.Binding(&got.LimitDecided)
	require.Equal(r, len(denied) == 0, got.Allowed)
	if len(denied) == 0 {
		require.Empty(r, why)
		return
	}
	has := func(reason limit.Reason) bool {
		return slices.ContainsFunc(denied, func(p event.LimitPart) bool { return limit.ReasonOf(p.Kind) == reason })
	}
	switch {
	case has(limit.AbuseGuard):
		require.Equal(r, limit.AbuseGuard, why)
	case has(limit.PlanLimit):
		require.Equal(r, limit.PlanLimit, why)
	default:
		require.Equal(r, limit.BurstLimit, why)
	}
	top := got.Parts[binding]
	require.True(r, top.Denied)
	for _, p := range denied {
		require.False(r, p.ResetAt.IsZero() && !top.ResetAt.IsZero() || !top.ResetAt.IsZero() && p.ResetAt.After(top.ResetAt), "%s passes later than %s", p.Limit, top.Limit)
	}
	require.NotEmpty(r, limit.Explain(h.policy(), &got.LimitDecided))
}

// recorded is a check of what is used already: it is allowed, and takes nothing.
func (h *history) recorded(ask limit.Ask) {
	if h.policy().Check(ask.Check) != nil {
		return
	}
	got := h.account.Recorded(h.load(h.policy(), ask.Data), ask, h.now)
	require.True(h.rapid, got.Allowed && got.Replayed && !got.Record && !got.Keeps)
	for _, p := range got.Parts {
		require.False(h.rapid, p.Denied || p.Soft || p.Taken, "%s", p.Limit)
		require.Zero(h.rapid, p.Requested.Sign())
	}
}

// compare compares how every limit stands, and what is held.
func (h *history) compare() {
	r, t, at := h.rapid, h.terms(), h.clock().UnixMilli()
	like := event.NewData(map[string]any{"user": 1})
	for _, s := range h.account.View(h.load(h.policy(), like), h.now, like) {
		i := slices.IndexFunc(t.limits, func(l catalog.Limit) bool { return string(l.Key) == s.LimitPart.Limit })
		v := h.model.judge(t, t.limits[i], limit.Ask{Check: event.Check{Data: like}}, at)
		require.Zero(r, v.used.Cmp(rat(s.Used)), "used of %s: %s, not %s", s.LimitPart.Limit, s.Used, v.used)
		require.Zero(r, v.held.Cmp(rat(s.Held)), "held of %s: %s, not %s", s.LimitPart.Limit, s.Held, v.held)
		if k := t.limits[i].Kind; k != catalog.RetryBudget && k != catalog.AbuseGuard && k != catalog.Access {
			require.Equal(r, t.of(t.limits[i], like).Max.String(), s.Max.String(), s.LimitPart.Limit)
		}
		if left, ok := limit.Remaining(&s.LimitPart); ok && t.limits[i].Kind != catalog.RetryBudget {
			want := rat(t.of(t.limits[i], like).Max)
			want.Sub(want, plus(v.used, v.held))
			if want.Sign() < 0 {
				want.SetInt64(0)
			}
			require.Zero(r, want.Cmp(rat(left)), "remaining of %s: %s, not %s", s.LimitPart.Limit, left, want)
		}
	}
	open := 0
	for _, p := range h.model.checks {
		if !p.over && p.until > at {
			open++
			_, ok := h.account.Hold(source(p.ask), h.now)
			require.True(r, ok, "%s has no hold", p)
		}
	}
	require.Len(r, h.account.Held(h.policy(), h.now), open)
}
