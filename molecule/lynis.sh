#!/bin/sh
# What Lynis says of a host, by the keys of its report. It is not installed for that:
# ssh root@HOST sh < molecule/lynis.sh | grep -E '^(hardening_index|warning|suggestion)'
set -eu
rm -rf /root/lynis && mkdir /root/lynis && cd /root/lynis
apt-get download --quiet=2 lynis >&2 && dpkg-deb --extract lynis_*.deb .
cp --recursive etc/lynis/* usr/sbin/lynis usr/share/lynis && cd usr/share/lynis
./lynis audit system --quick --no-colors --log-file log --report-file report >&2 </dev/null
cat report
rm -r /root/lynis
