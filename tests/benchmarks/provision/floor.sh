#!/usr/bin/env bash
# The floor of docs/benchmarks.md: the work of site.yml and nothing else. No checks, no second run.
#
# On the host it stands beside what came with it in one tar: app/, certificates/ and uv.txt.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
export DEBIAN_FRONTEND=noninteractive UV_SYSTEM_CERTS=1
export PIP_CERT=/etc/ssl/certs/ca-certificates.crt SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt

# base: certificates, packages, journal
cp --recursive "$here/certificates/." /usr/local/share/ca-certificates/
update-ca-certificates
apt-get update
apt-get install --yes --no-install-recommends \
    libpq-dev nginx postgresql python3-pip-whl systemd-timesyncd
mkdir /etc/systemd/journald.conf.d
cat >/etc/systemd/journald.conf.d/10-size.conf <<'END'
[Journal]
Storage=persistent
SystemMaxUse=500M
END
systemctl restart systemd-journald

# postgresql: sized for the host, one role, one database
vcpus=$(nproc)
memory=$(awk '/^MemTotal:/ {print int($2 / 1024)}' /proc/meminfo)
between() { echo $(($1 < $2 ? $2 : $1 > $3 ? $3 : $1)); }
cat >/etc/postgresql/15/main/conf.d/10-slipway.conf <<END
listen_addresses = 'localhost'
max_connections = 100
shared_buffers = $(between $((memory / 4)) 0 8192)MB
effective_cache_size = $((memory / 2))MB
maintenance_work_mem = $(between $((memory / 16)) 64 1024)MB
work_mem = $(between $((memory / 4 / 100)) 4 64)MB
max_parallel_workers = $vcpus
max_parallel_workers_per_gather = $((vcpus / 2))
effective_io_concurrency = 200
max_wal_size = $(between "$memory" 1024 4096)MB
random_page_cost = 1.1
END
systemctl restart postgresql@15-main
runuser -u postgres -- psql --quiet <<'END'
CREATE ROLE webapp LOGIN;
ALTER ROLE webapp SET statement_timeout = '30s';
ALTER ROLE webapp SET idle_in_transaction_session_timeout = '60s';
CREATE DATABASE webapp OWNER webapp ENCODING 'UTF8' TEMPLATE template0;
END

# flask_app: user, source, virtualenv, environment, migrations
useradd --system --user-group --home-dir /var/lib/webapp --shell /usr/sbin/nologin webapp
mkdir /srv/webapp
cp --recursive "$here/app" /srv/webapp/source
cd /srv/webapp
PYTHONPATH=$(echo /usr/share/python-wheels/pip-*.whl) python3 -m pip install --quiet \
    --no-cache-dir --no-deps --require-hashes --target /usr/local/lib/slipway \
    --requirement "$here/uv.txt"
/usr/local/lib/slipway/bin/uv venv --quiet --python /usr/bin/python3 venv
/usr/local/lib/slipway/bin/uv pip sync --quiet --compile-bytecode --require-hashes \
    --python venv/bin/python source/requirements.txt
install --mode=0640 --group=webapp /dev/null environment
cat >environment <<END
APP_ENV="production"
TRUSTED_PROXIES="1"
DATABASE_URL="postgresql+psycopg2:///webapp?host=/run/postgresql"
SECRET_KEY="$(head --bytes=36 /dev/urandom | base64 --wrap=0)"
RELEASE_ID="floor"
END
(
    set -a
    # shellcheck source=/dev/null
    . ./environment
    cd source
    runuser -u webapp -- ../venv/bin/flask --app app:app db upgrade
)

# gunicorn: 2 x vCPU + 1 preloaded workers
cat >gunicorn.conf.py <<END
wsgi_app = "app:app"
bind = "unix:/run/webapp/webapp.sock"
control_socket = "/run/webapp/control.sock"
umask = 0
workers = $((vcpus * 2 + 1))
worker_class = "gthread"
threads = 2
preload_app = True
worker_tmp_dir = "/dev/shm"
timeout = 60
graceful_timeout = 30
keepalive = 75
END
cat >/etc/systemd/system/webapp.service <<'END'
[Unit]
Description=Application webapp
After=network.target postgresql.service

[Service]
Type=notify
User=webapp
Group=webapp
WorkingDirectory=/srv/webapp/source
EnvironmentFile=/srv/webapp/environment
ExecStart=/srv/webapp/venv/bin/python -m gunicorn --config /srv/webapp/gunicorn.conf.py
KillMode=mixed
TimeoutStopSec=40
Restart=on-failure
RuntimeDirectory=webapp
StateDirectory=webapp
NoNewPrivileges=yes
PrivateDevices=yes
PrivateTmp=yes
ProtectHome=yes
ProtectSystem=strict

[Install]
WantedBy=multi-user.target
END
systemctl enable --quiet --now webapp

# nginx: the proxy in front
rm /etc/nginx/sites-enabled/default
cat >/etc/nginx/sites-enabled/webapp <<'END'
upstream webapp {
    server unix:/run/webapp/webapp.sock max_fails=0;
    keepalive 16;
}

server {
    listen 80 default_server;
    listen [::]:80 default_server;
    client_max_body_size 10m;

    location /static/ {
        alias /srv/webapp/source/webapp/static/;
        expires 3600s;
    }

    location / {
        proxy_pass http://webapp;
        proxy_http_version 1.1;
        proxy_set_header Connection "";
        proxy_set_header Host $host;
        proxy_set_header X-Forwarded-For $remote_addr;
        proxy_set_header X-Forwarded-Host $host;
        proxy_set_header X-Forwarded-Proto $scheme;
    }
}
END
systemctl reload nginx
