#!/usr/bin/env bash
# Fuzzes every target of the repository, one after another, and says what was found and where the input lies. `make fuzz` calls it. See --help.
set -euo pipefail

usage() {
  cat <<'HELP'
usage: tests/fuzz.sh [TIME [PATTERN]]

  TIME      how long each target is fuzzed, as Go writes it (30s when left out)
  PATTERN   only targets whose name matches this extended regular expression

An input that breaks a target is written to testdata/fuzz/<target>/ beside the test, and is part of the tests from then on: look at it before
you keep it, since it may come from a real file (../shared/dicom, where it is at hand, gives inputs to begin with). It ends with status 1 when
there is one.
HELP
}

case "${1:-}" in
  -h | --help) usage; exit 0 ;;
esac
time=${1:-30s} pattern=${2:-.}
cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."

log=$(mktemp)
trap 'rm -f -- "$log"' EXIT
targets=0 found=0
while IFS=: read -r file line; do
  target=$(sed -E 's/^func (Fuzz[A-Za-z0-9_]*).*/\1/' <<<"$line")
  [[ $target =~ $pattern ]] || continue
  targets=$((targets + 1))
  # Minimising is bounded: by default Go spends a minute on each input that is new to it, and finds nothing meanwhile.
  if go test "./$(dirname -- "$file")" -run '^$' -fuzz "^$target\$" -fuzztime "$time" -fuzzminimizetime 50x >"$log" 2>&1; then
    printf 'ok      %-28s %s\n' "$(dirname -- "$file")" "$target, $(grep -oE 'execs: [0-9]+' "$log" | tail -n 1)"
  elif grep -q 'context deadline exceeded' "$log" && ! grep -qE 'Failing input|seed corpus|panic|DATA RACE' "$log"; then
    # Go's fuzzer takes the end of its time for a failure when that comes in the middle of an input; nothing was found.
    printf 'ok      %-28s %s\n' "$(dirname -- "$file")" "$target, ended in the middle of an input"
  else
    found=$((found + 1))
    printf 'FOUND   %-28s %s\n' "$(dirname -- "$file")" "$target"
    sed -nE '/^--- FAIL|^#|panic|\.go:[0-9]+:/,$p' "$log"
    printf 'the input lies in %s/testdata/fuzz/%s/\n' "$(dirname -- "$file")" "$target"
  fi
done < <(grep -rE --include='*_test.go' '^func Fuzz' sidecar tests packaging lua | LC_ALL=C sort)

if [ "$targets" = 0 ]; then
  echo "no target matches $pattern" >&2
  exit 2
fi
echo "$targets targets, $time each; $found of them found something"
[ "$found" = 0 ]
