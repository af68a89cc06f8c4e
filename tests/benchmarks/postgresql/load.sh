#!/usr/bin/env bash
# One database for a VPS of a size: load.sh SCALE ROWS. What it prints nobody reads.
set -euo pipefail
cd /

psql() { runuser -u postgres -- psql --quiet --no-psqlrc --set=ON_ERROR_STOP=1 "$@"; }

psql --command='DROP DATABASE IF EXISTS bench WITH (FORCE)'
psql --command='CREATE DATABASE bench'
runuser -u postgres -- pgbench --initialize --quiet --scale="$1" bench
# Orders of many customers, in the order in which they came: a customer's are all over the table.
psql --dbname=bench <<SQL
CREATE TABLE orders AS
    SELECT n AS id, hashint4(n) & 4095 AS customer, (hashint4(n + 7) & 65535) / 100.0 AS amount,
        timestamptz '2026-01-01' + n * interval '20 s' AS placed, repeat('x', 120) AS note
    FROM generate_series(1, $2) n;
ALTER TABLE orders ADD PRIMARY KEY (id);
CREATE INDEX orders_customer ON orders (customer);
VACUUM ANALYZE;
CHECKPOINT;
SQL
