package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"
)

// latency in milliseconds: medians over the rounds.
type latency struct {
	P50 float64 `json:"p50"`
	P99 float64 `json:"p99"`
}

func (l *latency) String() string {
	if l == nil {
		return ""
	}
	return short(l.P50) + " / " + short(l.P99)
}

// row is one result. What does not apply is nil or "".
type row struct {
	Name            string   `json:"name"`
	Unit            string   `json:"unit"`
	Ours            spread   `json:"ours"`
	Baseline        *spread  `json:"baseline,omitempty"`
	Ratio           *spread  `json:"ratio,omitempty"`
	Target          string   `json:"target,omitempty"`
	OK              *bool    `json:"ok,omitempty"`
	OursLatency     *latency `json:"oursMilliseconds,omitempty"`
	BaselineLatency *latency `json:"baselineMilliseconds,omitempty"`
}

// atLeast sets a target for the ratio.
func (r row) atLeast(ratio float64) row {
	r.Target = fmt.Sprintf(">= %g", ratio)
	ok := r.Ratio.Median >= ratio
	r.OK = &ok
	return r
}

// compared is a row that sets a side against a baseline of the same rounds.
func compared(name, unit string, ours, baseline series) row {
	base := baseline.rates()
	return row{Name: name, Unit: unit, Ours: ours.rates(), Baseline: &base, Ratio: ours.ratio(baseline),
		OursLatency: ours.latency(), BaselineLatency: baseline.latency()}
}

// cost is what one thing costs in all tables.
type cost struct {
	Of     string          `json:"of"`
	Tables []amplification `json:"tables"`
}

// amplification is what one thing costs in one table.
type amplification struct {
	Table        string  `json:"table"`
	Inserts      float64 `json:"inserts"`
	Updates      float64 `json:"updates"`
	IndexEntries float64 `json:"indexEntries"`
	HeapBytes    float64 `json:"heapBytes"`
	IndexBytes   float64 `json:"indexBytes"`
}

type report struct {
	Machine string   `json:"machine"`
	Run     string   `json:"run"`
	Rows    []row    `json:"rows"`
	Costs   []cost   `json:"costs,omitempty"`
	Notes   []string `json:"notes,omitempty"`
}

func (r *report) add(rows ...row) { r.Rows = append(r.Rows, rows...) }

func (r *report) note(format string, args ...any) {
	r.Notes = append(r.Notes, fmt.Sprintf(format, args...))
}

// short writes a figure with about three digits.
func short(v float64) string {
	switch {
	case v >= 1e6:
		return fmt.Sprintf("%.2fM", v/1e6)
	case v >= 10_000:
		return fmt.Sprintf("%.1fk", v/1e3)
	case v >= 100:
		return fmt.Sprintf("%.0f", v)
	case v >= 10:
		return fmt.Sprintf("%.1f", v)
	default:
		return fmt.Sprintf("%.2f", v)
	}
}

// print writes the report as people read it.
func (r *report) print(w io.Writer) error {
	var table bytes.Buffer
	t := tabwriter.NewWriter(&table, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(t, "benchmark\tours\tbaseline\tratio (min-max)\ttarget\t\tp50 / p99 ms\tbaseline's")
	for _, row := range r.Rows {
		baseline, ratio, verdict := "", "", ""
		if row.Baseline != nil {
			baseline = short(row.Baseline.Median)
		}
		if row.Ratio != nil {
			ratio = fmt.Sprintf("%.2f (%.2f-%.2f)", row.Ratio.Median, row.Ratio.Min, row.Ratio.Max)
		}
		if row.OK != nil {
			verdict = map[bool]string{true: "ok", false: "short"}[*row.OK]
		}
		_, _ = fmt.Fprintln(t, strings.Join([]string{row.Name, short(row.Ours.Median) + " " + row.Unit, baseline, ratio, row.Target, verdict,
			row.OursLatency.String(), row.BaselineLatency.String()}, "\t"))
	}
	if err := t.Flush(); err != nil {
		return err
	}
	for _, c := range r.Costs {
		_, _ = fmt.Fprintf(&table, "\nwhat one %s costs\n", c.Of)
		_, _ = fmt.Fprintln(t, "table\trows inserted\trows updated\tindex entries\theap bytes\tindex bytes")
		total := amplification{Table: "total"}
		for _, a := range c.Tables {
			a.print(t)
			total.Inserts += a.Inserts
			total.Updates += a.Updates
			total.IndexEntries += a.IndexEntries
			total.HeapBytes += a.HeapBytes
			total.IndexBytes += a.IndexBytes
		}
		total.print(t)
		if err := t.Flush(); err != nil {
			return err
		}
	}
	for line := range strings.Lines(table.String()) {
		_, _ = fmt.Fprintln(w, strings.TrimRight(line, " \n"))
	}
	_, _ = fmt.Fprintln(w)
	for _, note := range r.Notes {
		_, _ = fmt.Fprintln(w, note)
	}
	_, err := fmt.Fprintf(w, "%s\n%s\n", r.Run, r.Machine)
	return err
}

func (a amplification) print(w io.Writer) {
	_, _ = fmt.Fprintf(w, "%s\t%.4f\t%.4f\t%.4f\t%.1f\t%.1f\n", a.Table, a.Inserts, a.Updates, a.IndexEntries, a.HeapBytes, a.IndexBytes)
}

func (r *report) writeJSON(file string) error {
	b, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(file, append(b, '\n'), 0o600)
}
