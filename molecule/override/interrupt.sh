#!/usr/bin/env bash
# interrupt.sh INVENTORY HOST: start site.yml and, while dpkg configures packages, kill both.
set -euo pipefail
inventory=$1 host=$2
here=$(dirname "${BASH_SOURCE[0]}")
setsid ansible-playbook --inventory "$inventory" --limit "$host,localhost" \
    "$here/../../site.yml" >/dev/null 2>&1 &
run=$!
for _ in $(seq 240); do
    if "$here/../hosts/host" exec "$host" pgrep --full 'dpkg .*--configure' >/dev/null 2>&1; then
        kill -KILL -- "-$run"
        "$here/../hosts/host" exec "$host" pkill -KILL 'apt|dpkg|python3'
        exit 0
    fi
    sleep 0.5
done
kill -KILL -- "-$run"
echo "Problem: dpkg was never seen at work on $host within two minutes." >&2
exit 1
