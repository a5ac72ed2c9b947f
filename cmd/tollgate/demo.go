package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	mathrand "math/rand/v2"
	"net/http"
	"os"
	"text/tabwriter"
	"time"

	"github.com/tollgate-io/tollgate/domain/app"
	"github.com/tollgate-io/tollgate/domain/catalog"
	"github.com/tollgate-io/tollgate/domain/tenant"
)

type demoCommand struct {
	settings
	Addr string `env:"TOLLGATE_ADDR" default:"127.0.0.1:8080" help:"Address of the running server."`
	Seed uint64 `default:"1" help:"Seed of the random day: another seed makes another day."`
}

// demoTenant is a company of the demo day, with how much it uses.
type demoTenant struct {
	tenant.Tenant
	plan       catalog.PlanKey // of the sample catalog
	anchor     int             // day of the month on which its billing cycles start
	interviews int
	models     []string
	retries    float64 // share of model calls that are retried
	failures   float64 // share of calls that fail at the provider
}

var demoTenants = []demoTenant{
	{Tenant: tenant.Tenant{ID: "acme", Name: "Acme Recruiting", TimeZone: "Europe/Berlin", Currency: "EUR"}, plan: "pro", anchor: 31,
		interviews: 120, models: []string{"gpt-4.1", "gpt-4.1", "gpt-4.1-mini"}, retries: 0.03, failures: 0.01},
	{Tenant: tenant.Tenant{ID: "globex", Name: "Globex Talent", TimeZone: "America/New_York", Currency: "USD"}, plan: "scale", anchor: 15,
		interviews: 60, models: []string{"claude-sonnet-4", "gpt-4.1"}, retries: 0.25, failures: 0.12},
	{Tenant: tenant.Tenant{ID: "initech", Name: "Initech", TimeZone: "Asia/Kathmandu", Currency: "USD"}, plan: "free", anchor: 1,
		interviews: 15, models: []string{"gpt-4.1-mini"}, retries: 0.01, failures: 0},
}

func (c demoCommand) Run(ctx context.Context, log *slog.Logger) error {
	base := "http://" + c.Addr
	if err := call(ctx, http.MethodGet, base+"/healthz", "", nil, nil); err != nil {
		return fmt.Errorf("no server answers at %s; start it in another terminal with `make run` (%w)", base, err)
	}
	key, err := c.prepare(ctx, log)
	if err != nil {
		return err
	}
	events := demoDay(time.Now().UTC(), c.Seed)
	last, err := c.feed(ctx, base, key, events)
	if err != nil {
		return err
	}
	if err := c.correct(ctx, base, key, events); err != nil {
		return err
	}
	return c.show(ctx, base, key, last)
}

// prepare creates the tenants with their plans, and a service key. It opens the database, so it needs no key.
func (c demoCommand) prepare(ctx context.Context, log *slog.Logger) (tenant.Secret, error) {
	s, err := c.open(ctx, log)
	if err != nil {
		return "", err
	}
	defer s.Close()
	for _, t := range demoTenants {
		if _, err := s.Ledger.DefineTenant(ctx, t.Tenant, "cli"); err != nil {
			return "", err
		}
		assignment := app.PlanAssignment{Plan: t.plan, EffectiveAt: time.Date(2025, 1, 1, 0, 0, 0, 0, time.UTC),
			BillingAnchor: time.Date(2025, 1, t.anchor, 12, 0, 0, 0, time.UTC)} // noon in UTC is that day in all three zones
		if _, err := s.Ledger.AssignPlan(ctx, t.ID, assignment, "cli"); err != nil {
			return "", fmt.Errorf("assign a plan of the sample catalog to %s: %w", t.ID, err)
		}
	}
	_, secret, err := s.Ledger.CreateKey(ctx, app.NewKey{Kind: tenant.Service, Name: "demo"}, rand.Reader, "cli")
	return secret, err
}

// demoEvent is a usage event as a product backend writes it.
type demoEvent struct {
	TenantID   string         `json:"tenantId"`
	EventType  string         `json:"eventType"`
	Quantity   int            `json:"quantity"`
	SourceID   string         `json:"sourceId"`
	OccurredAt time.Time      `json:"occurredAt"`
	Data       map[string]any `json:"data"`
}

