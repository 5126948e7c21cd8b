#!/usr/bin/env bash
# Memory of an idle daemon with 1, 10 and 100 scale sets, half a minute after its start:
#
#   cargo build --locked --profile dist --no-default-features --bin gharts-listener
#   SIM=target/debug/gharts-listener benches/idle.sh target/dist/gharts-listener
#
# SIM plays the world outside; without it the program itself does, if it can.
set -euo pipefail

(($# == 1)) || { echo "usage: [SIM=PROGRAM] $0 PROGRAM" >&2; exit 64; }
program=$1 sim=${SIM:-$1}
dir=$(mktemp -d)
pids=()
end() {
    for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null && wait "$pid" || true; done
    pids=()
}
trap 'end; rm -rf "$dir"' EXIT

port=28080
for sets in 1 10 100; do
    world=$dir/$sets port=$((port + 10))
    mkdir "$world"
    "$sim" sim --dir "$world" --scale-sets "$sets" --provisioner scaleSet --port-base "$port" >"$world/sim.log" 2>&1 &
    pids=($!)
    until [[ -e $world/sim.json ]]; do
        kill -0 "${pids[0]}" || { cat "$world/sim.log" >&2; exit 1; }
        sleep 0.2
    done
    "$program" run --config "$world/config.yaml" >"$world/run.log" 2>&1 &
    pids=($! "${pids[@]}")
    sleep 30
    kill -0 "${pids[0]}" || { cat "$world/run.log" >&2; exit 1; }
    awk -v sets="$sets" '/^VmRSS/ { rss = $2 } /^VmHWM/ { most = $2 }
        END { printf "%3d idle scale sets: %.1f MiB resident, %.1f MiB at most\n", sets, rss / 1024, most / 1024 }' "/proc/${pids[0]}/status"
    grep -c 'session' "$world/run.log" >/dev/null || { echo "no session was opened" >&2; exit 1; }
    end
done
