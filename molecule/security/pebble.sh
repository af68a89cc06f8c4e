#!/bin/sh
# pebble.sh ADDRESS NAME=ADDRESS …: a CA for tests (pebble), with a DNS that knows these names.
# The certificate that the CA's own server is trusted by goes to standard output.
set -eu
own=$1
shift
folder=/etc/pebble
{
    apt-get update --quiet
    DEBIAN_FRONTEND=noninteractive apt-get install --yes --quiet --no-install-recommends \
        curl openssl pebble
    mkdir -p "$folder"
    openssl req -x509 -nodes -days 3650 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 \
        -subj /CN=pebble -addext "subjectAltName=IP:$own" \
        -keyout "$folder/key.pem" -out "$folder/cert.pem"
    cat >"$folder/config.json" <<END
{"pebble": {
  "listenAddress": "$own:14000", "managementListenAddress": "$own:15000",
  "certificate": "$folder/cert.pem", "privateKey": "$folder/key.pem",
  "httpPort": 80, "tlsPort": 443, "ocspResponderURL": "", "externalAccountBindingRequired": false
}}
END
    systemctl stop pebble challtestsrv || true
    systemd-run --unit challtestsrv pebble-challtestsrv -defaultIPv4 "" -defaultIPv6 "" \
        -dns01 127.0.0.1:8053 -management 127.0.0.1:8055 -http01 "" -https01 "" -tlsalpn01 ""
    # Nothing random: no refused nonce, no pause, and each name is looked at each time.
    systemd-run --unit pebble --setenv PEBBLE_WFE_NONCEREJECT=0 --setenv PEBBLE_VA_NOSLEEP=1 \
        --setenv PEBBLE_AUTHZREUSE=0 \
        pebble -config "$folder/config.json" -dnsserver 127.0.0.1:8053
    for name; do
        curl --silent --fail --retry 20 --retry-connrefused --retry-delay 1 \
            --data "{\"host\": \"${name%=*}.\", \"addresses\": [\"${name#*=}\"]}" \
            http://127.0.0.1:8055/add-a
    done
    curl --silent --fail --retry 20 --retry-connrefused --retry-delay 1 \
        --cacert "$folder/cert.pem" --output "$folder/root.pem" "https://$own:15000/roots/0"
} >&2
cat "$folder/cert.pem"
