#!/bin/sh
# Asks nginx whether it answers with its certificate, whatever the services behind it do.
set -eu
printf 'GET /-/proxy HTTP/1.0\r\n\r\n' | timeout 4 openssl s_client -quiet -connect 127.0.0.1:8443 2>/dev/null | grep -q '^HTTP/1.1 200'
