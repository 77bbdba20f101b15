#!/usr/bin/env bash
# Prints BASE_IMAGE=… and GO_IMAGE=… (and DOCKER_CONFIG=…) for run.sh: the public images where a registry is reached, else images of the
# same content made from Debian's packages and this machine's Go.
set -euo pipefail

say() { printf 'compose-test: %s\n' "$*" >&2; }
suite=trixie
base=debian:trixie-slim go=golang:1.26-bookworm
own_base=imaging-router-test/debian:$suite own_go=imaging-router-test/golang:latest
cache=${IMAGINGROUTER_CACHE:?}
here=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)

have() { docker image inspect "$1" >/dev/null 2>&1; }

work=$(mktemp -d)
trap 'rm -rf -- "$work"' EXIT

make_base() {
  local archive
  archive=$cache/compose-$suite-$(dpkg --print-architecture).tar.gz
  if [ ! -e "$archive" ]; then
    [ "$(id -u)" -eq 0 ] || { say "no registry is reached, and only root can make a base image"; return 1; }
    if ! command -v debootstrap >/dev/null; then
      { apt-get -q update && DEBIAN_FRONTEND=noninteractive apt-get -q --yes --no-install-recommends install debootstrap; } >"$work/apt.log" 2>&1 || {
        tail -n 5 "$work/apt.log" >&2
        return 1
      }
    fi
    # The mirror that this machine already uses; its host belongs to the machine, never to this file.
    local mirror=${DEBIAN_MIRROR:-}
    if [ -z "$mirror" ]; then
      # shellcheck disable=SC2016  # $(REPO_URI) is apt's own placeholder
      mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' | grep -m 1 -E '/debian/?$') || {
        say "this machine's apt names no Debian mirror (an address that ends in /debian/): set DEBIAN_MIRROR"
        return 1
      }
    fi
    say "making Debian $suite with debootstrap"
    debootstrap --variant=minbase --include=ca-certificates "$suite" "$work/root" "$mirror" >"$work/debootstrap.log" 2>&1 || {
      tail -n 5 "$work/debootstrap.log" >&2
      return 1
    }
    # The authorities that this machine trusts, an own one of its network included, one a file.
    awk -v folder="$work/root/usr/local/share/ca-certificates" \
      '/BEGIN CERTIFICATE/ {file = sprintf("%s/machine-%03d.crt", folder, ++n)} file {print >file} /END CERTIFICATE/ {close(file); file = ""}' \
      /etc/ssl/certs/ca-certificates.crt
    chroot "$work/root" update-ca-certificates >/dev/null 2>&1
    rm -rf "$work/root"/var/lib/apt/lists/* "$work/root"/var/cache/apt/*.bin "$work/root"/var/cache/apt/archives/*.deb "$work/root"/usr/share/{doc,man,locale}/*
    tar --create --directory "$work/root" --numeric-owner --exclude=./dev/* . | gzip -1 >"$archive.new"
    mv -- "$archive.new" "$archive"
  fi
  docker import "$archive" "$own_base" >/dev/null
}

make_go() {
  local root
  root=$(cd -- "$here" && go env GOROOT)
  say "making an image with this machine's Go"
  mkdir "$work/go"
  tar --create --directory "$root" --exclude=./test --exclude=./doc --exclude=./api . | tar --extract --no-same-owner --directory "$work/go"
  cat >"$work/Dockerfile" <<DOCKERFILE
FROM $own_base
RUN apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends gcc libc6-dev && rm -rf /var/lib/apt/lists/*
COPY go /usr/local/go
ENV PATH=/usr/local/go/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin GOTOOLCHAIN=local
DOCKERFILE
  DOCKER_BUILDKIT=0 docker build --quiet --tag "$own_go" "$work" >"$work/go.log" 2>&1 || {
    tail -n 5 "$work/go.log" >&2
    return 1
  }
}

if have "$base" && have "$go"; then
  :
elif ! have "$own_base" && timeout 120 docker pull --quiet "$base" >/dev/null 2>"$work/pull.log" && timeout 300 docker pull --quiet "$go" >/dev/null 2>>"$work/pull.log"; then
  :
else
  [ ! -s "$work/pull.log" ] || say "no registry: $(tail -n 1 "$work/pull.log")"
  base=$own_base go=$own_go
  have "$base" || make_base
  have "$go" || make_go
fi
printf 'BASE_IMAGE=%q\nGO_IMAGE=%q\n' "$base" "$go"

# Compose comes with Docker's own packages; Debian 12 has none of version 2, so it is taken from the Debian of the base image.
if ! docker compose version >/dev/null 2>&1; then
  config=$cache/compose-plugin
  if [ ! -x "$config/cli-plugins/docker-compose" ]; then
    say "fetching Compose"
    docker run --rm --volume "$work:/out" "$base" sh -ec \
      'cd /tmp; apt-get -qq update; apt-get -qq download docker-compose >/dev/null; dpkg-deb --extract docker-compose_*.deb x
       find x -type f -name docker-compose -exec cp {} /out/ \;' >"$work/plugin.log" 2>&1 || {
      tail -n 5 "$work/plugin.log" >&2
      exit 1
    }
    mkdir -p "$config/cli-plugins"
    install -m 755 "$work/docker-compose" "$config/cli-plugins/docker-compose"
  fi
  printf 'DOCKER_CONFIG=%q\n' "$config"
fi
