#!/usr/bin/env bash
# Puts a runnable Orthanc into .cache/orthanc-<version>/ without root and without Docker. See --help.
set -euo pipefail

usage() {
  cat <<'HELP'
usage: orthanc/get-orthanc.sh [1.12|1.13]        (default: 1.12)

Puts Orthanc, its DICOMweb plugin, DCMTK's tools and gdcmconv into .cache/orthanc-<version>/ and prints that folder.
They come as Debian packages (1.12: trixie, 1.13: forky) from the mirror that this machine's apt already uses, resolved in a
private apt root and unpacked beside the system: nothing is installed, root is not needed, any Debian from bookworm on will do.
A second run fetches nothing.

  .cache/orthanc-1.12.7/bin/{Orthanc,dcmsend,storescu,storescp,echoscu,gdcmconv}

Environment:
  IMAGINGROUTER_CACHE   the folder to use instead of .cache in the repository
  DEBIAN_MIRROR         a Debian mirror (a URL that holds dists/trixie), where this machine's apt names none

What is fetched is checked twice: by apt against Debian's signed indexes, and, for the packages of the versions known here,
against SHA-256 sums in this script. When Debian has moved on to a newer version, apt's check alone decides and a line says so.
HELP
}

say() { printf 'get-orthanc: %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }

# Signed by Debian and then pinned: package, version, architecture, SHA-256 of the .deb.
pins() {
  cat <<'PINS'
orthanc 1.12.7+dfsg-4 amd64 bc848c335f619f497050f699056ef29584f034ae4bb6c46421098cd71d7c626d
orthanc-dicomweb 1.20+dfsg-1 amd64 38bc3fce522fa583fe29e20a5610f8f401a89b3968c78e9c63514d50cff07007
dcmtk 3.6.9-5+deb13u3 amd64 96e92addaf55099aa2b686da2b998ddc450408d0b0cd4a5d3e97a27b22aa8f29
libgdcm-tools 3.0.24-5+b3 amd64 eaa1975f16c61ad7494ccf12157a485b5e5b3c94f584a4155649429b8f44d474
orthanc 1.12.7+dfsg-4 arm64 99ede182b929d608b26f265c3bd56f1a6eb5ca71b207a0398003cf02eda99ceb
orthanc-dicomweb 1.20+dfsg-1 arm64 92db5659154626896110108adddd3c26e10594821feab5831fbfac3693498709
dcmtk 3.6.9-5+deb13u3 arm64 5220292914c21d2317e1a33e2e21ac26ef91db401fc6dc8498002e4fa9166c89
libgdcm-tools 3.0.24-5+b3 arm64 7ddb162343d9b74fe87a0aa5263bc3e867b6c3efde10c9a7fe87a04d6ea7626a
orthanc 1.13.0+dfsg-1+b1 amd64 9061963d6f85457b84242ba04098ee816a1e0ecffc9a2cc0338b6bc8fe35df09
orthanc-dicomweb 1.24+dfsg-1+b1 amd64 6bbc3b343cbbcc5711737d79977c3e0b9d9158b5de946e77fa68489708da4f1c
dcmtk 3.7.0+really3.7.0-7 amd64 a27987c67830ea2f5a9df2ad76d7b2b871665945442ee43115cdccd03e4eb475
libgdcm-tools 3.0.24-14 amd64 3ad1f45731c0f9b1ea66979aec52c2acc1df26d5998a176329617fe6d8ad6fbd
orthanc 1.13.0+dfsg-1+b1 arm64 5662985f076037ada1e8d9ef2b8bed676260c5c2419489445c2366a4e1bd51c9
orthanc-dicomweb 1.24+dfsg-1+b1 arm64 63329e6b8b524ec24a0c026a1e8dea9c961de772db6d276b216fd12c68cf4117
dcmtk 3.7.0+really3.7.0-7 arm64 0811fcf29624e84776d4ca3c20995f35ab9d6cb13eb876d7a3f28d52fc7b0af4
libgdcm-tools 3.0.24-14 arm64 7875a43c1acfc1d4c6f8d53de3f476e4d5d266674b919845a095583d262d32db
PINS
}

packages=(orthanc orthanc-dicomweb dcmtk libgdcm-tools)
wrappers=(sbin/Orthanc bin/dcmsend bin/storescu bin/storescp bin/echoscu bin/gdcmconv)

series=1.12
case "${1:-}" in
  -h | --help) usage; exit 0 ;;
  1.12 | 1.13) series=$1 ;;
  '') ;;
  *) usage >&2; die "unknown version '$1' (known: 1.12, 1.13)" ;;
esac
[ $# -le 1 ] || { usage >&2; die "one version at a time"; }
case $series in
  1.12) suite=trixie ;;
  1.13) suite=forky ;;