// demoDay makes the 24 hours before now: most interviews in the tenant's office hours, each with a few model calls, some
// of which fail and are retried. The same hour and seed give the same events.
func demoDay(now time.Time, seed uint64) []demoEvent {
	end := now.Truncate(time.Hour)
	random := mathrand.New(mathrand.NewPCG(seed, uint64(end.Unix()))) //nolint:gosec // a demo, and after 1970
	var events []demoEvent
	for _, t := range demoTenants {
		zone, err := t.Location()
		if err != nil {
			panic(err) // the zones are constants, and part of the binary
		}
		for i := range t.interviews {
			start := officeHour(random, end, zone)
			interview := fmt.Sprintf("demo_%s_%s_interview_%d", end.Format("2006010215"), t.ID, i)
			user := fmt.Sprintf("user_%d", random.IntN(12))
			calls := 3 + random.IntN(8)
			at := start
			for n := range calls {
				e := modelCall(random, t, interview, user, n, at)
				events = append(events, e)
				if e.Data["status"] == "error" || random.Float64() < t.retries {
					events = append(events, retryOf(e, random))
				}
				at = at.Add(time.Duration(20+random.IntN(120)) * time.Second)
			}
			events = append(events, demoEvent{string(t.ID), "ai_interview_completed", 1, interview, at,
				map[string]any{"userId": user, "feature": "interview", "audioSeconds": int(at.Sub(start).Seconds()), "status": "ok"}})
		}
	}
	return events
}

// officeHour is an instant of the day before end: four times out of five between 9 and 18 local time.
func officeHour(random *mathrand.Rand, end time.Time, zone *time.Location) time.Time {
	for {
		at := end.Add(-time.Duration(random.Int64N(int64(24 * time.Hour)))).Truncate(time.Millisecond)
		if h := at.In(zone).Hour(); (h >= 9 && h < 18) || random.IntN(5) == 0 {
			return at.Add(-30 * time.Minute)
		}
	}
}

func modelCall(random *mathrand.Rand, t demoTenant, interview, user string, n int, at time.Time) demoEvent {
	model := t.models[random.IntN(len(t.models))]
	provider := "openai"
	if model == "claude-sonnet-4" {
		provider = "anthropic"
	}
	input, output := 200+int(random.ExpFloat64()*900), 20+int(random.ExpFloat64()*180)
	status := "ok"
	if random.Float64() < t.failures {
		status, output = "error", 0
	}
	return demoEvent{string(t.ID), "tokens_spent", input + output, fmt.Sprintf("%s_call_%d", interview, n), at, map[string]any{
		"userId": user, "feature": "interview", "provider": provider, "model": model, "promptVersion": fmt.Sprintf("v%d", 6+n%2),
		"inputTokens": input, "outputTokens": output, "cachedInputTokens": 0, "latencyMs": int(math.Round(300 + random.ExpFloat64()*700)),
		"cacheHit": false, "safety": "passed", "status": status, "attempt": 1, "retryOf": nil,
	}}
}

func retryOf(e demoEvent, random *mathrand.Rand) demoEvent {
	data := make(map[string]any, len(e.Data))
	for k, v := range e.Data {
		data[k] = v
	}
	data["attempt"], data["retryOf"], data["status"] = 2, e.SourceID, "ok"
	data["outputTokens"] = 20 + int(random.ExpFloat64()*180)
	return demoEvent{e.TenantID, e.EventType, data["inputTokens"].(int) + data["outputTokens"].(int), e.SourceID + "_retry",
		e.OccurredAt.Add(2 * time.Second), data}
}

// feed posts each tenant's day in batches, a part of it twice, as a product whose workers retry would. It returns the
// position of each tenant's last event.
func (c demoCommand) feed(ctx context.Context, base string, key tenant.Secret, events []demoEvent) (map[string]string, error) {
	const size = 100
	last := map[string]string{}
	bar := newBar(int64(len(events)), "a day of events")
	for n := 0; len(events) > 0; n++ {
		end := 1
		for end < min(size, len(events)) && events[end].TenantID == events[0].TenantID {
			end++
		}
		batch := events[:end]
		events = events[end:]
		for range 1 + n%4/3 { // every fourth batch is retried
			var answer struct {
				Position string `json:"position"`
				Rejected int    `json:"rejected"`
				Items    []any  `json:"items"`
			}
			if err := call(ctx, http.MethodPost, base+"/v1/events?items=rejected", key, batch, &answer); err != nil {
				return nil, err
			}
			if answer.Rejected > 0 {
				return nil, fmt.Errorf("the server rejected events of the demo: %v", answer.Items)
			}
			last[batch[0].TenantID] = answer.Position
		}
		_ = bar.Add(len(batch))
	}
	return last, bar.Finish()
}

