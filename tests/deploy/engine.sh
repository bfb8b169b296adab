#!/usr/bin/env bash
# A container engine of one's own, for machines without one and without an image registry. Needs root and
#   apt-get install docker.io docker-compose debootstrap iptables
#   engine.sh start DIR            dockerd in DIR, in this network namespace, which it leaves as it is: builds with --network host
#   engine.sh start DIR isolated   the same images, in a network namespace of its own, with bridges and published ports
#   engine.sh base DIR             protheon-base:bookworm by debootstrap, where it is not there yet
#   engine.sh stop DIR
# DOCKER_HOST is unix://DIR/docker.sock; ports are reached by `nsenter --net=/run/netns/protheon-engine`.
set -euo pipefail
verb=$1 dir=$(realpath "$2") kind=${3:-plain}
namespace=protheon-engine
export DOCKER_HOST=unix://$dir/docker.sock

stop() {
    [[ -s $dir/docker.pid ]] || return 0
    local pid
    pid=$(<"$dir/docker.pid")
    kill "$pid" 2>/dev/null || return 0
    while kill -0 "$pid" 2>/dev/null; do sleep 0.1; done
}

start() {
    local inside=() options=()
    mkdir -p "$dir/data" "$dir/exec"
    if [[ $kind == isolated ]]; then
        ip netns list | grep -qw "$namespace" || ip netns add "$namespace"
        ip -n "$namespace" link set lo up
        inside=(nsenter "--net=/run/netns/$namespace")
    else
        options=(--bridge=none --iptables=false --ip6tables=false --ip-forward=false --ip-masq=false)
    fi
    "${inside[@]}" setsid dockerd --data-root "$dir/data" --exec-root "$dir/exec" --pidfile "$dir/docker.pid" --host "$DOCKER_HOST" \
        "${options[@]}" >>"$dir/dockerd.log" 2>&1 </dev/null &
    for _ in $(seq 150); do
        docker info >/dev/null 2>&1 && return
        sleep 0.2
    done
    tail -n 5 "$dir/dockerd.log" >&2
    exit 1
}

case $verb in
start) stop; start ;;
stop) stop; ! ip netns list | grep -qw "$namespace" || ip netns delete "$namespace" ;;
base)
    if [[ -z $(docker images -q protheon-base:bookworm) ]]; then
        debootstrap --variant=minbase --include=python3,python3-venv,ca-certificates bookworm "$dir/base" >&2
        rm -rf "$dir/base/var/cache/apt/archives" "$dir/base/var/lib/apt/lists"
        tar -C "$dir/base" -c . | docker import - protheon-base:bookworm
        rm -rf "$dir/base"
    fi
    ;;
*) echo "engine.sh start|base|stop DIR [isolated]" >&2; exit 2 ;;
esac
