#!/usr/bin/env bash
# What a host has become, the same lines for every variant; provision.py compares them.
set -euo pipefail
cd /

postgres() { runuser -u postgres -- psql --tuples-only --no-align --command="$1"; }

dpkg-query --show fail2ban libpq-dev nftables nginx postgresql systemd-timesyncd unattended-upgrades
find /usr/local/share/ca-certificates -type f | sort
grep --recursive --no-filename ^SystemMaxUse /etc/systemd
postgres "SELECT name, setting FROM pg_settings WHERE name IN ('effective_cache_size',
    'effective_io_concurrency', 'listen_addresses', 'max_connections', 'max_parallel_workers',
    'max_parallel_workers_per_gather', 'max_wal_size', 'random_page_cost', 'shared_buffers',
    'work_mem') AND pending_restart = false ORDER BY name"
postgres "SELECT rolname, unnest(rolconfig) FROM pg_roles WHERE rolname = 'webapp' ORDER BY 2"
postgres "SELECT datname, datdba::regrole FROM pg_database WHERE datname = 'webapp'"

# The application as it runs: its processes, user and packages.
main=$(pgrep --oldest --euid webapp --full gunicorn)
root=$(dirname "$(systemctl show --value --property=WorkingDirectory "webapp*.service")")
echo "workers $(pgrep --parent "$main" --count) threads $(grep ^threads "$root/gunicorn.conf.py")"
grep '^preload_app' "$root/gunicorn.conf.py"
stat --format='environment %a %U %G' "$root/environment"
cd "$root"/venv/lib/python3*/site-packages
find . -maxdepth 1 -name '*.dist-info' | grep -vE '(pip|setuptools)-' | sort
find flask -maxdepth 1 -name __pycache__
