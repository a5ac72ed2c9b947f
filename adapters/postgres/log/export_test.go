package log

// AppendStatements are those whose plans the tests look at.
var AppendStatements = []string{appendEvents, appendSingles, appendGuarded}
