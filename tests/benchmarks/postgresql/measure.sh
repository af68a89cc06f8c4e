#!/usr/bin/env bash
# What PostgreSQL does with the settings on stdin: measure.sh SECONDS; prints name and figure.
set -euo pipefail
cd /

settings=/etc/postgresql/15/main/conf.d/10-slipway.conf
psql() { runuser -u postgres -- psql --quiet --no-psqlrc --tuples-only --no-align bench "$@"; }
transactions() {
    runuser -u postgres -- pgbench --no-vacuum --client=8 --jobs=2 "$@" bench |
        sed -n 's/^tps = \([0-9.]*\).*/\1/p'
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

transactions --select-only --time=3 > /dev/null
psql --output=/dev/null --command='SELECT count(*) FROM orders'
echo "read $(transactions --select-only --time="$1")"
psql --command='CHECKPOINT'
echo "write $(transactions --time="$1")"
echo "lookup $(milliseconds 'SELECT count(note) FROM orders WHERE customer BETWEEN 100 AND 119')"
echo "report $(milliseconds "SELECT customer, date_trunc('day', placed), sum(amount)
    FROM orders GROUP BY 1, 2 ORDER BY 3 DESC LIMIT 20")"
psql --command='CHECKPOINT'
echo "index $(psql --command='\timing on' \
    --command='CREATE INDEX again ON orders (note, customer, id)' |
    sed -n 's/^Time: \([0-9.]*\) ms.*/\1/p')"
psql --command='DROP INDEX again'
