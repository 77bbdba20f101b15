#!/usr/bin/env bash
# Makes the secrets that docker-compose.yml mounts. See --help.
set -euo pipefail

usage() {
  cat <<'HELP'
usage: orthanc/make-secrets.sh [--demo] [--tls NAME[,NAME...]] [FOLDER]          (default: secrets, in the repository)

Makes what docker-compose.yml mounts as secrets, each a file with random content:

  admin_password          the password of the account "admin" in Orthanc, for people
  orthanc_password        the password of the account "imaging-router" in Orthanc, for the router
  hook_token              what Orthanc's Lua hook shows to the router
  orthanc_accounts.json   Orthanc's RegisteredUsers, from the two passwords
  orthanc_peers.json      Orthanc's OrthancPeers: the destinations with their passwords; none yet

  --demo   also the passwords of the demo's two destinations, chest-ai and spine-ai, and both as peers
  --tls    also a certificate for these names and addresses of this machine, from an authority of its own (needs openssl):
           tls_ca.pem (give this one to the browsers), tls_ca.key, tls_certificate.pem, tls_key.pem

What is there already stays as it is: a password, token or certificate of your own is put there first, and this completes the
rest. To change one later, remove it (for a password also the .json that holds it) and run this again. Git ignores the folder.
HELP
}

say() { printf 'make-secrets: %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }

demo=no names='' folder=''
while [ $# -gt 0 ]; do
  case $1 in
    -h | --help) usage; exit 0 ;;
    --demo) demo=yes ;;
    --tls) names=${2:?--tls needs a name}; shift ;;
    -*) usage >&2; die "unknown option $1" ;;
    *) folder=$1 ;;
  esac
  shift
done
folder=${folder:-$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)/secrets}

# The folder is closed to everybody else on this machine. The files in it can be read by any user, since each container sees them with
# the owner that they have here, and its own user is another one.
mkdir -p "$folder"
chmod 700 "$folder"
[ -e "$folder/.gitignore" ] || echo '*' >"$folder/.gitignore"

write() { # name; takes the content from stdin
  cat >"$folder/.$1.new"
  chmod 444 "$folder/.$1.new"
  mv -f -- "$folder/.$1.new" "$folder/$1"
  say "made $folder/$1"
}

random() { # name
  if [ -e "$folder/$1" ]; then
    say "$folder/$1 is there already"
  else
    head -c 24 /dev/urandom | base64 | tr '+/' '-_' | write "$1"
  fi
}

# A password as a text in JSON. Orthanc replaces ${...} in its configuration, so such a password would become another one.
quoted() { # name
  local password
  password=$(cat "$folder/$1")
  case $password in
    '' | *[[:cntrl:]]* | *"\${"*) die "$folder/$1 must be one line, without \${" ;;
  esac
  printf '"%s"' "$(printf '%s' "$password" | sed 's/[\\"]/\\&/g')"
}

random orthanc_password
random hook_token
random admin_password

if [ -e "$folder/orthanc_accounts.json" ]; then
  say "$folder/orthanc_accounts.json is there already"
else
  router=$(quoted orthanc_password)
  admin=$(quoted admin_password)
  write orthanc_accounts.json <<JSON
{
  "RegisteredUsers": {
    "imaging-router": $router,
    "admin": $admin
  }
}
JSON
fi

if [ "$demo" = yes ]; then
  peers=''
  for name in chest-ai spine-ai; do
    random "${name}_password"
    password=$(quoted "${name}_password")
    admin=$(quoted admin_password)
    if [ ! -e "$folder/${name}_accounts.json" ]; then
      printf '{"RegisteredUsers": {"archive": %s, "admin": %s}}\n' "$password" "$admin" | write "${name}_accounts.json"
    fi
    peers+="${peers:+,}
    \"$name\": {\"Url\": \"http://$name:8042/\", \"Username\": \"archive\", \"Password\": $password}"
  done
  if [ -e "$folder/orthanc_peers.json" ] && grep -q '"Url"' "$folder/orthanc_peers.json"; then
    say "$folder/orthanc_peers.json is there already"
  else
    printf '{\n  "OrthancPeers": {%s\n  }\n}\n' "$peers" | write orthanc_peers.json
  fi
elif [ -e "$folder/orthanc_peers.json" ]; then
  say "$folder/orthanc_peers.json is there already"
else
  printf '{\n  "OrthancPeers": {\n  }\n}\n' | write orthanc_peers.json
fi

certificate() {
  command -v openssl >/dev/null || die "--tls needs openssl"
  local name alternatives=DNS:localhost,IP:127.0.0.1,DNS:imaging-router
  for name in ${names//,/ }; do
    case $name in
      *[!0-9a-zA-Z.:-]*) die "'$name' is neither a name nor an address of a machine" ;;
      *:* | *[0-9].[0-9]*.[0-9]*.*[0-9]) alternatives+=",IP:$name" ;;
      *) alternatives+=",DNS:$name" ;;
    esac
  done
  local work
  work=$(mktemp -d)
  trap 'rm -rf -- "$work"' RETURN
  local -a key=(-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes)
  if [ ! -e "$folder/tls_ca.key" ] || [ ! -e "$folder/tls_ca.pem" ]; then
    openssl req -x509 "${key[@]}" -days 3650 -subj "/CN=imaging-router authority" -addext keyUsage=critical,keyCertSign,cRLSign \
      -keyout "$work/ca.key" -out "$work/ca.pem" 2>"$work/log" || die "$(cat "$work/log")"
    write tls_ca.key <"$work/ca.key"
    chmod 400 "$folder/tls_ca.key" # nothing but this script reads it
    write tls_ca.pem <"$work/ca.pem"
  fi
  # 398 days: browsers take no certificate for longer.
  printf 'subjectAltName=%s\nextendedKeyUsage=serverAuth\nbasicConstraints=CA:FALSE\n' "$alternatives" >"$work/extensions"
  openssl req "${key[@]}" -subj "/CN=${names%%,*}" -keyout "$work/key.pem" -out "$work/request.pem" 2>"$work/log" || die "$(cat "$work/log")"
  openssl x509 -req -in "$work/request.pem" -CA "$folder/tls_ca.pem" -CAkey "$folder/tls_ca.key" -set_serial "0x$(openssl rand -hex 16)" \
    -days 398 -extfile "$work/extensions" -out "$work/certificate.pem" 2>"$work/log" || die "$(cat "$work/log")"
  write tls_key.pem <"$work/key.pem"
  write tls_certificate.pem <"$work/certificate.pem"
}
if [ -n "$names" ]; then
  if [ -e "$folder/tls_certificate.pem" ] && [ -e "$folder/tls_key.pem" ]; then
    say "$folder/tls_certificate.pem is there already"
  else
    certificate
  fi
fi

say "Orthanc's page asks for a name and a password: admin, and what stands in $folder/admin_password"
