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
    fail2ban libpq-dev nftables nginx postgresql python3-pip-whl python3-systemd sudo \
    systemd-timesyncd unattended-upgrades
mkdir /etc/systemd/journald.conf.d
cat >/etc/systemd/journald.conf.d/10-size.conf <<'END'
[Journal]
Storage=persistent
SystemMaxUse=500M
END
systemctl restart systemd-journald

# access: keys only, two users, a firewall
mkdir -p /etc/ssh/authorized_keys.d
for user in admin deploy; do
    useradd --create-home --user-group --shell /bin/bash --password '*' "$user"
    cp /root/.ssh/authorized_keys "/etc/ssh/authorized_keys.d/$user"
done
echo 'admin ALL=(ALL:ALL) NOPASSWD: ALL' >/etc/sudoers.d/10-slipway
chmod 0440 /etc/sudoers.d/10-slipway
cat >/etc/ssh/sshd_config.d/10-slipway.conf <<'END'
AuthenticationMethods publickey
AuthorizedKeysFile /etc/ssh/authorized_keys.d/%u .ssh/authorized_keys
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
HostKey /etc/ssh/ssh_host_ed25519_key
HostKeyAlgorithms ssh-ed25519
KexAlgorithms -curve25519-*,ecdh-*,diffie-hellman-*
MACs hmac-sha2-512-etm@openssh.com,hmac-sha2-256-etm@openssh.com,umac-128-etm@openssh.com
AllowAgentForwarding no
X11Forwarding no
END
sshd -t
systemctl restart ssh
cat >/etc/nftables.conf <<'END'
#!/usr/sbin/nft -f
table inet slipway
delete table inet slipway
table inet slipway {
    chain input {
        type filter hook input priority filter; policy drop;
        ct state vmap { established : accept, related : accept, invalid : drop }
        iifname "lo" accept
        meta l4proto { icmp, icmpv6 } accept
        tcp dport { 22, 80, 443 } accept
    }
}
END
nft --check --file /etc/nftables.conf
systemctl enable --quiet nftables
systemctl reload-or-restart nftables

# postgresql: sized for the host, one role, one database
vcpus=$(nproc)
memory=$(awk '/^MemTotal:/ {print int($2 / 1024)}' /proc/meminfo)
between() { echo $(($1 < $2 ? $2 : $1 > $3 ? $3 : $1)); }
cat >/etc/postgresql/15/main/conf.d/10-slipway.conf <<END
listen_addresses = 'localhost'
max_connections = 100
shared_buffers = $(between $((memory / 4)) 0 8192)MB
effective_cache_size = $((memory / 2))MB
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

# hardening: security updates, bans, kernel settings
cat >/etc/apt/apt.conf.d/60slipway <<'END'
APT::Periodic::Update-Package-Lists "1";
APT::Periodic::Unattended-Upgrade "1";
#clear Unattended-Upgrade::Origins-Pattern;
Unattended-Upgrade::Origins-Pattern {
    "origin=Debian,codename=${distro_codename}-security,label=Debian-Security";
};
Unattended-Upgrade::Automatic-Reboot "true";
END
cat >/etc/fail2ban/filter.d/slipway-probing.conf <<'END'
[Definition]
failregex = ^ \S+ <ADDR> (?:401|404)$
datepattern = ^{EPOCH}
END
cat >/etc/fail2ban/jail.d/slipway.local <<'END'
[sshd]
enabled = true
backend = systemd
banaction = nftables-allports
END
systemctl restart fail2ban
cat >/etc/sysctl.d/60-slipway.conf <<'END'
net.ipv4.tcp_syncookies = 1
net.ipv4.conf.*.rp_filter = 1
net.ipv4.conf.*.accept_redirects = 0
net.ipv4.conf.*.send_redirects = 0
kernel.kptr_restrict = 2
kernel.dmesg_restrict = 1
fs.suid_dumpable = 0
END
systemctl restart systemd-sysctl
