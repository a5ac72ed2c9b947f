#!/bin/sh
# Runs every fuzz target of the project, each for the given time: scripts/fuzz.sh [60s]
set -eu
time="${1:-60s}"
grep -rlE '^func Fuzz' --include='*_test.go' . | while read -r file; do
    package="$(dirname "$file")"
    grep -oE '^func Fuzz[A-Za-z0-9_]*' "$file" | cut -c6- | while read -r target; do
        echo "== $package $target ($time)"
        go test "$package" -run '^$' -fuzz "^$target\$" -fuzztime "$time"
    done
done
