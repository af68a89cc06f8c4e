#!/usr/bin/env bash
# What tutorials do, for docs/benchmarks.md: the release that serves, once more on the same host, as
# http://tutorial/. The units are those of gunicorn's own page on deployment, with its defaults: no
# preload_app, workers of one thread. nginx keeps no connections to it, so that none is cut.
set -euo pipefail

mkdir /srv/tutorial
cp --archive /srv/webapp/current/{source,venv,environment} /srv/tutorial/

cat >/etc/systemd/system/tutorial.socket <<'END'
[Unit]
Description=Socket of the tutorial

[Socket]
ListenStream=/run/tutorial.sock
SocketUser=www-data
SocketMode=0600
END
cat >/etc/systemd/system/tutorial.service <<END
[Unit]
Description=Application of the tutorial
Requires=tutorial.socket
After=network.target postgresql.service

[Service]
Type=notify
NotifyAccess=main
User=webapp
Group=webapp
RuntimeDirectory=tutorial
WorkingDirectory=/srv/tutorial/source
EnvironmentFile=/srv/tutorial/environment
ExecStart=/srv/tutorial/venv/bin/python -m gunicorn --workers $((2 * $(nproc) + 1)) app:app
ExecReload=/bin/kill --signal HUP \$MAINPID
KillMode=mixed
TimeoutStopSec=5
PrivateTmp=true
END
systemctl daemon-reload
systemctl start tutorial.socket tutorial.service

sed --in-place '$d' /etc/nginx/nginx.conf # the brace that closes http
cat >>/etc/nginx/nginx.conf <<'END'

    server {
        listen 80;
        server_name tutorial;

        location / {
            proxy_pass http://unix:/run/tutorial.sock;
        }
    }
}
END
nginx -t -q
systemctl reload nginx
