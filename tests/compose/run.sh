#!/usr/bin/env bash
# Proves docker-compose.yml on a real Docker engine. `make compose-test` calls it. See --help.
set -euo pipefail

usage() {
  cat <<'HELP'
usage: tests/compose/run.sh [--working-tree]

Builds the images from the repository's own Dockerfiles out of a clean clone, starts the demo with them, and looks at it from outside:
labels, deliveries, restart, upgrade, rights, ports, secrets. Everything that it starts it ends again; images stay for the next run.

  --working-tree   a copy of the working tree instead of a clone of what is committed

It needs root, or a user who may use Docker. Where no image registry is reached, Debian's base image is made with debootstrap from the
mirror that this machine's apt uses (root), and kept in the folder IMAGINGROUTER_CACHE (default: .cache).
Where Docker cannot run at all it says so and ends with status 0, with CI=true with status 1.
HELP
}

say() { printf 'compose-test: %s\n' "$*" >&2; }
skip() {
  if [ "${CI:-}" = true ]; then
    say "FAILED: $*"
    exit 1
  fi
  say "skipped: $*"
  exit 0
}

source=clone
case "${1:-}" in
  -h | --help) usage; exit 0 ;;
  --working-tree) source=copy ;;
  '') ;;
  *) usage >&2; exit 2 ;;
esac

here=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
repository=$(cd -- "$here/../.." && pwd)
mkdir -p "${IMAGINGROUTER_CACHE:-$repository/.cache}"
IMAGINGROUTER_CACHE=$(cd -- "${IMAGINGROUTER_CACHE:-$repository/.cache}" && pwd)
export IMAGINGROUTER_CACHE
cd -- "$repository"

work=$(mktemp -d)
engine=
finish() {
  local status=$?
  if [ -n "$engine" ]; then
    kill "$engine" 2>/dev/null || true
    wait "$engine" 2>/dev/null || true
  fi
  rm -rf -- "$work"
  exit "$status"
}
trap finish EXIT

# The engine: the one that runs, else one of our own for as long as this takes.
install_packages() {
  [ "$(id -u)" -eq 0 ] && command -v apt-get >/dev/null || return 1
  say "installing $*"
  export DEBIAN_FRONTEND=noninteractive
  { apt-get -q update && apt-get -q --yes --no-install-recommends install "$@"; } >"$work/apt.log" 2>&1 || {
    tail -n 5 "$work/apt.log" >&2
    return 1
  }
}
if ! docker info >/dev/null 2>&1; then
  if ! command -v dockerd >/dev/null; then
    install_packages docker.io iptables cgroupfs-mount || skip "there is no Docker here, and it cannot be installed"
  fi
  command -v docker >/dev/null || install_packages docker-cli || skip "there is no docker command here"
  [ "$(id -u)" -eq 0 ] || skip "no Docker engine answers, and only root can start one"
  if ! mountpoint -q /sys/fs/cgroup && command -v cgroupfs-mount >/dev/null; then cgroupfs-mount || true; fi
  say "starting a Docker engine"
  dockerd >"$work/dockerd.log" 2>&1 &
  engine=$!
  for _ in $(seq 60); do
    docker info >/dev/null 2>&1 && break
    kill -0 "$engine" 2>/dev/null || break
    sleep 1
  done
  docker info >/dev/null 2>&1 || {
    tail -n 5 "$work/dockerd.log" >&2
    skip "a Docker engine cannot run here"
  }
fi
say "Docker $(docker version --format '{{.Server.Version}}')"

# Base images and, where it is missing, Compose.
images=$("$here/images.sh") || skip "the base images could not be made"
eval "$images" # BASE_IMAGE, GO_IMAGE, and DOCKER_CONFIG where Compose was fetched
export BASE_IMAGE GO_IMAGE
[ -z "${DOCKER_CONFIG:-}" ] || export DOCKER_CONFIG
say "$(docker compose version), $BASE_IMAGE, $GO_IMAGE"

# A clean clone. What `make onnxruntime` and `make orthanc` have fetched already is not fetched a second time.
clone=$work/imaging-router
if [ "$source" = clone ]; then
  git clone --quiet --no-hardlinks "file://$repository" "$clone"
else
  mkdir "$clone"
  git ls-files -z --cached --others --exclude-standard | tar --create --null --files-from=- --ignore-failed-read 2>/dev/null | tar --extract --directory "$clone"
fi
library=$(sidecar/get-onnxruntime.sh)
mkdir -p "$clone/.cache/onnxruntime-fetched"
cp "$library" "$clone/.cache/onnxruntime-fetched/libonnxruntime.so.1"
orthanc/get-orthanc.sh 1.12 >/dev/null # its dcmsend plays the modality

GOPROXY=$(go env GOPROXY)
export GOPROXY
COMPOSE_TEST_CLONE=$clone go test -tags docker -count=1 -timeout 20m -v -run '^TestOnDocker$' ./tests/compose
