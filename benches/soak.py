"""Ten minutes of jobs on real sockets, and whether the daemon grows meanwhile: memory, descriptors, threads.

    cargo build --release && python3 benches/soak.py target/release/gharts-listener [MINUTES]

Two scale sets, one behind a simulated GHARTS and one registered by GitHub itself; as many jobs of a second wait or run at
any time as `--jobs` says. A line a minute. Standard library only; the simulated world is a process of its own.
"""

import argparse
import json
import os
import pathlib
import subprocess
import tempfile
import time
import urllib.request

from compare import Program, cpu_seconds, free_ports, memory


def ask(control, path, body=None):
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(control + path, data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=30) as response:
        return json.load(response)


def main():
    parser = argparse.ArgumentParser(prog="benches/soak.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("daemon", help="the program; its `sim` is the world")
    parser.add_argument("minutes", nargs="?", type=float, default=10.0)
    parser.add_argument("--jobs", type=int, default=40, help="jobs in flight in each set (default 40)")
    parser.add_argument("--provisioner", default="gharts", choices=("gharts", "scaleSet"))
    args = parser.parse_args()

    dir = pathlib.Path(tempfile.mkdtemp(prefix="gharts-listener-soak-"))
    sim = ["sim", "--dir", dir, "--scale-sets", "2", "--max-runners", "60", "--port-base", str(free_ports()), "--provisioner", args.provisioner]
    sim = Program("sim", [args.daemon, *sim, "--start-delay", "0", "--exit-delay", "0"], dir / "sim.log")
    run = None
    try:
        while not (dir / "config.yaml").exists():
            sim.check()
            time.sleep(0.1)
        told = json.loads((dir / "sim.json").read_text())
        run = Program("run", [args.daemon, "run", "--config", dir / "config.yaml"], dir / "run.log")
        pid = run.process.pid
        print("minute  jobs ended  a second  memory MiB  peak MiB  descriptors  threads  processor s")
        began, queued, minute, before = time.monotonic(), 0, 0, 0
        while minute < args.minutes:
            state = ask(told["control"], "/state")
            ended = state["jobs"].get("finished", 0)
            lacking = 2 * args.jobs - (queued - ended)
            if lacking >= 2:
                for name in told["scaleSets"]:
                    body = {"scaleSet": name, "count": lacking // 2, "durationSeconds": 1}
                    ask(told["control"], "/jobs", body)
                    queued += lacking // 2
            if time.monotonic() - began >= 60 * (minute + 1):
                minute += 1
                descriptors = len(os.listdir(f"/proc/{pid}/fd"))
                threads = len(os.listdir(f"/proc/{pid}/task"))
                print(
                    f"{minute:6}  {ended:10}  {(ended - before) / 60:8.1f}  {memory(pid, 'VmRSS'):10.1f}  {memory(pid, 'VmHWM'):8.1f}  "
                    f"{descriptors:11}  {threads:7}  {cpu_seconds(pid):11.1f}",
                    flush=True,
                )
                before = ended
            run.check()
            time.sleep(0.2)
        state = ask(told["control"], "/state")
        if state["limitExceeded"]:
            raise SystemExit(f"limits exceeded: {state['limitExceeded']}")
    finally:
        if run:
            run.stop()
        sim.stop()
        subprocess.run(["rm", "-rf", dir], check=False)


main()
