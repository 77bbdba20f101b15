#!/bin/sh
# purge takes the database and the hook's token as well. What was written to Orthanc is taken out by `imaging-router uninstall` before.
set -e

root=${DPKG_ROOT:-}
if [ "$1" = purge ]; then
  rm -rf "$root/var/lib/imaging-router"
  rm -f "$root/etc/imaging-router/hook_token"
  rmdir "$root/etc/imaging-router" 2>/dev/null || true # a password that somebody put there stays
fi
if [ -z "$root" ] && [ -d /run/systemd/system ]; then
  systemctl daemon-reload || true
fi