esac

repository=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)
mkdir -p "${IMAGINGROUTER_CACHE:-$repository/.cache}"
cache=$(cd -- "${IMAGINGROUTER_CACHE:-$repository/.cache}" && pwd)

# A folder is renamed into its place only when it is whole, so its presence is proof enough.
installed() {
  local folder
  for folder in "$cache/orthanc-$series".*; do
    if [ -x "$folder/bin/Orthanc" ]; then
      printf '%s\n' "$folder"
      return
    fi
  done
  return 1
}

if folder=$(installed); then
  say "already there, nothing fetched: $folder"
  printf '%s\n' "$folder"
  exit 0
fi

for tool in apt-get apt-cache dpkg flock sha256sum; do
  command -v "$tool" >/dev/null || die "this needs Debian's apt, and $tool is missing here.
  On another system run Orthanc in Docker (docker compose up), or install Orthanc $series yourself."
done

exec 9>"$cache/.orthanc-$series.lock"
if ! flock --nonblock 9; then
  say "another run is fetching Orthanc $series; waiting for it"
  flock 9
fi
if folder=$(installed); then # the other run has done it
  say "already there: $folder"
  printf '%s\n' "$folder"
  exit 0
fi

work=$(mktemp -d "$cache/.orthanc-$series.XXXXXX")
trap 'rm -rf -- "$work"' EXIT
architecture=$(dpkg --print-architecture)
case $architecture in
  amd64) triplet=x86_64-linux-gnu loader=ld-linux-x86-64.so.2 ;;
  arm64) triplet=aarch64-linux-gnu loader=ld-linux-aarch64.so.1 ;;
  *) die "no way known for the architecture $architecture (known: amd64, arm64)" ;;
esac

# The mirror that this machine already uses; its host belongs to the machine, never to this file.
mirror() {
  if [ -n "${DEBIAN_MIRROR:-}" ]; then
    printf '%s\n' "$DEBIAN_MIRROR"
    return
  fi
  local found
  # shellcheck disable=SC2016  # $(REPO_URI) is apt's own placeholder
  found=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' | grep -m 1 -E '/debian/?$' || true)
  if [ -z "$found" ]; then # a machine that has never updated its indexes, such as a fresh container
    found=$(apt-get update --print-uris 2>/dev/null | sed -n "s#^'\\([^']*/debian/\\)dists/.*#\\1#p" | head -n 1)
  fi
  [ -n "$found" ] && printf '%s\n' "$found"
}

keyring=
for candidate in /usr/share/keyrings/debian-archive-keyring.gpg /usr/share/keyrings/debian-archive-keyring.pgp; do
  if [ -r "$candidate" ]; then keyring=$candidate; fi
done

# Where this machine's own apt already offers the series, its own indexes serve; else Debian's suite through the mirror.
offered=$(apt-cache policy orthanc 2>/dev/null | sed -n 's/^ *Candidate: *//p')
own=no
case $offered in
  "$series".*) own=yes ;;
esac

mkdir -p "$work/apt/lists/partial" "$work/apt/archives/partial" "$work/apt/log" "$work/apt/none" "$work/root/bin"
: >"$work/apt/status" # nothing counts as installed, so that every library comes along
: >"$work/apt/sources.list"
cat >"$work/apt/apt.conf" <<CONF
// Read after the system's configuration (proxies and credentials stay), and before any option.
#clear APT::Architectures;
#clear APT::Update::Pre-Invoke;
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
#clear DPkg::Pre-Install-Pkgs;
#clear DPkg::Post-Invoke;
APT::Architecture "$architecture";
APT::Architectures { "$architecture"; };
APT::Install-Recommends "false";
APT::Get::AllowUnauthenticated "false";
APT::Sandbox::User "$(id -un)";
Acquire::AllowInsecureRepositories "false";
Acquire::AllowWeakRepositories "false";
Acquire::AllowDowngradeToInsecureRepositories "false";
Acquire::Languages "none";
Acquire::Retries "3";
Acquire::http::Timeout "30";
Acquire::https::Timeout "30";
Dir::State::status "$work/apt/status";
Dir::State::extended_states "$work/apt/extended_states";
Dir::Cache "$work/apt";
Dir::Cache::archives "$work/apt/archives";
Dir::Log "$work/apt/log";
Dir::Etc::preferences "/dev/null";
Dir::Etc::preferencesparts "$work/apt/none";
Debug::NoLocking "true";
CONF

if [ "$own" = yes ]; then
  say "this machine's own apt offers Orthanc $offered"
