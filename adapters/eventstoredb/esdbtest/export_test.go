package esdbtest

// What the checks of conformance and the tests of the server share.
var (
	Connect = connect
	Events  = events
	Code    = code
)
