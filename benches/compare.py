"""Measures the daemon against the least program that could do it. Started by compare.sh; standard library only.

Times come from the API server's audit log (a pod's POST: when it was received; its end: when the last write of
its status was answered; its removal: when the DELETE was answered) and from the simulated GitHub (when a job was
queued). Every turn has a world of its own: the contestants alternate, so that a noisy machine is noisy for both.
"""

import argparse
import collections
import datetime
import json
import os
import pathlib
import random
import re
import signal
import socket
import ssl
import statistics
import subprocess
import sys
import time
import urllib.error
import urllib.request

WRITES = ("create", "update", "patch", "delete", "deletecollection")
LEAST, DAEMON = "least", "daemon"


def parse_arguments():
    parser = argparse.ArgumentParser(prog="benches/compare.sh", description=__doc__)
    parser.add_argument("--kubeconfig", help=argparse.SUPPRESS)
    parser.add_argument("--audit-log", help=argparse.SUPPRESS)
    parser.add_argument("--dir", type=pathlib.Path, help=argparse.SUPPRESS)
    parser.add_argument("--daemon", help=argparse.SUPPRESS)
    parser.add_argument("--least", help=argparse.SUPPRESS)
    parser.add_argument("--rounds", type=int, default=3, help="turns of each contestant (default 3)")
    parser.add_argument("--single", type=int, default=30, help="jobs queued one at a time in each turn (default 30)")
    parser.add_argument("--burst", type=int, default=300, help="jobs queued at once in each turn (default 300)")
    parser.add_argument("--bursts", type=int, default=2, help="bursts in each turn (default 2)")
    parser.add_argument("--duration", type=float, default=0.0, help="a job's duration in seconds (default 0)")
    parser.add_argument("--memory", default="1,10,100", help="idle scale sets to weigh the daemon with (default 1,10,100)")
    parser.add_argument("--only", choices=(LEAST, DAEMON), help="one contestant, for profiling")
    parser.add_argument("--keep-logs", type=pathlib.Path, help="folder for the programs' output")
    parser.add_argument("--verbose", action="store_true", help="every turn's figures, as they come")
    parser.add_argument("--json", type=pathlib.Path, help="file for every figure of every turn")
    return parser.parse_args()


# ---- Reading ------------------------------------------------------------------------------------------------


def instant(text):
    """Seconds since the epoch, of an RFC 3339 time with up to nine digits of a second."""
    whole, _, fraction = text.rstrip("Z").partition(".")
    base = datetime.datetime.fromisoformat(whole).replace(tzinfo=datetime.timezone.utc).timestamp()
    return base + (float("0." + fraction) if fraction else 0.0)


def quantile(values, q):
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, round(q * (len(ordered) - 1)))] if ordered else float("nan")


def memory(pid, key):
    """MiB, from /proc."""
    text = pathlib.Path(f"/proc/{pid}/status").read_text()
    return int(re.search(rf"^{key}:\s+(\d+) kB", text, re.M).group(1)) / 1024


def cpu_seconds(pid):
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Audit:
    """What happened to runners at the API server, from the audit log, read as it grows."""

    def __init__(self, path):
        self.path = path
        self.file = open(path, encoding="utf-8")
        self.rest = ""
        self.forget()

    def forget(self):
        """Begins anew at the log's end."""
        self.file.seek(0, os.SEEK_END)
        self.rest = ""
        self.created, self.ended, self.removed = {}, {}, {}
        self.kubelet_writes = 0
        self.writes = collections.Counter()
        self.refused = collections.Counter()

    def read(self):
        text = self.rest + self.file.read()
        # At 100 MB the API server puts the log aside and begins another.
        if os.stat(self.path).st_ino != os.fstat(self.file.fileno()).st_ino:
            text += self.file.read()
            self.file.close()
            self.file = open(self.path, encoding="utf-8")
            text += self.file.read()
        lines = text.split("\n")
        self.rest = lines.pop()
        for line in lines:
            # Most lines are reads: decoding them all would take the machine from the contestants.
            if any(f'"verb":"{verb}"' in line for verb in WRITES):
                self.take(json.loads(line))

    def take(self, event):
        ref = event.get("objectRef", {})
        resource, name, verb = ref.get("resource"), ref.get("name"), event["verb"]
        code = event.get("responseStatus", {}).get("code", 0)
        contestant = event["user"]["username"].startswith("system:serviceaccount:")
        if contestant and not resource.startswith("self"):
            place = resource + ("/" + ref["subresource"] if "subresource" in ref else "")
            self.writes[f"{verb} {place}"] += 1
            if code >= 400:
                self.refused[f"{verb} {place} {code}"] += 1
        if resource != "pods" or code >= 400:
            return
        if contestant and verb == "create" and "subresource" not in ref:
            self.created[name] = instant(event["requestReceivedTimestamp"])
        elif ref.get("subresource") == "status":
            self.ended[name] = instant(event["stageTimestamp"])
            self.kubelet_writes += 1
        elif contestant and verb == "delete":
            self.removed.setdefault(name, instant(event["stageTimestamp"]))

    def wait_removed(self, jobs, deadline, step, program):
        """Until as many pods have been made and removed as there were jobs, and none is left."""
        until = time.monotonic() + deadline
        while True:
            self.read()
            if len(self.removed) >= jobs and self.removed.keys() >= self.created.keys():
                return
            program.check()
            if time.monotonic() > until:
                sys.exit(
                    f"{jobs} jobs, but {len(self.created)} pods made and {len(self.removed)} removed "
                    f"after {deadline} s; refused: {dict(self.refused)}"
                )
            time.sleep(step)


