#!/usr/bin/env bash
# What PostgreSQL does with the settings on stdin: measure.sh SECONDS; prints name and figure.
set -euo pipefail
cd /

seconds=$1
settings=/etc/postgresql/15/main/conf.d/10-slipway.conf
report=$(mktemp)
trap 'rm "$report"' EXIT
psql() {
    runuser -u postgres -- psql --quiet --no-psqlrc --tuples-only --no-align --field-separator=' ' \
        bench "$@"
}
# Prints transactions in a second, without the first half of the time: each new connection has to
# map the buffers, and that alone takes ten seconds where they are large. A pool's connections live
# on. pgbench does not always tell of what ends with it.
transactions() { # SECONDS OPTIONS
    runuser -u postgres -- pgbench --no-vacuum --client=8 --jobs=2 --progress="$(($1 / 2))" \
        --time="$(($1 + 1))" "${@:2}" bench >"$report" 2>&1
    sed -n 's/^progress: .* s, \([0-9.]*\) tps.*/\1/p' "$report" | sed -n 2p
}
milliseconds() { # STATEMENT TIMES; the median of all but the first, for the same reason
    { printf '%s\n' '\timing on' && for _ in $(seq "$2"); do echo "$1;"; done; } | psql |
        sed -n 's/^Time: \([0-9.]*\) ms.*/\1/p' | tail --lines=+2 | sort --numeric-sort |
        sed -n "$(($2 / 2))p"
}

cat > "$settings"
chmod 0644 "$settings"
systemctl restart postgresql@15-main
until pg_isready --quiet; do sleep 0.1; done

psql --output=/dev/null --command='SELECT count(*) FROM orders' \
    --command='CREATE EXTENSION IF NOT EXISTS pg_prewarm' \
    --command="SELECT pg_prewarm('pgbench_accounts_pkey'), pg_prewarm('pgbench_accounts')"
echo "read $(transactions "$seconds" --select-only)"

# Long enough for more than one checkpoint with Debian's settings.
psql --output=/dev/null --command='CHECKPOINT' --command="SELECT pg_stat_reset_shared('bgwriter')"
start=$(psql --command='SELECT pg_current_wal_insert_lsn()')
echo "write $(transactions $((seconds * 2)))"
count=$(sed -n 's/^number of transactions actually processed: \([0-9]*\).*/\1/p' "$report")
psql --command="SELECT 'wal', (pg_current_wal_insert_lsn() - '$start') / 1024 / $count" \
    --command="SELECT 'pages', 1000.0 * buffers_backend / $count FROM pg_stat_bgwriter"

echo "lookup $(milliseconds 'SELECT count(note) FROM orders WHERE customer BETWEEN 100 AND 119' 8)"
echo "report $(milliseconds "SELECT customer, date_trunc('day', placed), sum(amount)
    FROM orders GROUP BY 1, 2 ORDER BY 3 DESC LIMIT 20" 4)"
