package postgres

// AppendEvents is the statement whose plan the tests look at.
const AppendEvents = appendEvents