class Cluster:
    """The administrator's few calls."""

    def __init__(self, kubeconfig):
        text = pathlib.Path(kubeconfig).read_text()
        self.server = re.search(r'server: "?([^",}\s]+)', text).group(1)
        self.token = re.search(r"token: ([^,}\s]+)", text).group(1)
        self.context = ssl._create_unverified_context()  # the loopback, and a server that this script started

    def call(self, method, path, body=None):
        data = None if body is None else json.dumps(body).encode()
        headers = {"Authorization": f"Bearer {self.token}", "Content-Type": "application/json"}
        request = urllib.request.Request(self.server + path, data, headers, method=method)
        with urllib.request.urlopen(request, context=self.context, timeout=30) as response:
            return json.load(response)

    def permit_secret_deletion(self, namespace):
        """What the least program needs beyond the daemon's own rights: it leaves nothing to the owner's end."""
        base = f"/apis/rbac.authorization.k8s.io/v1/namespaces/{namespace}"
        meta = {"name": "least"}
        rules = [{"apiGroups": [""], "resources": ["secrets"], "verbs": ["delete"]}]
        group = {"kind": "Group", "name": "system:serviceaccounts", "apiGroup": "rbac.authorization.k8s.io"}
        role = {"kind": "Role", "name": "least", "apiGroup": "rbac.authorization.k8s.io"}
        for kind, body in (
            ("roles", {"metadata": meta, "rules": rules}),
            ("rolebindings", {"metadata": meta, "subjects": [group], "roleRef": role}),
        ):
            try:
                self.call("POST", f"{base}/{kind}", body)
            except urllib.error.HTTPError as error:
                if error.code != 409:
                    raise

    def wait_empty(self, namespace):
        for kind in ("pods", "secrets"):
            for _ in range(900):
                path = f"/api/v1/namespaces/{namespace}/{kind}?labelSelector=app.kubernetes.io/managed-by%3Dgharts-listener"
                if not self.call("GET", path)["items"]:
                    break
                time.sleep(0.2)
            else:
                sys.exit(f"{kind} were left behind")


# ---- The programs -------------------------------------------------------------------------------------------


