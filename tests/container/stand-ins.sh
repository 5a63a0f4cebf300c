#!/usr/bin/env bash
# Where no registry can be reached: stand-ins, of Debian's packages, for the images that docker/ builds on and runs
# beside the server. What is here already, or can be pulled, is left alone. Needs root and debootstrap.
set -euo pipefail
cd "$(dirname "$0")/../.."

DEBIAN=foldserve-stand-in/debian:bookworm

is_missing() {
    ! docker image inspect "$1" > /dev/null 2>&1 && ! timeout 60 docker pull --quiet "$1" > /dev/null 2>&1
}

# A root file system that trusts whom this machine trusts, and whose pip asks where this machine's asks.
make_debian() {
    docker image inspect "$DEBIAN" > /dev/null 2>&1 && return
    command -v debootstrap > /dev/null || { echo "stand-ins need debootstrap: apt-get install debootstrap" >&2; exit 1; }
    local root
    root=$(mktemp -d)
    debootstrap --variant=minbase --include=ca-certificates bookworm "$root" > "$root.log" 2>&1 \
        || { tail "$root.log" >&2; exit 1; }
    cp /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/"
    printf '[global]\nretries = 1\n' > "$root/etc/pip.conf"
    [ -z "${PIP_INDEX_URL:-}" ] || printf 'index-url = %s\n' "$PIP_INDEX_URL" >> "$root/etc/pip.conf"
    [ -z "${PIP_CERT:-}" ] || printf 'cert = /etc/ssl/certs/ca-certificates.crt\n' >> "$root/etc/pip.conf"
    rm -rf "$root"/var/{cache/apt,lib/apt/lists}/* "$root"/usr/share/{doc,info,man,locale}/*
    tar -C "$root" -c . | docker import - "$DEBIAN" > /dev/null
    rm -rf "$root" "$root.log"
}

# stand_in IMAGE PACKAGES INSTRUCTIONS
stand_in() {
    is_missing "$1" || return 0
    make_debian
    echo "$1: a stand-in, of Debian's packages"
    printf 'FROM %s\nRUN apt-get update && apt-get install --yes --no-install-recommends %s && rm -rf /var/lib/apt/lists/* /var/cache/*\n%s\n' \
        "$DEBIAN" "$2" "$3" | docker build --quiet --tag "$1" - > /dev/null
}

image_of() { sed -n "s|.*image: \(prom/$1:.*\)|\1|p" docker/compose.yaml; }

stand_in "$(sed -n 's/^ARG BASE=//p' docker/Dockerfile)" 'python3 python3-venv' \
    'RUN ln -s /usr/bin/python3 /usr/local/bin/python3'
stand_in "$(image_of prometheus)" prometheus $'RUN install -d -o 65534 /prometheus\nUSER 65534\nENTRYPOINT ["/usr/bin/prometheus"]'
stand_in "$(image_of alertmanager)" prometheus-alertmanager \
    $'RUN install -d -o 65534 /alertmanager\nUSER 65534\nENTRYPOINT ["/usr/bin/prometheus-alertmanager"]'
