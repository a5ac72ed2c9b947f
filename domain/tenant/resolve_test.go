package tenant_test

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"pgregory.net/rapid"

	"github.com/tollgate-io/tollgate/domain/event"
	"github.com/tollgate-io/tollgate/domain/tenant"
)

func TestResolve(t *testing.T) {
	for name, c := range map[string]struct {
		signals tenant.Signals
		want    event.TenantID
		err     error
	}{
		"a tenant key implies its tenant":            {tenant.Signals{Credential: "a"}, "a", nil},
		"a tenant key may repeat it":                 {tenant.Signals{Credential: "a", Headers: []string{"a"}, Body: "a"}, "a", nil},
		"a tenant key names another in the header":   {tenant.Signals{Credential: "a", Headers: []string{"b"}}, "", tenant.ErrMismatch},
		"a tenant key names another in the body":     {tenant.Signals{Credential: "a", Headers: []string{"a"}, Body: "b"}, "", tenant.ErrMismatch},
		"a tenant key among conflicting headers":     {tenant.Signals{Credential: "a", Headers: []string{"a", "b"}}, "", tenant.ErrMismatch},
		"a header names it":                          {tenant.Signals{Headers: []string{"a"}}, "a", nil},
		"the same header twice":                      {tenant.Signals{Headers: []string{"a", "a"}}, "a", nil},
		"two headers that differ":                    {tenant.Signals{Headers: []string{"a", "b"}}, "", tenant.ErrConflict},
		"the body names it":                          {tenant.Signals{Body: "a"}, "a", nil},
		"header and body agree":                      {tenant.Signals{Headers: []string{"a"}, Body: "a"}, "a", nil},
		"header and body differ":                     {tenant.Signals{Headers: []string{"a"}, Body: "b"}, "", tenant.ErrConflict},
		"ids that differ in case are other tenants":  {tenant.Signals{Headers: []string{"a"}, Body: "A"}, "", tenant.ErrConflict},
		"an administrator switches":                  {tenant.Signals{Switch: "a"}, "a", nil},
		"a switch to another tenant than the body's": {tenant.Signals{Switch: "a", Body: "b"}, "", tenant.ErrConflict},
		"an empty header says nothing":               {tenant.Signals{Headers: []string{""}, Body: "a"}, "a", nil},
		"nothing names it":                           {tenant.Signals{}, "", tenant.ErrRequired},
		"an empty header alone names nothing":        {tenant.Signals{Headers: []string{"", ""}}, "", tenant.ErrRequired},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := tenant.Resolve(c.signals)
			assert.Equal(t, c.want, got)
			assert.ErrorIs(t, err, c.err)
		})
	}
}

// A resolved tenant is one that every present signal names.
func TestResolveAgreesWithEverySignal(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		id := rapid.SampledFrom([]string{"", "a", "b"})
		s := tenant.Signals{
			Credential: event.TenantID(id.Draw(t, "credential")),
			Headers:    rapid.SliceOfN(id, 0, 3).Draw(t, "headers"),
			Body:       event.TenantID(id.Draw(t, "body")),
			Switch:     event.TenantID(id.Draw(t, "switch")),
		}
		present := map[string]bool{}
		for _, v := range append([]string{string(s.Credential), string(s.Body), string(s.Switch)}, s.Headers...) {
			if v != "" {
				present[v] = true
			}
		}
		got, err := tenant.Resolve(s)
		assert.Equal(t, len(present) == 1, err == nil)
		if err == nil {
			assert.True(t, present[string(got)])
		}
	})
}
