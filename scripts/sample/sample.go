// Package sample is the catalog that the ledger is tried out with.
package sample

import _ "embed"

// Catalog is the text of catalog.yaml.
//
//go:embed catalog.yaml
var Catalog []byte
