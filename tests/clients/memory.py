"""Loads a server for minutes and compares its resident memory at the end with that after the first minute.

    memory.py URL PID MINUTES

Runs load.py beside it again and again; fails if the memory has grown by more than a tenth, or if an answer was no success.
"""

import os
import subprocess
import sys
import time

url, pid, minutes = sys.argv[1], sys.argv[2], int(sys.argv[3])
load = os.path.join(os.path.dirname(os.path.abspath(__file__)), "load.py")
begun, first, last = time.monotonic(), None, 0
while time.monotonic() - begun < 60 * minutes:
    # 18 seconds; the same connections each time, so that each compares with the first.
    args = [sys.executable, load, "kmsfs", url, pid, "3", "Encrypt,Decrypt,GenerateDataKey", "256,16"]
    rows = subprocess.run(args, check=True, capture_output=True, text=True).stdout.splitlines()
    *_, failed, last = rows[-1].split("\t")
    if any(row.split("\t")[-2] != "0" for row in rows):
        sys.exit(f"memory.py: answers that were no success: {rows}")
    last = int(last)
    passed = time.monotonic() - begun
    if first is None and passed >= 60:
        first = last
    print(f"{passed:4.0f} s  {last} KiB", flush=True)
if first is None:
    sys.exit("memory.py: less than a minute was measured")
grown = last / first - 1
print(f"resident memory: {first} KiB after the first minute, {last} KiB at the end ({grown:+.1%})")
if grown > 0.1:
    sys.exit("memory.py: it grew by more than 10 %")
