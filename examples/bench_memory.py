"""Memory of a mount that has made many files, and of one that has listed them: called by scripts/bench --memory."""

import os
import shutil
import subprocess
import sys
import tempfile
import time

kmsfs, files = os.path.abspath(sys.argv[1]), int(sys.argv[2])
IN_A_DIRECTORY = 1000
# By then all threads have begun, and as many decisions are remembered as will ever be: not counted for the files.
SETTLED = 20 * IN_A_DIRECTORY
# A page for the header of each file.
BYTES, INODES = 4300, 1.01

top = tempfile.mkdtemp(prefix="kmsfs-memory.")
vault, plain = f"{top}/vault", f"{top}/plain"
os.environ["KMSFS_HOME"] = f"{top}/home"


def run(*args):
    subprocess.run([kmsfs, *args], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def mount():
    """Mounts, and answers the number of the process behind it."""
    run("mount", vault, plain)
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/cmdline", "rb") as arguments:
                if plain.encode() in arguments.read().split(b"\0"):
                    return pid
        except (FileNotFoundError, ProcessLookupError):
            continue
    sys.exit("no process has mounted the volume")


def resident(pid, what):
    """Bytes resident now; a line about them."""
    time.sleep(1)
    with open(f"/proc/{pid}/status") as status:
        sizes = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in status if line.rstrip().endswith(" kB")}
    print(f"{what:44} {sizes['VmRSS'] / 1e6:7.1f} MB resident ({sizes['VmHWM'] / 1e6:.1f} at most;"
          f" {sizes['RssFile'] / 1e6:.1f} are the program)", flush=True)
    return sizes["VmRSS"]


def remembered():
    """Objects of all mounts that the kernel remembers, and so must each mount its own; None if only root may know."""
    try:
        with open("/proc/slabinfo") as slabs:
            return next((int(line.split()[1]) for line in slabs if line.startswith("fuse_inode ")), None)
    except PermissionError:
        return None


def make_room():
    """What is short of memory forgets objects, and so would the mount."""
    subprocess.run(["sync"], check=True)
    try:
        with open("/proc/sys/vm/drop_caches", "w") as caches:
            caches.write("3")
    except PermissionError:
        print("only root can drop the kernel's caches: it may forget some files before all are made", flush=True)


def make(first, last):
    begun = time.monotonic()
    for n in range(first, last):
        below = f"{plain}/directory-{n // IN_A_DIRECTORY}"
        if n % IN_A_DIRECTORY == 0:
            os.mkdir(below)
        os.close(os.open(f"{below}/file-{n:07}.txt", os.O_CREAT | os.O_WRONLY, 0o644))
    return time.monotonic() - begun


def listed():
    found = 0
    for _, _, names in os.walk(plain):
        found += len(names)
    if found != files:
        sys.exit(f"{found} files are listed, {files} were made")


try:
    room = os.statvfs(top)
    if room.f_bavail * room.f_frsize < files * BYTES or 0 < room.f_files and room.f_favail < files * INODES:
        sys.exit(f"{top} has no room for {files} files of 4 KiB; set TMPDIR to a directory that has")
    make_room()
    at_first = remembered()
    os.mkdir(vault)
    run("init", vault)
    pid = mount()
    resident(pid, "mounted, empty")
    make(0, min(SETTLED, files))
    before = resident(pid, f"{min(SETTLED, files)} files were made")
    seconds = make(min(SETTLED, files), files)
    after = resident(pid, f"{files} files were made")
    if files > SETTLED:
        print(f"{(after - before) / (files - SETTLED):.0f} bytes for each more; {(files - SETTLED) / seconds:.0f} made in a second")
    if at_first is not None:
        print(f"{remembered() - at_first} of them, and their directories, the kernel still remembers", flush=True)
    listed()
    resident(pid, "and listed")
    run("umount", plain)
    while os.path.exists(f"/proc/{pid}"):
        time.sleep(0.1)
    pid = mount()
    resident(pid, "mounted anew")
    listed()
    resident(pid, "and listed")
finally:
    subprocess.run([kmsfs, "umount", plain], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    shutil.rmtree(top)
