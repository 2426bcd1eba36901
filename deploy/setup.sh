#!/usr/bin/env bash
# Installs what Reprise needs to be built, demonstrated and tested, where it is missing. Changes nothing and returns at
# once where all is there. Usage: deploy/setup.sh [lint|bench|services]; each adds what `make lint`, `make bench` or
# `make test-services` needs.
set -euo pipefail

# PACKAGE:PROBE; the package is missing when its probe, a command or an absolute path, is.
needs=(
    gcc:cc
    g++:c++
    libc6-dev:/usr/include/stdlib.h
    make:make
    libpcap-dev:/usr/include/pcap/pcap.h
    libssl-dev:/usr/include/openssl/ssl.h
    zlib1g-dev:/usr/include/zlib.h
    pkg-config:pkg-config
    protobuf-compiler:protoc
    libprotobuf-dev:/usr/include/google/protobuf/empty.proto
    etcd-server:etcd
    etcd-client:etcdctl
    nginx-light:nginx
    hey:hey
    tcpdump:tcpdump
    iproute2:ip
    curl:curl
    openssl:openssl
    ca-certificates:/etc/ssl/certs/ca-certificates.crt
    python3:python3
    nodejs:node
)
[[ ${1:-} == bench ]] && needs+=(ethtool:ethtool wrk:wrk)
[[ ${1:-} == services ]] && needs+=(default-jdk-headless:javac maven:mvn)
# Daemons that Debian starts on installation; we start our own on ports of our own.
daemons=(etcd-server:etcd nginx-light:nginx)
cargo_deny=0.20.2

PATH=$PATH:/usr/sbin:/sbin

die() {
    echo "setup: $*" >&2
    exit 1
}

there() {
    case $1 in
    /*) [[ -e $1 ]] ;;
    *) command -v "$1" >/dev/null ;;
    esac
}

as_root() {
    if ((EUID == 0)); then "$@"; else sudo "$@"; fi
}

apt() {
    # Run level 1: don't start daemons (where systemd does all the same, quiet_daemons stops them).
    as_root env DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 apt-get -qq -o Dpkg::Use-Pty=0 "$@"
}

# Stops and disables the daemons that came with what we have just installed, and no others.
quiet_daemons() {
    local entry
    for entry in "${daemons[@]}"; do
        [[ " ${missing[*]} " == *" ${entry%%:*} "* ]] || continue
        if [[ -d /run/systemd/system ]]; then
            as_root systemctl disable --now "${entry##*:}" >/dev/null 2>&1 || true
        elif command -v service >/dev/null; then
            as_root service "${entry##*:}" stop >/dev/null 2>&1 || true
        fi
    done
}

command -v cargo >/dev/null ||
    die "no Rust toolchain; install a stable one with rustup (https://rustup.rs), then open a new shell"

missing=()
for entry in "${needs[@]}"; do
    there "${entry#*:}" || missing+=("${entry%%:*}")
done
if ((${#missing[@]})); then
    command -v apt-get >/dev/null ||
        die "no apt here; install what these Debian packages hold: ${missing[*]}"
    ((EUID == 0)) || command -v sudo >/dev/null ||
        die "neither root nor sudo here; as root, run: apt-get install ${missing[*]}"
    echo "setup: installing with apt: ${missing[*]}"
    log=$(mktemp)
    trap 'rm -f "$log"' EXIT
    # The lists of a new machine are empty or old; ask for new ones only when the known ones don't do.
    apt install --no-install-recommends -y "${missing[@]}" &>"$log" ||
        { apt update && apt install --no-install-recommends -y "${missing[@]}"; } &>"$log" || {
        tail -n 20 "$log" >&2
        die "apt-get failed, see above; the packages are: ${missing[*]}"
    }
    quiet_daemons
fi

if [[ ${1:-} == lint ]]; then
    for tool in rustfmt clippy-driver; do
        there "$tool" || die "no $tool; run: rustup component add rustfmt clippy"
    done
    if ! cargo deny --version >/dev/null 2>&1; then
        echo "setup: installing with cargo: cargo-deny $cargo_deny (a few minutes)"
        cargo install --quiet --locked "cargo-deny@$cargo_deny"
    fi
fi

# Kafka and OpenSearch come as Java packages, once for each version of what we ask for.
if [[ ${1:-} == services ]]; then
    there javac || die "no Java; install a JDK of version 17 or newer, as default-jdk-headless has it"
    there mvn || die "no Maven; install it, as the package maven has it"
    root=$(cd "$(dirname "$0")/.." && pwd)
    for service in kafka search; do
        source=$root/integration-tests/services/$service
        fetched=$root/target/services/$service
        sum=$(find "$source" -type f | sort | xargs cat | sha256sum)
        [[ $(cat "$fetched/fetched" 2>/dev/null) == "$sum" ]] && continue
        echo "setup: fetching with Maven: $service"
        rm -rf "$fetched"
        mvn --batch-mode --quiet -Dstyle.color=never --file "$source/pom.xml" process-classes ||
            die "Maven could not fetch $service, see above"
        echo "$sum" >"$fetched/fetched"
    done
fi
