#!/usr/bin/env bash
# Builds everything that a release consists of. See --help.
set -euo pipefail

usage() {
  cat <<'HELP'
usage: packaging/release.sh

Fills dist/ with what a release consists of, for each architecture:

  imaging-router_VERSION_linux_ARCH.tar.gz   program, ONNX Runtime, model, configuration, hook, documents
  imaging-router_VERSION_ARCH.deb            the Debian package
  imaging-router_VERSION_ARCH.cdx.json       what the program is made of (CycloneDX)

and, once, THIRD_PARTY_LICENCES.txt and SHA256SUMS. The same commit, Go and compiler give the same files, byte by byte. Another
architecture than this machine's needs its C compiler: apt install gcc-aarch64-linux-gnu (or gcc-x86-64-linux-gnu). `make release` calls it.

Environment:
  VERSION   by default what git describes
  ARCHES    by default "amd64 arm64"
HELP
}

die() { printf 'release: %s\n' "$*" >&2; exit 1; }
say() { printf 'release: %s\n' "$*" >&2; }

case "${1:-}" in
  -h | --help) usage; exit 0 ;;
  '') ;;
  *) usage >&2; die "unknown argument '$1'" ;;
esac
cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."
VERSION=${VERSION:-$(git describe --tags --always --dirty 2>/dev/null || echo development)}
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || echo 0)}
export VERSION SOURCE_DATE_EPOCH

compiler() { # architecture
  local cc
  case $1 in
    amd64) cc=x86_64-linux-gnu-gcc ;;
    arm64) cc=aarch64-linux-gnu-gcc ;;
    *) die "unknown architecture '$1' (known: amd64, arm64)" ;;
  esac
  if [ "$1" = "$(go env GOHOSTARCH)" ]; then cc=gcc; fi
  command -v "$cc" >/dev/null || die "$cc is missing for $1: apt install gcc-${cc%-gcc}"
  printf '%s\n' "$cc"
}

# The archive of one architecture: whole folders with fixed owners, times and order.
pack() { # architecture program library
  local name=imaging-router_${VERSION}_linux_$1 stage
  stage=$(mktemp -d)
  mkdir -p "$stage/$name/lua" "$stage/$name/models"
  cp -- "$2" "$stage/$name/imaging-router"
  cp -- "$3" "$stage/$name/libonnxruntime.so.1"
  cp -r -- models/mobilenet-v1-160 models/LICENSE.md "$stage/$name/models/"
  cp -- lua/*.lua "$stage/$name/lua/"
  cp -r -- docs README.md CHANGELOG.md LICENSE dist/THIRD_PARTY_LICENCES.txt packaging/imaging-router.service "$stage/$name/"
  cp -- sidecar/config.example.yaml "$stage/$name/"
  chmod -R u=rwX,go=rX "$stage/$name"
  tar --sort=name --owner=0 --group=0 --numeric-owner --mtime="@$SOURCE_DATE_EPOCH" -C "$stage" -cf - "$name" | gzip -n -9 >"dist/$name.tar.gz"
  rm -rf -- "$stage"
}

rm -rf dist
mkdir -p dist
work=$(mktemp -d)
trap 'rm -rf -- "$work"' EXIT
for arch in ${ARCHES:-amd64 arm64}; do
  cc=$(compiler "$arch")
  say "$arch: program"
  program=$work/$arch/imaging-router
  CGO_ENABLED=1 GOOS=linux GOARCH=$arch CC=$cc go build -trimpath -buildvcs=false -ldflags "-s -w -buildid= -X main.version=$VERSION" -o "$program" ./sidecar
  library=$(ONNXRUNTIME_LIB='' ONNXRUNTIME_ARCH=$arch sidecar/get-onnxruntime.sh)
  go run ./packaging/inventory -program "$program" -version "$VERSION" \
    -sbom "dist/imaging-router_${VERSION}_$arch.cdx.json" -licences dist/THIRD_PARTY_LICENCES.txt
  say "$arch: archive and package"
  pack "$arch" "$program" "$library"
  ARCH=$arch packaging/build-deb.sh "$program" "$library" dist >/dev/null
done
(cd dist && sha256sum -- * >"$work/SHA256SUMS" && mv -- "$work/SHA256SUMS" .)
ls -l dist >&2