class Program:
    """A program under way; its output goes to a file."""

    def __init__(self, name, arguments, log):
        self.name, self.log = name, log
        with open(log, "wb") as out:
            self.process = subprocess.Popen(arguments, stdout=out, stderr=subprocess.STDOUT)

    def check(self):
        if self.process.poll() is not None:
            sys.exit(f"{self.name} ended with {self.process.returncode}:\n{self.log.read_text()[-3000:]}")

    def stop(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()


def free_ports():
    """The first of three ports in a row on which nobody listens."""
    while True:
        first = random.randrange(20000, 32000)
        try:
            for port in range(first, first + 3):
                with socket.create_server(("127.0.0.1", port)):
                    pass
            return first
        except OSError:
            continue


class World:
    """The simulated world of one turn."""

    def __init__(self, args, dir, sets=1):
        dir.mkdir(parents=True)
        self.dir, self.logs = dir, args.keep_logs or dir
        self.logs.mkdir(parents=True, exist_ok=True)
        port = free_ports()
        self.program = Program(
            "sim",
            [args.daemon, "sim", "--dir", dir, "--kubeconfig", args.kubeconfig, "--provisioner", "scaleSet"]
            + ["--max-runners", "1000", "--scale-sets", str(sets), "--port-base", str(port), "--start-delay", "0", "--exit-delay", "0"],
            self.logs / f"{dir.name}-sim.log",
        )
        for _ in range(300):
            self.program.check()
            if (dir / "sim.json").exists() and (dir / "config.yaml").exists():
                break
            time.sleep(0.1)
        told = json.loads((dir / "sim.json").read_text())
        self.namespace, self.sets, self.control = told["namespace"], told["scaleSets"], told["control"]

    def call(self, path, body=None):
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.control + path, data, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=30) as response:
            return json.load(response)

    def queue(self, count, duration):
        """The id of the first one."""
        body = {"scaleSet": self.sets[0], "count": count, "durationSeconds": duration, "exitCode": 0}
        return self.call("/jobs", body)["jobs"][0]["id"]

    def queued_at(self, job):
        """By the simulated GitHub's clock, which is this machine's."""
        return instant(self.call(f"/jobs/{job}")["queued"])

    def stop(self):
        self.program.stop()


def contestant(args, name, world):
    config = str(world.dir / "config.yaml")
    command = [args.least, config] if name == LEAST else [args.daemon, "run", "--config", config]
    return Program(name, command, world.logs / f"{world.dir.name}-{name}.log")


# ---- Measuring ----------------------------------------------------------------------------------------------


def turn(args, audit, cluster, name, number):
    """One contestant in a world of its own: figures by name."""
    world = World(args, args.dir / f"turn-{number}")
    cluster.permit_secret_deletion(world.namespace)
    program = contestant(args, name, world)
    try:
        figures = collections.defaultdict(list)
        audit.forget()
        # Sessions are opened and connections made before anything is timed.
        for _ in range(3):
            lone_job(args, audit, world, program, collections.defaultdict(list))
        for _ in range(args.single):
            lone_job(args, audit, world, program, figures)
        for _ in range(args.bursts):
            # The collector of garbage is slow: its work for the burst before belongs to none of the figures.
            cluster.wait_empty(world.namespace)
            burst(args, audit, world, program, figures)
        figures["peak memory, MiB"].append(memory(program.process.pid, "VmHWM"))
    finally:
        program.stop()
        cluster.wait_empty(world.namespace)
        world.stop()
    return figures


def lone_job(args, audit, world, program, figures):
    audit.forget()
    job = world.queue(1, args.duration)
    audit.wait_removed(1, 60, 0.005, program)
    queued = world.queued_at(job)
    [(pod, created)] = audit.created.items()
    figures["alone: queued to POST, ms"].append((created - queued) * 1000)
    figures["alone: end to removal, ms"].append((audit.removed[pod] - audit.ended[pod]) * 1000)
    time.sleep(0.05)


def burst(args, audit, world, program, figures):
    time.sleep(2)
    audit.forget()
    cpu = cpu_seconds(program.process.pid)
    job = world.queue(args.burst, args.duration)
    audit.wait_removed(args.burst, 180, 0.1, program)
    # What comes late is counted as well.
    time.sleep(2)
    audit.wait_removed(args.burst, 60, 0.1, program)
    cpu = cpu_seconds(program.process.pid) - cpu
    queued = world.queued_at(job)
    posts = [at - queued for at in audit.created.values()]
    ends = [audit.ended[pod] - queued for pod in audit.removed if pod in audit.ended]
    removals = [at - audit.ended[pod] for pod, at in audit.removed.items() if pod in audit.ended]
    figures["burst: runners/s to the last POST"].append(args.burst / max(posts))
    figures["burst: jobs/s to the last end"].append(args.burst / max(ends))
    figures["burst: jobs/s to the last removal"].append(args.burst / (max(audit.removed.values()) - queued))
    figures["burst: queued to POST p50, ms"].append(quantile(posts, 0.5) * 1000)
    figures["burst: queued to POST p99, ms"].append(quantile(posts, 0.99) * 1000)
    figures["burst: end to removal p50, ms"].append(quantile(removals, 0.5) * 1000)
    figures["burst: end to removal p99, ms"].append(quantile(removals, 0.99) * 1000)
    figures["burst: surplus pods"].append(len(posts) - args.burst)
    figures["burst: writes per job"].append(sum(audit.writes.values()) / args.burst)
    # Two are the least: running, ended. A third one says that the Secret was late.
    figures["burst: kubelet's status writes per job"].append(audit.kubelet_writes / args.burst)
    figures["burst: processor time per job, ms"].append(cpu / args.burst * 1000)
    for write, count in audit.writes.items():
        figures[f"  {write}"].append(count / args.burst)


