#!/usr/bin/env bash
# Looks for known vulnerabilities that the product calls: govulncheck, over the database at https://vuln.go.dev or at $GOVULNDB (https://…
# or file://…). Without a database it says so and checks nothing: that is no failure, since the product is the same. `make vulnerabilities` calls it.
set -euo pipefail
cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."

database=${GOVULNDB:-$(go env GOVULNDB)}
database=${database:-https://vuln.go.dev}
case $database in
  file://*) [ -r "${database#file://}/index/db.json" ] || { echo "vulnerabilities: there is no database at $database" >&2; exit 1; } ;;
  *)
    if ! curl --silent --show-error --fail --max-time 20 --output /dev/null "$database/index/db.json"; then
      echo "vulnerabilities: NOT CHECKED, no database: $database cannot be reached from here"
      exit 0
    fi
    ;;
esac
go tool govulncheck -db "$database" ./...
