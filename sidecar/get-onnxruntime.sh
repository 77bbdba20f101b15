#!/usr/bin/env bash
# Puts ONNX Runtime's shared library into .cache/onnxruntime-<version>/libonnxruntime.so.1. See --help.
set -euo pipefail

usage() {
  cat <<'HELP'
usage: sidecar/get-onnxruntime.sh

Puts ONNX Runtime (Microsoft's own build for Linux, CPU) into .cache/onnxruntime-<version>/libonnxruntime.so.1 and prints the
path of the library. A second run fetches nothing. It tries, in this order:

  1. the file that ONNXRUNTIME_LIB names (used as it is: nothing is copied, nothing is fetched)
  2. what an earlier run has fetched
  3. the release archive of the ONNX Runtime project (needs curl or wget)
  4. the npm package onnxruntime-node, which carries the same library (needs npm)

Archives and libraries are held against SHA-256 sums in this script, the npm package against its integrity (SHA-512) as well.

Environment:
  ONNXRUNTIME_LIB       a libonnxruntime.so of version 1.24 or newer to use instead
  IMAGINGROUTER_CACHE   the folder to use instead of .cache in the repository
  ONNXRUNTIME_ARCH      amd64 or arm64: the library for another machine than this one, in a folder of that name in the cache
HELP
}

say() { printf 'get-onnxruntime: %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }

case "${1:-}" in
  -h | --help) usage; exit 0 ;;
  '') ;;
  *) usage >&2; die "unknown argument '$1'" ;;
esac

release=1.27.0 # of the archive; its sums are those that several independent projects pin
npm_version=1.30.0
npm_integrity=sha512-twhs1C2C/BFkz1yc5OY0KIU2GUq6DURO7hD4bx5Q2Qy3nAMJwRXW8xU3NVczE29VA9lolLOYepoD8fjTGOfIqw==
machine=$(uname -sm)
case "${ONNXRUNTIME_ARCH:-}" in
  '') ;;
  amd64) machine='Linux x86_64' ;;
  arm64) machine='Linux aarch64' ;;
  *) die "ONNXRUNTIME_ARCH is '$ONNXRUNTIME_ARCH' (known: amd64, arm64)" ;;
esac
case $machine in
  'Linux x86_64')
    release_architecture=x64 npm_architecture=x64
    release_sum=547e40a48f1fe73e3f812d7c88a948612c23f896b91e4e2ee1e232d7b468246f
    npm_sum=ffb75a925ba05e47b235bb66e3e3911714a80b328a9c9425539feb204aa32a23
    ;;
  'Linux aarch64')
    release_architecture=aarch64 npm_architecture=arm64
    release_sum=3e4d83ac06924a32a07b6d7f91ce6f852876153fc0bbdf931bf517a140bfbe48
    npm_sum=1f549d46250b005580b597f4164984aaf75b3bcb9f3aeb07c7f8a8fe60b23c76
    ;;
  *) die "no library known for $machine (known: Linux on x86_64 and aarch64): set ONNXRUNTIME_LIB" ;;
esac

if [ -n "${ONNXRUNTIME_LIB:-}" ]; then
  [ -r "$ONNXRUNTIME_LIB" ] || die "ONNXRUNTIME_LIB names $ONNXRUNTIME_LIB, which cannot be read"
  say "using the library that ONNXRUNTIME_LIB names"
  printf '%s\n' "$ONNXRUNTIME_LIB"
  exit 0
fi

repository=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)
cache=${IMAGINGROUTER_CACHE:-$repository/.cache}
if [ "$machine" != "$(uname -sm)" ]; then cache=$cache/$ONNXRUNTIME_ARCH; fi
mkdir -p "$cache"
cache=$(cd -- "$cache" && pwd)

# A folder is renamed into its place only when it is whole.
fetched() {
  local version
  for version in "$npm_version" "$release"; do
    if [ -r "$cache/onnxruntime-$version/libonnxruntime.so.1" ]; then
      printf '%s\n' "$cache/onnxruntime-$version/libonnxruntime.so.1"
      return
    fi
  done
  return 1
}
if library=$(fetched); then
  say "already there, nothing fetched"
  printf '%s\n' "$library"
  exit 0
