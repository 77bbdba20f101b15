#!/usr/bin/env bash
# Builds the Debian package out of the program, ONNX Runtime and the model. See --help.
set -euo pipefail

usage() {
  cat <<'HELP'
usage: packaging/build-deb.sh PROGRAM ONNXRUNTIME [FOLDER]       (default: dist)

Packs PROGRAM (bin/imaging-router), ONNXRUNTIME (libonnxruntime.so.1, for the same architecture) and the model into
FOLDER/imaging-router_VERSION_ARCH.deb and prints its path. `make package` calls it.

Environment:
  VERSION   of the program; by default what git describes
  ARCH      Debian's name of the architecture: amd64 (default on such a machine) or arm64
  NFPM      the command that runs nfpm; by default "go run" of a pinned version
  SOURCE_DATE_EPOCH   the time that all files get; by default that of the last commit
HELP
}

die() { printf 'build-deb: %s\n' "$*" >&2; exit 1; }

case "${1:-}" in
  -h | --help) usage; exit 0 ;;
esac
[ $# -ge 2 ] || { usage >&2; exit 2; }
program=$(realpath -- "$1") library=$(realpath -- "$2") out=$(realpath -m -- "${3:-dist}")
cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."
model=models/mobilenet-v1-160
for file in "$program" "$library" "$model/model.onnx"; do
  [ -f "$file" ] || die "$file is not there"
done

VERSION=${VERSION:-$(git describe --tags --always --dirty 2>/dev/null || echo development)}
version=${VERSION#v}
case "$version" in
  [0-9]*.*) DEB_VERSION=$(printf %s "$version" | tr -- '-_' '+.') ;;
  *) DEB_VERSION=0~git.$(printf %s "$version" | tr -- '-_' '..') ;; # older than every release
esac
ARCH=${ARCH:-$(dpkg --print-architecture 2>/dev/null || go env GOARCH)}
# The newest symbol of the C library that one of the two asks for.
GLIBC=$(grep -aoh 'GLIBC_2\.[0-9]*' "$program" "$library" | sort -uV | tail -n 1)
GLIBC=${GLIBC#GLIBC_}
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || echo 0)}

STAGE=$(mktemp -d)
trap 'rm -rf -- "$STAGE"' EXIT
doc=$STAGE/usr/share/doc/imaging-router
put() { install -D -m "$1" -- "$2" "$STAGE/$3"; }
put 755 "$program" usr/bin/imaging-router
put 644 "$library" usr/lib/imaging-router/libonnxruntime.so.1
put 644 packaging/imaging-router.service usr/lib/systemd/system/imaging-router.service
for file in lua/*.lua; do
  put 644 "$file" "usr/share/imaging-router/lua/$(basename -- "$file")"
done
for file in "$model"/*; do
  put 644 "$file" "usr/share/imaging-router/$model/$(basename -- "$file")"
done
for file in docs/*.md README.md CHANGELOG.md; do
  put 644 "$file" "${doc#"$STAGE"/}/$(basename -- "$file")"
done
# The weights are under terms of their own.
if [ -f models/LICENSE.md ]; then put 644 models/LICENSE.md usr/share/imaging-router/models/LICENSE.md; fi
put 644 LICENSE "${doc#"$STAGE"/}/copyright"
# The example is written for containers; here the secrets lie beside the configuration, and Orthanc on the same machine.
mkdir -p "$STAGE/etc/imaging-router"
sed -e 's#/run/secrets/#/etc/imaging-router/#' -e 's#http://orthanc:8042#http://localhost:8042#' -e 's#listen: ":8081"#listen: "127.0.0.1:8081"#' \
  sidecar/config.example.yaml >"$STAGE/etc/imaging-router/config.yaml"
find "$STAGE" -exec touch --no-dereference --date="@$SOURCE_DATE_EPOCH" {} +

mkdir -p "$out"
deb=$out/imaging-router_${DEB_VERSION}_$ARCH.deb
export STAGE DEB_VERSION ARCH GLIBC SOURCE_DATE_EPOCH
# nfpm stands outside go.mod: its requirements would raise the versions of what the product itself is built from.
# The newest one whose modules can all be fetched from the module proxy.
${NFPM:-go run github.com/goreleaser/nfpm/v2/cmd/nfpm@v2.45.0} package --config packaging/nfpm.yaml --packager deb --target "$deb" >&2
printf '%s\n' "$deb"
