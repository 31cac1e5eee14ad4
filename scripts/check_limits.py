"""Checks that a ranking keeps to its memory: to `--memory`, and to the limit of a control group.

    python3 scripts/check_limits.py target/release/gradalign MODEL... [--limit MIB] [--samples N]

Each is run in worker processes and without. With `--memory`, the memory that the command and its workers
hold together is read every few milliseconds. With a control group (Linux, as root), the kernel says
whether it had to kill anything. Every model must have its scores. Needs only Python.
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time

MIB = 1 << 20


def held(process):
    """What `process` and all below it hold, each shared page counted once, in bytes."""
    total, left = 0, [process]
    while left:
        pid = left.pop()
        try:
            rollup = pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text()
            for task in pathlib.Path(f"/proc/{pid}/task").iterdir():
                left += [int(child) for child in (task / "children").read_text().split()]
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue
        sizes = (line.split() for line in rollup.splitlines() if line.startswith("Pss:"))
        total += sum(int(size[1]) << 10 for size in sizes)
    return total


class Group:
    """A control group with a limit of its own."""

    def __init__(self, limit):
        first = pathlib.Path("/sys/fs/cgroup/memory")
        self.is_first = (first / "memory.limit_in_bytes").exists()
        root = first if self.is_first else pathlib.Path("/sys/fs/cgroup")
        self.folder = root / f"gradalign-check-{os.getpid()}"
        self.folder.mkdir()
        files = ["memory.limit_in_bytes", "memory.memsw.limit_in_bytes"]
        if not self.is_first:
            files = ["memory.max", "memory.swap.max"]
        for file, value in zip(files, [limit, limit if self.is_first else 0]):
            if (self.folder / file).exists():
                (self.folder / file).write_text(str(value))

    def enter(self):
        (self.folder / "cgroup.procs").write_text(str(os.getpid()))

    def killed(self):
        file = "memory.oom_control" if self.is_first else "memory.events"
        entries = dict(line.split() for line in (self.folder / file).read_text().splitlines())
        return int(entries.get("oom_kill", 0))

    def peak(self):
        file = "memory.max_usage_in_bytes" if self.is_first else "memory.peak"
        return int((self.folder / file).read_text()) if (self.folder / file).exists() else 0

    def remove(self):
        for _ in range(50):
            try:
                return self.folder.rmdir()
            except OSError:
                time.sleep(0.1)


def rank(options, arguments, group=None):
    """The models of a run, the most that its processes held, and the seconds that it took."""
    command = [options.program, "rank", *options.models, "--data", "synthetic", "--no-store"]
    command += ["--samples", str(options.samples), "--metric", options.metric, *arguments]
    start, peak = time.time(), 0
    with tempfile.TemporaryFile() as out:
        enter = group.enter if group else None
        run = subprocess.Popen([*command, "--format", "json"], stdout=out, preexec_fn=enter)
        while run.poll() is None:
            peak = max(peak, held(run.pid))
            time.sleep(0.005)
        out.seek(0)
        text = out.read()
    models = json.loads(text)["models"] if text else []
    return models, peak, time.time() - start


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("program")
    parser.add_argument("models", nargs="+")
    parser.add_argument("--limit", type=int, default=1024)
    parser.add_argument("--samples", type=int, default=64)
    parser.add_argument("--metric", default="gradalign-1,gradalign-2,naswot")
    options = parser.parse_args()
    good = True

    def tell(what, models, peak, seconds, more=""):
        nonlocal good
        failed = [f"{m['name']}: {m['error']['message']}" for m in models if m["error"]]
        missing = [m["name"] for m in models if any(s["value"] is None for s in m["scores"].values())]
        fits = peak <= options.limit * MIB
        good &= bool(models) and not failed and not missing and fits
        print(f"{what:32} {len(models) - len(failed)}/{len(models)} scored, {len(missing)} with gaps, "
              f"{peak / MIB:7.0f} of {options.limit} MiB, {seconds:5.1f} s{more}", flush=True)
        for reason in failed:
            print(f"    {reason}")

    for isolate in ["--isolate", "--no-isolate"]:
        tell(f"--memory {isolate}", *rank(options, [isolate, "--memory", f"{options.limit}MiB"]))
    for isolate in ["--isolate", "--no-isolate"]:
        try:
            group = Group(options.limit * MIB)
        except OSError as error:
            print(f"control group: NOT checked, none can be made here ({error})")
            break
        models, _, seconds = rank(options, [isolate], group)
        killed = group.killed()
        good &= killed == 0
        tell(f"control group {isolate}", models, group.peak(), seconds, f", {killed} killed")
        group.remove()
    sys.exit(not good)


if __name__ == "__main__":
    main()
