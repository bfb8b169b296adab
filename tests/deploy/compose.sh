#!/usr/bin/env bash
# The proof that compose.yaml works: with the engine that is here, or, with ENGINE_DIR=, with one of its own in that directory and without
# an image registry (engine.sh says what that needs): `ENGINE_DIR=/var/tmp/engine make compose-test`.
# CA_FILE=, of a proxy that signs for package registries, is given to the builds.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
proof=(.venv/bin/python tests/deploy/compose_proof.py)

if [[ -z ${ENGINE_DIR:-} ]]; then
    "${proof[@]}" build
    exec "${proof[@]}" run
fi

engine=tests/deploy/engine.sh
mkdir -p "$ENGINE_DIR"
ENGINE_DIR=$(realpath "$ENGINE_DIR")
export DOCKER_HOST=unix://$ENGINE_DIR/docker.sock PATH=/usr/bin:$PATH
trap '"$engine" stop "$ENGINE_DIR"; rm -f deploy/proof-ca.pem' EXIT
"$engine" start "$ENGINE_DIR"
"$engine" base "$ENGINE_DIR"
export PROTHEON_BASE_IMAGE=protheon-base:bookworm PROTHEON_BUILD_NETWORK=host PROOF_POSTGRES=stand-in
if [[ -n ${CA_FILE:-} ]]; then
    install -m 0644 "$CA_FILE" deploy/proof-ca.pem
    export PROTHEON_BUILD_CA_FILE=deploy/proof-ca.pem PROTHEON_BUILD_PIP_CERT=/tmp/ca.pem
fi
"${proof[@]}" build
"$engine" start "$ENGINE_DIR" isolated
PROOF_INSIDE="nsenter --net=/run/netns/protheon-engine" "${proof[@]}" run
