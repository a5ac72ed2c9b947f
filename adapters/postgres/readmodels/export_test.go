package readmodels

// RebuildMemory makes a rebuild work with small bounds, as if the log were large.
func RebuildMemory(rows, page int) RebuildOption {
	return func(b *build) { b.rows, b.page = rows, page }
}

// SetScope is the statement by which a transaction says what it is about: tests replace it.
const SetScope = setScope

// TableNames lists the tables of a read model.
func TableNames(readModel string) (names []string) {
	for _, t := range models[numberOf(readModel)].tables() {
		names = append(names, t.name)
	}
	return names
}
