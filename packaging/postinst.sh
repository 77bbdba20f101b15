#!/bin/sh
# Makes the service's user and the hook's token. DPKG_ROOT is dpkg's: the root of an installation that is not this system's.
set -e

root=${DPKG_ROOT:-}
etc=$root/etc/imaging-router

# Prints the number of the service's group in the root's own files, which are not this system's where they differ.
group() { awk -F: '$1 == "imaging-router" { print $3 }' "$root/etc/group"; }

case "$1" in
  configure)
    if [ -z "$(group)" ]; then
      useradd ${root:+--prefix "$root"} --system --user-group --home-dir /var/lib/imaging-router --no-create-home \
        --shell /usr/sbin/nologin imaging-router
    fi
    # The service's user reads the configuration and not the secrets: systemd hands it those.
    chown "0:$(group)" "$etc" "$etc/config.yaml"
    chmod 0750 "$etc"
    if [ ! -e "$etc/hook_token" ]; then
      (umask 077 && od -An -N32 -tx1 /dev/urandom | tr -d ' \n' >"$etc/.hook_token.new" && echo >>"$etc/.hook_token.new")
      mv "$etc/.hook_token.new" "$etc/hook_token"
    fi
    if [ -z "$root" ] && [ -d /run/systemd/system ]; then
      systemctl daemon-reload
      # After an update the running one is replaced. A first installation needs its configuration before it can start.
      if [ -n "$2" ]; then systemctl try-restart imaging-router.service || true; fi
    fi
    if [ -z "$2" ]; then
      echo "imaging-router: next is /etc/imaging-router/config.yaml (or imaging-router init), then: systemctl enable --now imaging-router"
    fi
    ;;
esac
