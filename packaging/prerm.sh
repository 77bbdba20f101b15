#!/bin/sh
# Stops the service before its program goes. An update leaves it running until the new one is there.
set -e

if [ "$1" = remove ] && [ -z "${DPKG_ROOT:-}" ] && [ -d /run/systemd/system ]; then
  systemctl --no-reload disable --now imaging-router.service || true
fi
