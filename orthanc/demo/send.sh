#!/bin/sh
# The demo's modality: draws X-rays of nobody and sends them to the archive by C-STORE. Usage: send.sh [COUNT OF EACH CLASS]
set -eu

folder=$(mktemp -d)
trap 'rm -rf -- "$folder"' EXIT
imaging-router phantom --count "${1:-2}" "$folder" >/dev/null
dcmsend --aetitle MODALITY --call ARCHIVE "${ARCHIVE_HOST:-orthanc}" "${ARCHIVE_PORT:-4242}" "$folder"/*.dcm
echo "sent $(find "$folder" -name '*.dcm' | wc -l) drawings to the archive: look at its page in a few seconds"
