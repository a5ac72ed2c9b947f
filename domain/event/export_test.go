package event

// WireNames is the dictionary of the log's format, for the test that wants each name recorded.
var WireNames = wireNames[:]