// correct does what support and finance do on such a day: it corrects one event, voids another, and sends a changed payload, which
// is refused.
func (c demoCommand) correct(ctx context.Context, base string, key tenant.Secret, events []demoEvent) error {
	first := events[0]
	inTenant := func(path string, body any) error {
		return callAs(ctx, http.MethodPost, base+path, key, first.TenantID, body, nil)
	}
	if err := inTenant("/v1/events/tokens_spent/"+first.SourceID+"/adjust", map[string]any{"quantity": first.Quantity + 100, "reason": "the provider's bill says so"}); err != nil {
		return err
	}
	second := events[1]
	if err := inTenant("/v1/events/"+second.EventType+"/"+second.SourceID+"/void", map[string]any{"reason": "a test call, agreed with the customer"}); err != nil {
		return err
	}
	changed := events[2]
	changed.Quantity += 7
	if err := call(ctx, http.MethodPost, base+"/v1/events", key, changed, nil); err == nil {
		return errors.New("the server accepted a changed payload")
	}
	return nil
}

func (c demoCommand) show(ctx context.Context, base string, key tenant.Secret, positions map[string]string) error {
	fmt.Printf("\nThe last 24 hours:\n\n")
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', tabwriter.AlignRight)
	_, _ = fmt.Fprintln(w, "tenant\tplan\tinterviews\ttokens\toutput tokens\t")
	from, to := time.Now().Add(-26*time.Hour).UTC(), time.Now().UTC()
	for _, t := range demoTenants {
		_, _ = fmt.Fprintf(w, "%s\t%s\t", t.ID, t.plan)
		for _, meter := range []string{"ai_interviews", "tokens", "output_tokens"} {
			var usage struct {
				Total json.Number `json:"total"`
			}
			url := fmt.Sprintf("%s/v1/usage?meter=%s&from=%s&to=%s&granularity=hour&minPosition=%s", base, meter,
				from.Format(time.RFC3339), to.Format(time.RFC3339), positions[string(t.ID)])
			if err := callAs(ctx, http.MethodGet, url, key, string(t.ID), nil, &usage); err != nil {
				return err
			}
			_, _ = fmt.Fprintf(w, "%s\t", usage.Total)
		}
		_, _ = fmt.Fprintln(w)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	fmt.Printf(`
What to try (the key is a service key, made for this demo):

  export KEY=%s

  # tokens of acme by model, per day in its own time zone
  curl -s '%[2]s/v1/usage?meter=tokens&groupBy=model&granularity=day' -H "Authorization: Bearer $KEY" -H 'X-Tenant-Id: acme'

  # what happened at globex, newest first
  curl -s '%[2]s/v1/timeline?limit=10' -H "Authorization: Bearer $KEY" -H 'X-Tenant-Id: globex'

  # corrections and the refused payload
  curl -s '%[2]s/v1/timeline?type=correction' -H "Authorization: Bearer $KEY" -H 'X-Tenant-Id: acme'
  curl -s '%[2]s/v1/timeline?type=conflict' -H "Authorization: Bearer $KEY" -H 'X-Tenant-Id: acme'

  # what the providers charge for acme's calls, by model
  curl -s '%[2]s/v1/insights/cost?groupBy=model' -H "Authorization: Bearer $KEY" -H 'X-Tenant-Id: acme'

  # lag of the projections
  curl -s '%[2]s/metrics' | grep tollgate_projection
`, key, base)
	return nil
}

func call(ctx context.Context, method, url string, key tenant.Secret, body, answer any) error {
	return callAs(ctx, method, url, key, "", body, answer)
}

// callAs calls the API as a tenant and reads the answer.
func callAs(ctx context.Context, method, url string, key tenant.Secret, as string, body, answer any) error {
	var payload io.Reader
	if body != nil {
		b, err := json.Marshal(body)
		if err != nil {
			return err
		}
		payload = bytes.NewReader(b)
	}
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, method, url, payload)
	if err != nil {
		return err
	}
	request.Header.Set("Content-Type", "application/json")
	if key != "" {
		request.Header.Set("Authorization", "Bearer "+string(key))
	}
	if as != "" {
		request.Header.Set("X-Tenant-Id", as)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	defer func() { _ = response.Body.Close() }()
	text, err := io.ReadAll(io.LimitReader(response.Body, 16<<20))
	if err != nil {
		return err
	}
	if response.StatusCode >= 300 {
		return fmt.Errorf("%s %s: %s: %s", method, url, response.Status, text)
	}
	if answer == nil {
		return nil
	}
	return json.Unmarshal(text, answer)
}
