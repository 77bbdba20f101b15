#!/usr/bin/env bash
# Makes the secrets that docker-compose.yml mounts. See --help.
set -euo pipefail

usage() {
  cat <<'HELP'
usage: orthanc/make-secrets.sh [FOLDER]          (default: secrets, in the repository)

Makes what docker-compose.yml mounts as secrets, each with random content, and prints the administrator's password:

  orthanc_password        the password of the account "imaging-router" in Orthanc, for the router
  hook_token              what Orthanc's Lua hook shows to the router
  orthanc_accounts.json   Orthanc's RegisteredUsers ("imaging-router" and "admin") and its OrthancPeers, none yet

What is there already stays as it is. Git ignores the folder.
HELP
}

say() { printf 'make-secrets: %s\n' "$*" >&2; }

case "${1:-}" in
  -h | --help) usage; exit 0 ;;
esac
folder=${1:-$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)/secrets}

random() { head -c 24 /dev/urandom | base64 | tr '+/' '-_'; }

# The folder is closed to everybody else on this machine. The files in it can be read by any user, since each container sees them with
# the owner that they have here, and its own user is another one.
mkdir -p "$folder"
chmod 700 "$folder"
[ -e "$folder/.gitignore" ] || echo '*' >"$folder/.gitignore"

write() { # name; takes the content from stdin
  cat >"$folder/.$1.new"
  chmod 444 "$folder/.$1.new"
  mv -- "$folder/.$1.new" "$folder/$1"
  say "made $folder/$1"
}

for name in orthanc_password hook_token; do
  if [ -e "$folder/$name" ]; then
    say "$folder/$name is there already"
  else
    random | write "$name"
  fi
done

if [ -e "$folder/orthanc_accounts.json" ]; then
  say "$folder/orthanc_accounts.json is there already"
else
  admin=$(random)
  write orthanc_accounts.json <<JSON
{
  "RegisteredUsers": {
    "imaging-router": "$(cat "$folder/orthanc_password")",
    "admin": "$admin"
  },
  "OrthancPeers": {
  }
}
JSON
  say "Orthanc's page asks for a name and a password: admin / $admin"
fi