fi

command -v flock >/dev/null || die "flock is missing: apt-get install util-linux"
exec 9>"$cache/.onnxruntime.lock"
flock --nonblock 9 || { say "another run is fetching it; waiting"; flock 9; }
if library=$(fetched); then
  printf '%s\n' "$library"
  exit 0
fi
work=$(mktemp -d "$cache/.onnxruntime.XXXXXX")
trap 'rm -rf -- "$work"' EXIT
chmod 755 "$work"

download() { # url file; gives up soon where the host cannot be reached
  if command -v curl >/dev/null; then
    curl --fail --silent --show-error --location --connect-timeout 5 --speed-limit 1000 --speed-time 15 --output "$2" "$1"
  elif command -v wget >/dev/null; then
    wget --quiet --tries=1 --dns-timeout=5 --connect-timeout=5 --read-timeout=15 --output-document="$2" "$1"
  else
    say "neither curl nor wget is here"
    return 1
  fi
}

sum_of() { sha256sum "$1" | cut -d ' ' -f 1; }

place() { # version: renames the folder that holds the library (and its licences) into its place
  chmod -R a+rX "$work/done"
  rm -rf -- "$cache/onnxruntime-$1"
  mv -T -- "$work/done" "$cache/onnxruntime-$1"
  say "ready: ONNX Runtime $1"
  printf '%s\n' "$cache/onnxruntime-$1/libonnxruntime.so.1"
}

from_release() {
  local name=onnxruntime-linux-$release_architecture-$release
  local url=https://github.com/microsoft/onnxruntime/releases/download/v$release/$name.tgz
  say "fetching ONNX Runtime $release from its project's releases"
  download "$url" "$work/release.tgz" 2>"$work/download.log" || {
    say "not reachable: $(tail -n 1 "$work/download.log")"
    return 1
  }
  # A wrong sum ends the run: to go on to the next source would hide that somebody serves another file.
  [ "$(sum_of "$work/release.tgz")" = "$release_sum" ] ||
    die "$name.tgz has SHA-256 $(sum_of "$work/release.tgz"), expected $release_sum: refused"
  mkdir "$work/done"
  tar -xzf "$work/release.tgz" -C "$work" --no-same-owner
  cp "$work/$name/lib/libonnxruntime.so.$release" "$work/done/libonnxruntime.so.1"
  cp "$work/$name/LICENSE" "$work/$name/ThirdPartyNotices.txt" "$work/done/" 2>/dev/null || true # nice to have
  place "$release"
}

from_npm() {
  command -v npm >/dev/null || return 1
  say "fetching the npm package onnxruntime-node $npm_version (70 MB)"
  (cd "$work" && npm pack --silent "onnxruntime-node@$npm_version") >"$work/npm.log" 2>&1 || {
    say "npm could not fetch it: $(tail -n 2 "$work/npm.log")"
    return 1
  }
  local archive=$work/onnxruntime-node-$npm_version.tgz
  local expected
  expected=$(printf '%s' "${npm_integrity#sha512-}" | base64 --decode | od -An -v -tx1 | tr -d ' \n')
  [ "$(sha512sum "$archive" | cut -d ' ' -f 1)" = "$expected" ] ||
    die "the npm package does not have the integrity $npm_integrity: refused"
  mkdir "$work/done"
  tar -xzf "$archive" -C "$work" --no-same-owner "package/bin/napi-v6/linux/$npm_architecture/libonnxruntime.so.1"
  cp "$work/package/bin/napi-v6/linux/$npm_architecture/libonnxruntime.so.1" "$work/done/"
  [ "$(sum_of "$work/done/libonnxruntime.so.1")" = "$npm_sum" ] ||
    die "the library has SHA-256 $(sum_of "$work/done/libonnxruntime.so.1"), expected $npm_sum: refused"
  place "$npm_version"
}

from_release || from_npm || {
  command -v npm >/dev/null || die "npm is missing, and the project's releases are out of reach: apt-get install curl npm, or set ONNXRUNTIME_LIB"
  die "ONNX Runtime could not be fetched: is the network there? Or name a library of your own with ONNXRUNTIME_LIB"
}
