package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// A price list of thousands of models is imported on the command line, reaches every server, and is not recorded twice.
func TestCostsOfThousandsOfModels(t *testing.T) { onEveryStore(t, testCostsOfThousandsOfModels) }

func testCostsOfThousandsOfModels(t *testing.T, dir string) {
	const models = 3000
	file := filepath.Join(t.TempDir(), "prices.json")
	write := func(price func(i int) string) {
		entries := map[string]any{"sample_spec": map[string]any{"input_cost_per_token": 0}, "dall-e-3": map[string]any{"output_cost_per_image": 0.04}}
		for i := range models {
			entries[fmt.Sprintf("provider_%d/model %04d", i%7, i)] = map[string]any{"input_cost_per_token": json.RawMessage(price(i)), "output_cost_per_token": json.RawMessage("4e-06"),
				"litellm_provider": fmt.Sprintf("provider_%d", i%7), "mode": "chat"}
		}
		text, err := json.Marshal(entries)
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(file, text, 0o600))
	}
	write(func(i int) string { return fmt.Sprintf("%d.0000000000000003e-08", i%9+1) })

	out, err := run(t, dir, "costs", "import", file, "--from", "2026-01-01", "--dry-run")
	require.NoError(t, err, out)
	require.Contains(t, out, "3000 added, 0 changed, 0 removed, 0 unchanged, 0 refused\n2 skipped, no token prices: dall-e-3, sample_spec\nNothing was imported.\n")
	out, err = run(t, dir, "costs", "list")
	require.NoError(t, err, out)
	require.Equal(t, "No cost is known for that.\n", out)

	p := serve(t, dir) // commands work beside a server, which sees what they record
	out, err = run(t, dir, "costs", "import", file, "--from", "2026-01-01", "--source", "shared list")
	require.NoError(t, err, out)
	require.Contains(t, out, "3000 added")
	out, err = run(t, dir, "costs", "import", file, "--from", "2026-01-01")
	require.NoError(t, err, out)
	require.Equal(t, "This list was imported from 2026-01-01 on before; nothing to change.\n", out)

	write(func(i int) string {
		switch i {
		case 1:
			return "5e-08" // was 2.0000000000000003e-08
		case 2:
			return "1e-06" // was 3.0000000000000003e-08
		}
		return fmt.Sprintf("%d.0000000000000003e-08", i%9+1)
	})
	out, err = run(t, dir, "costs", "import", file, "--from", "2026-02-01")
	require.Error(t, err)
	require.Regexp(t, `(?m)^~ provider_1/model 0001  in 0\.020000000000000003 -> 0\.05  cached 0\.020000000000000003 -> 0\.05  out 4\.00$`, out)
	require.Regexp(t, `(?m)^! provider_2/model 0002  in 0\.030000000000000003 -> 1\.00 .* is more than a factor of 3$`, out)
	require.NotContains(t, out, "Imported")
	out, err = run(t, dir, "costs", "import", file, "--from", "2026-02-01", "--allow-jumps")
	require.NoError(t, err, out)
	require.Contains(t, out, "0 added, 2 changed, 0 removed, 2998 unchanged, 0 refused\n")
	require.Contains(t, out, "Imported from 2026-02-01 on, sha256 ")
	write(func(i int) string { return "1e-08" })
	out, err = run(t, dir, "costs", "import", file, "--from", "2026-01-31", "--max-jump", "1000")
	require.Error(t, err, "two models are refused")
	require.Contains(t, out, "2 refused")

	out, err = run(t, dir, "costs", "list", "--provider", "provider_1", "--model", "model 0001")
	require.NoError(t, err, out)
	require.Regexp(t, `^provider_1/model 0001  2026-01-01 \.\. 2026-02-01  in 0\.020000000000000003  cached 0\.020000000000000003  out 4\.00  shared list [0-9a-f]{12}
provider_1/model 0001  2026-02-01 \.\. open        in 0\.05                  cached 0\.05                  out 4\.00  prices\.json [0-9a-f]{12}
$`, out)
	out, err = run(t, dir, "costs", "list", "--on", "2026-01-31")
	require.NoError(t, err, out)
	require.Equal(t, models, strings.Count(out, "prices.json")+strings.Count(out, "shared list"))
	require.Contains(t, out, "  catalog\n", "what the catalog says is in the book")
	out, err = run(t, dir, "costs", "list", "--on", "2025-12-31", "--provider", "provider_0")
	require.NoError(t, err, out)
	require.Equal(t, "No cost is known for that.\n", out)

	var page struct {
		Items []struct{ Provider, Model, From, InputPerMillion, Source string }
	}
	require.NoError(t, call(t.Context(), http.MethodGet, p.url+"/v1/admin/costs?provider=provider_2&model=model%200002&on=2026-02-01", adminKey, nil, &page))
	require.Len(t, page.Items, 1)
	require.Equal(t, "1.00", page.Items[0].InputPerMillion)
	out, err = run(t, dir, "verify")
	require.NoError(t, err, out)
	require.Contains(t, out, "equal to the log")
}
