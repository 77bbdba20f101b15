#!/usr/bin/env bash
# Checks that this machine has what a build, the demo or the tests need. See --help.
set -euo pipefail

usage() {
  cat <<'HELP'
usage: tests/prerequisites.sh [demo|test|lint|all]        (default: demo)

Checks for Go 1.26, gcc, make, git and curl or wget (demo), and for what the tests and the linters need on top of them. For root
on Debian it installs what is missing; for others it names all of it in one line to be run with sudo, and ends with status 1.
HELP
}

say() { printf 'prerequisites: %s\n' "$*" >&2; }

level=demo
case "${1:-}" in
  -h | --help) usage; exit 0 ;;
  demo | test | lint | all) level=$1 ;;
  '') ;;
  *) usage >&2; exit 2 ;;
esac
wanted() { [ "$level" = "$1" ] || [ "$level" = all ]; }

packages=()
need() { # program package
  command -v "$1" >/dev/null || packages+=("$2")
}

# Go's own answer to "is this at least 1.26?": since 1.21 it fetches the toolchain that go.mod asks for, where it is allowed to.
go_fits() {
  local version
  command -v go >/dev/null || return 1
  version=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && go env GOVERSION 2>/dev/null) || return 1
  [[ $version =~ ^go1\.([0-9]+) ]] && [ "${BASH_REMATCH[1]}" -ge 26 ]
}

need gcc gcc
[ -e /usr/include/stdlib.h ] || packages+=(libc6-dev)
need make make
need git git
need flock util-linux
if ! command -v curl >/dev/null && ! command -v wget >/dev/null; then packages+=(curl ca-certificates); fi
for keyring in /usr/share/keyrings/debian-archive-keyring.{gpg,pgp}; do [ -r "$keyring" ] && break; done
[ -r "$keyring" ] || packages+=(debian-archive-keyring)

if wanted test; then
  need gdcmconv libgdcm-tools
  need dcmdjpeg dcmtk
  need opj_decompress libopenjp2-tools
  # The picture steps in Go are held against those in Python; Debian's own interpreter has these modules.
  module() { # module package
    /usr/bin/python3 -c "import importlib.util, sys; sys.exit(importlib.util.find_spec('$1') is None)" 2>/dev/null || packages+=("$2")
  }
  need python3 python3
  module numpy python3-numpy
  module pydicom python3-pydicom
  module PIL python3-pil
  module yaml python3-yaml
  need openssl openssl
  need curl curl
  if [ "${CI:-}" = true ]; then # these tests are skipped elsewhere, where the programs are absent
    need dciodvfy dicom3tools
    need systemd-analyze systemd
    module torch python3-torch
    module onnx python3-onnx
    module gdcm python3-gdcm
    need ojph_expand openjph-tools
  fi
fi
if wanted lint; then
  need shellcheck shellcheck
  need luac lua5.1
  need python3 python3
fi

install_go=
if ! go_fits; then
  # Any Go from 1.21 on fetches the one that go.mod names; Debian has such a Go from trixie on.
  candidate=$(apt-cache policy golang-go 2>/dev/null | sed -n 's/^ *Candidate: *\([0-9]*:\)\?1\.\([0-9]*\).*/\2/p')
  if [ -n "$candidate" ] && [ "$candidate" -ge 21 ]; then packages+=(golang-go); else install_go=yes; fi
fi
no_go() {
  say "Go 1.26 or newer is needed, and $(go env GOVERSION 2>/dev/null || echo none) is here; this machine's apt has none that would do."
  say "Get it from https://go.dev/dl/ and put its bin folder into PATH."
}

if [ ${#packages[@]} -gt 0 ]; then
  mapfile -t packages < <(printf '%s\n' "${packages[@]}" | sort -u)
  if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null; then
    say "missing here. Install it, then run this again:"
    echo "  sudo apt install ${packages[*]}" >&2
    [ -z "$install_go" ] || no_go
    exit 1
  fi
  say "installing ${packages[*]}"
  export DEBIAN_FRONTEND=noninteractive
  apt-get -q update >&2
  apt-get -q --yes --no-install-recommends install "${packages[@]}" >&2
fi
if [ -n "$install_go" ] || ! go_fits; then
  no_go
  exit 1
fi