else
  uri=$(mirror) || die "this machine's apt names no Debian mirror (an address that ends in /debian/): set DEBIAN_MIRROR"
  [ -n "$keyring" ] || die "Debian's keys are missing, so nothing fetched could be verified: apt-get install debian-archive-keyring"
  printf 'deb [signed-by=%s target=Packages] %s %s main\n' "$keyring" "$uri" "$suite" >"$work/apt/sources.list"
  cat >>"$work/apt/apt.conf" <<CONF
Dir::Etc::sourcelist "$work/apt/sources.list";
Dir::Etc::sourceparts "$work/apt/none";
Dir::State::lists "$work/apt/lists";
CONF
  if [ "$suite" = forky ]; then
    # A testing suite's index expires within days, and mirrors lag; its signature is verified all the same.
    echo 'Acquire::Check-Valid-Until "false";' >>"$work/apt/apt.conf"
  fi
  say "reading the index of Debian $suite"
  apt-get -c "$work/apt/apt.conf" -q update -o APT::Update::Error-Mode=any >&2 ||
    die "Debian's index could not be read or its signature did not hold (apt's lines above say which); is the network there?"
fi

say "fetching Orthanc $series and all its libraries (about 130 packages, 75 MB)"
apt-get -c "$work/apt/apt.conf" -q --yes --download-only install "${packages[@]}" >&2 ||
  die "apt could not resolve or fetch ${packages[*]} (its lines above say why)"

# apt has compared every file with the signed index; the four that matter most are held against the pins too.
version_of() { dpkg-deb --field "$1" Version; }
for package in "${packages[@]}"; do
  set -- "$work/apt/archives/${package}"_*.deb
  [ -e "$1" ] || die "apt fetched no $package"
  version=$(version_of "$1")
  sum=$(sha256sum "$1" | cut -d ' ' -f 1)
  pinned=$(pins | awk -v p="$package" -v v="$version" -v a="$architecture" '$1 == p && $2 == v && $3 == a {print $4}')
  if [ -z "$pinned" ]; then
    say "note: $package $version ($architecture) is newer than this script: accepted on Debian's signature alone (SHA-256 $sum)"
  elif [ "$pinned" != "$sum" ]; then
    die "$package $version has SHA-256 $sum, expected $pinned: refused"
  fi
done
version=$(version_of "$(echo "$work"/apt/archives/orthanc_*.deb)")
upstream=$(printf '%s' "$version" | sed -e 's/^[0-9]*://' -e 's/[+~-].*$//')
case $upstream in
  "$series".*) ;;
  *) say "note: Debian $suite has moved on to Orthanc $upstream" ;;
esac

say "unpacking Orthanc $version"
for deb in "$work"/apt/archives/*.deb; do
  dpkg-deb --extract "$deb" "$work/root"
done
(cd "$work/apt/archives" && sha256sum -- *.deb) >"$work/root/PACKAGES.sha256"

# The programs are started by the loader and with the libraries that came with them: this system's may be older.
root=$work/root
dictionary=$(cd "$root" && find . -name dicom.dic -printf '%P\n' | head -n 1)
loader_path=$(cd "$root" && find . -name "$loader" -printf '%P\n' | head -n 1)
[ -n "$dictionary" ] || die "the packages hold no dicom.dic"
[ -n "$loader_path" ] || die "the packages hold no $loader"
for program in "${wrappers[@]}"; do
  [ -e "$root/usr/$program" ] || die "the packages hold no usr/$program"
  cat >"$root/bin/${program##*/}" <<WRAPPER
#!/bin/sh
here=\$(readlink -f -- "\$0") || exit 127
root=\${here%/bin/*}
DCMDICTPATH=\$root/$dictionary
GCONV_PATH=\$root/usr/lib/$triplet/gconv
LOCPATH=\$root/usr/lib/locale
export DCMDICTPATH GCONV_PATH LOCPATH
exec "\$root/$loader_path" --library-path "\$root/usr/lib/$triplet:\$root/usr/lib:\$root/usr/lib/orthanc" "\$root/usr/$program" "\$@"
WRAPPER
  chmod +x "$root/bin/${program##*/}"
done

"$root/bin/Orthanc" --version >"$work/version" 2>&1 || die "the Orthanc that was fetched does not start: $(head -n 3 "$work/version")"
"$root/bin/gdcmconv" --version >/dev/null 2>&1 || die "the gdcmconv that was fetched does not start"
"$root/bin/dcmsend" --version >/dev/null 2>&1 || die "the dcmsend that was fetched does not start"

destination=$cache/orthanc-$upstream
chmod 755 "$root"
rm -rf -- "$destination" # without bin/Orthanc, or this line would not be reached: the rest of something broken
mv -T -- "$root" "$destination"
say "ready: Orthanc $version in $destination"
printf '%s\n' "$destination"
