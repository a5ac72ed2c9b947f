package main

import (
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// A row that is not CSV is one rejected row, even when its first field is at fault; the rows around it are read.
func TestMalformedRows(t *testing.T) {
	rows, err := newRowReader(strings.NewReader("ID,TIMESTAMP,A\nx1,2024-02-01T00:00:00Z,1\nx\"2,2024-02-01T00:00:00Z,1\nx3,2024-02-01T00:00:00Z,-\nx4,2024-02-01T00:00:00Z,4\n"),
		importCommand{File: "t.csv", Tenant: "acme", EventType: "tokens_spent", SourceID: "{file}/{ID}/{line}", Map: []string{"occurredAt=TIMESTAMP"}, Quantity: "A", ZoneName: "UTC"})
	require.NoError(t, err)
	var accepted []string
	var rejected []int
	for {
		s, line, err := rows.next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			require.True(t, isRowError(err), err)
			rejected = append(rejected, line)
			continue
		}
		accepted = append(accepted, string(s.Source)+"="+s.Quantity.String())
	}
	require.Equal(t, []string{"t/x1/2=1", "t/x4/5=4"}, accepted)
	require.Equal(t, []int{3, 4}, rejected)
}

func TestTwoColumnsOfOneName(t *testing.T) {
	_, err := newRowReader(strings.NewReader("T,A,A\n"), importCommand{File: "t.csv", Map: []string{"occurredAt=T"}, Quantity: "A", SourceID: "{line}", ZoneName: "UTC"})
	require.ErrorContains(t, err, `two columns "A"`)
}