def idle_memory(args, cluster, sets, number):
    """MiB of the daemon with so many idle scale sets, half a minute after its start."""
    world = World(args, args.dir / f"idle-{number}", sets)
    program = contestant(args, DAEMON, world)
    try:
        time.sleep(30)
        program.check()
        return memory(program.process.pid, "VmRSS")
    finally:
        program.stop()
        world.stop()


# ---- Telling ------------------------------------------------------------------------------------------------

# A figure's goal, as a ratio of the daemon's to the least program's.
GOALS = {
    "burst: runners/s to the last POST": ("at least", 0.9),
    "burst: jobs/s to the last end": ("at least", 0.9),
    "burst: jobs/s to the last removal": ("at least", 0.9),
    "alone: queued to POST, ms": ("at most", 1.2),
    "alone: end to removal, ms": ("at most", 1.2),
    "burst: queued to POST p50, ms": ("at most", 1.2),
    "burst: queued to POST p99, ms": ("at most", 1.2),
    "burst: end to removal p50, ms": ("at most", 1.2),
    "burst: end to removal p99, ms": ("at most", 1.2),
}


def machine():
    info = pathlib.Path("/proc/cpuinfo").read_text()
    model = re.search(r"^model name\s*: (.*)$", info, re.M)
    total = int(re.search(r"MemTotal:\s+(\d+)", pathlib.Path("/proc/meminfo").read_text()).group(1)) / 1024**2
    load = os.getloadavg()[0]
    return f"{os.cpu_count()} x {model.group(1) if model else '?'}, {total:.0f} GiB, load {load:.1f} at the end"


def number(value):
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def show(figures):
    """Medians over all turns, their range, and the ratio."""
    names = list(dict.fromkeys(name for by in figures.values() for name in by))
    head = ["", *figures, "ratio", "goal"]
    rows = []
    for name in names:
        cells = []
        for by in figures.values():
            values = by.get(name, [])
            cell = number(statistics.median(values)) if values else "-"
            if len(values) > 1 and min(values) != max(values):
                cell += f" ({number(min(values))}..{number(max(values))})"
            cells.append(cell)
        ratio = goal = ""
        if all(by.get(name) for by in figures.values()) and len(figures) == 2 and not name.startswith(" "):
            least, daemon = (statistics.median(by[name]) for by in figures.values())
            if least:
                ratio = f"{daemon / least:.2f}"
            if name in GOALS and least:
                word, bound = GOALS[name]
                met = daemon / least >= bound if word == "at least" else daemon / least <= bound
                goal = f"{word} {bound}{'' if met else '  MISSED'}"
        rows.append([name, *cells, ratio, goal])
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    for row in [head, *rows]:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip())


def main():
    args = parse_arguments()
    audit, cluster = Audit(args.audit_log), Cluster(args.kubeconfig)
    names = [args.only] if args.only else [LEAST, DAEMON]
    figures = {name: collections.defaultdict(list) for name in names}
    count = 0
    for round in range(args.rounds):
        for name in names if round % 2 == 0 else reversed(names):
            count += 1
            print(f"round {round + 1}: {name}", file=sys.stderr, flush=True)
            for key, values in turn(args, audit, cluster, name, count).items():
                figures[name][key] += values
                if args.verbose:
                    print(f"  {key}: {', '.join(map(number, values))}", file=sys.stderr, flush=True)
    idle = {}
    for place, sets in enumerate(n for n in args.memory.split(",") if n.strip()):
        print(f"memory of the daemon with {sets} idle scale sets", file=sys.stderr, flush=True)
        idle[sets] = idle_memory(args, cluster, int(sets), place)
    print(f"{machine()}; {args.rounds} rounds, medians (and ranges)")
    show(figures)
    for sets, mib in idle.items():
        print(f"daemon, {sets} idle scale sets: {mib:.1f} MiB resident")
    if args.json:
        args.json.write_text(json.dumps({"figures": figures, "idle": idle}, indent=1))


if __name__ == "__main__":
    main()
