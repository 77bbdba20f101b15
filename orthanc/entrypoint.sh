#!/bin/sh
# Starts Orthanc with every configuration of /etc/orthanc and every *.json among the secrets, as orthancteam/orthanc does.
# Orthanc reads one folder, so they are brought together in one. A key may stand in one of the files only.
set -eu

folder=$(mktemp -d)
for file in /etc/orthanc/*.json /run/secrets/*.json; do
  [ -e "$file" ] || continue
  ln -s "$file" "$folder/"
done
exec Orthanc "$folder" "$@"
