package postgres

// AppendStatements are those whose plans the tests look at, LogParameters the settings under which they are planned.
var (
	AppendStatements = []string{appendEvents, appendSingles, appendGuarded}
	LogParameters    = logParameters
)
