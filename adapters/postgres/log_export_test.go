package postgres

// AppendEvents is the statement whose plan the tests look at, LogParameters the settings under which it is planned.
const AppendEvents = appendEvents

var LogParameters = logParameters
