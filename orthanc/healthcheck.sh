#!/bin/bash
# Asks Orthanc whether it answers; for the health check of docker-compose.yml. It needs bash and nothing else, so that it runs in every image
# of Orthanc, and it takes the password from its file, so that no list of processes shows it.
set -eu

user=${HEALTHCHECK_USER:-imaging-router}
password=$(cat "${HEALTHCHECK_PASSWORD_FILE:-/run/secrets/orthanc_password}")
credentials=$(printf '%s:%s' "$user" "$password" | base64 -w 0)

exec 3<>"/dev/tcp/127.0.0.1/${HEALTHCHECK_PORT:-8042}"
printf 'GET /changes?last HTTP/1.0\r\nAuthorization: Basic %s\r\n\r\n' "$credentials" >&3
read -r -t 5 _ status _ <&3
timeout 5 cat <&3 >/dev/null # to the end, or Orthanc logs an answer that nobody took
[ "$status" = 200 ] || { echo "Orthanc answers HTTP $status"; exit 1; }
