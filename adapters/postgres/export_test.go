package postgres

// RebuildMemory makes a rebuild work with small bounds, as if the log were large.
func RebuildMemory(rows, page int) RebuildOption {
	return func(b *build) { b.rows, b.page = rows, page }
}
