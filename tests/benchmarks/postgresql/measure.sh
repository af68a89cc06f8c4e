#!/usr/bin/env bash
# What PostgreSQL does with the settings on stdin: measure.sh SECONDS; prints name and figure.
set -euo pipefail
cd /

seconds=$1
settings=/etc/postgresql/15/main/conf.d/10-slipway.conf
psql() { runuser -u postgres -- psql --quiet --no-psqlrc --tuples-only --no-align bench "$@"; }
# In a second, without the first half of the time: each new connection has to map the buffers, and
# that alone takes ten seconds where they are large. A pool's connections live on. pgbench does not
# always tell of what ends with it.
transactions() {
    runuser -u postgres -- pgbench --no-vacuum --client=8 --jobs=2 --progress="$((seconds / 2))" \
        --time="$((seconds + 1))" "$@" bench 2>&1 |
        sed -n 's/^progress: .* s, \([0-9.]*\) tps.*/\1/p' | sed -n 2p
}
milliseconds() { # median of three
    for _ in 1 2 3; do
        psql --command='\timing on' --command="$1" | sed -n 's/^Time: \([0-9.]*\) ms.*/\1/p'
    done | sort --numeric-sort | sed -n 2p
}

cat > "$settings"
chmod 0644 "$settings"
systemctl restart postgresql@15-main
until pg_isready --quiet; do sleep 0.1; done

psql --output=/dev/null --command='SELECT count(*) FROM orders' \
    --command='CREATE EXTENSION IF NOT EXISTS pg_prewarm' \
    --command="SELECT pg_prewarm('pgbench_accounts_pkey'), pg_prewarm('pgbench_accounts')"
echo "read $(transactions --select-only)"
psql --command='CHECKPOINT'
echo "write $(transactions)"
echo "lookup $(milliseconds 'SELECT count(note) FROM orders WHERE customer BETWEEN 100 AND 119')"
echo "report $(milliseconds "SELECT customer, date_trunc('day', placed), sum(amount)
    FROM orders GROUP BY 1, 2 ORDER BY 3 DESC LIMIT 20")"
psql --command='CHECKPOINT'
echo "index $(psql --command='\timing on' \
    --command='CREATE INDEX again ON orders (note, customer, id)' |
    sed -n 's/^Time: \([0-9.]*\) ms.*/\1/p')"
psql --command='DROP INDEX again'
