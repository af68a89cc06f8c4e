#!/bin/sh
# storage.sh NAME: SeaweedFS with the bucket `backups`, as https://NAME, with a CA of its own, whose
# certificate goes to standard output. The program is in /usr/local/bin already.
set -eu
name=$1
folder=/etc/seaweedfs
{
    apt-get update --quiet
    DEBIAN_FRONTEND=noninteractive apt-get install --yes --quiet --no-install-recommends \
        curl openssl
    mkdir -p "$folder" /srv/objects
    new="-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes"
    # shellcheck disable=SC2086 # several words
    openssl req -x509 $new -days 3650 -subj "/CN=CA of the tests" \
        -addext basicConstraints=critical,CA:TRUE -keyout "$folder/ca.key" -out "$folder/ca.crt"
    # shellcheck disable=SC2086
    openssl req $new -subj "/CN=$name" -keyout "$folder/key.pem" -out "$folder/request.pem"
    echo "subjectAltName=DNS:$name" >"$folder/names"
    openssl x509 -req -in "$folder/request.pem" -days 3650 -extfile "$folder/names" \
        -CA "$folder/ca.crt" -CAkey "$folder/ca.key" -CAcreateserial -out "$folder/cert.pem"
    cat >"$folder/s3.json" <<END
{"identities": [{"name": "server",
  "credentials": [{"accessKey": "server", "secretKey": "of-the-throwaway-storage"}],
  "actions": ["Read:backups", "Write:backups", "List:backups"]}]}
END
    cat >/etc/systemd/system/seaweedfs.service <<END
[Service]
ExecStart=/usr/local/bin/weed server -dir=/srv/objects -ip=127.0.0.1 -ip.bind=127.0.0.1 \
    -master.volumeSizeLimitMB=256 -volume.max=0 -s3 -s3.ip.bind=0.0.0.0 -s3.port=8333 \
    -s3.port.https=443 -s3.cert.file=$folder/cert.pem -s3.key.file=$folder/key.pem \
    -s3.config=$folder/s3.json
END
    systemctl daemon-reload
    systemctl restart seaweedfs
    curl --silent --retry 60 --retry-connrefused --retry-delay 1 --output /dev/null \
        --cacert "$folder/ca.crt" --resolve "$name:443:127.0.0.1" "https://$name/"
    echo "s3.bucket.create -name backups" | weed shell
} >&2
cat "$folder/ca.crt"
