"""Runs the command given and prints JSON: its output, exit status, seconds and peak memory in bytes.

This is a separate process because the peak that the system reports for a child includes the memory of the
process that it was forked from. This one is small.
"""

import json
import os
import subprocess
import sys
from time import perf_counter


def main() -> None:
    start = perf_counter()
    process = subprocess.Popen(sys.argv[1:], stdout=subprocess.PIPE, text=True)
    output = process.stdout.read()
    # Unlike `Popen.wait`, this returns the resources used by this child.
    _, status, usage = os.wait4(process.pid, 0)
    seconds = perf_counter() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    found = {"output": output, "status": process.returncode, "seconds": seconds}
    print(json.dumps(found | {"peak_memory": usage.ru_maxrss * 1024}))


if __name__ == "__main__":
    main()
