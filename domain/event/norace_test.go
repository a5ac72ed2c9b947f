//go:build !race

package event_test

const slowdown = 1
