#!/usr/bin/env bash
# Runs the tests and prints a summary: which step took how long, what was skipped and why. `make test` calls it. See --help.
set -euo pipefail

usage() {
  cat <<'HELP'
usage: tests/run.sh [unit|all]

  unit   go vet, and the Go tests that start no Orthanc
  all    these, the tests against every installed Orthanc and a real ONNX Runtime, and the tests of models/training

It ends with status 1 when a step failed. With CI=true a test that cannot run fails instead of being skipped.
HELP
}

level=all
case "${1:-}" in
  -h | --help) usage; exit 0 ;;
  unit | all) level=$1 ;;
  '') ;;
  *) usage >&2; exit 2 ;;
esac
cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."

summary=() failed=no
step() { # name command...
  local name=$1 began=$SECONDS verdict=ok
  shift
  printf '\n== %s\n' "$name"
  "$@" || { verdict=FAILED failed=yes; }
  summary+=("$(printf '%-7s %4d s  %s' "$verdict" $((SECONDS - began)) "$name")")
}

reporter=$(mktemp -d)
trap 'rm -rf -- "$reporter"' EXIT
go build -o "$reporter/report" ./tests/report

gotest() { # arguments of go test; what fails is shown whole, what passes in one line
  go test -json -timeout 60m "$@" | "$reporter/report"
}

# Debian's interpreter has the modules that prerequisites.sh asks apt for; another one in PATH may not.
python=/usr/bin/python3
[ -x "$python" ] || python=python3

training() {
  if ! "$python" -c 'import torch, onnx' 2>/dev/null; then
    if [ "${CI:-}" = true ]; then
      echo "the training code needs python3-torch and python3-onnx"
      return 1
    fi
    echo "skipped: no python3-torch and python3-onnx here (apt install python3-torch python3-onnx)"
    return 0
  fi
  "$python" -B -m unittest discover -b -s models/training/tests -t models/training
}

mapfile -t product < <(go list ./sidecar/... ./packaging/... ./lua/...)
mapfile -t whole < <(go list ./tests/...)
step "go vet" go vet ./...
if [ "$level" = unit ]; then
  step "Go tests of the product, with the race detector" gotest -race -short "${product[@]}"
else
  step "Go tests of the product, with the race detector" gotest -race "${product[@]}"
  # One package at a time: each of these starts Orthancs and measures times.
  step "Go tests end to end" gotest -p 1 "${whole[@]}"
  step "Python tests of the training code" training
fi

printf '\n== summary\n'
printf '%s\n' "${summary[@]}"
[ "$failed" = no ]
