"""The locked room in which a student's notebook runs, made by bubblewrap.

The room has its own processes, no network, an empty home that vanishes, and Python and the course
to read only. Solutions, hidden tests and other submissions are not in it. What a namespace does not
cover, `seccomp.py` refuses.
"""

import ctypes
import functools
import glob
import os
import platform
import resource
import shutil
import signal
import site
import subprocess
import sys
from pathlib import Path

from ..errors import InputError
from ..paths import data_folder
from . import seccomp

HOME = "/home/student"
OF_PYTHON = ("bin", "lib", "lib64", "share")  # below the folder of a Python
SCRATCH = (HOME, "/tmp", "/dev/shm")  # the folders that can be written; they are memory
MAX_SCRATCH_BYTES = 512 * 2**20  # in each of them
MAX_OPEN_FILES = 256  # of a process; each may hold memory of the system
# One byte: the kernel then writes no core, and hands none to a program, which 0 would allow.
CORE_BYTES = 1
JOIN_KEYRING = {"x86_64": (250, 1), "aarch64": (219, 1)}  # keyctl(JOIN_SESSION_KEYRING)
DIE_WITH_PARENT = 1  # prctl(PR_SET_PDEATHSIG)
ADVICE = "grade in a machine of its own, or add --unsandboxed to run the students' code unprotected"


def room_options(hide=(), filter_file=None):
    """The options of bubblewrap that make the room.

    `hide` are folders to keep out of it, `filter_file` the descriptor of the filter of calls.
    """
    shown = visible_folders()
    options = ["--unshare-all", "--unshare-user", "--uid", "1000", "--gid", "1000"]
    options += ["--cap-drop", "ALL", "--disable-userns", "--die-with-parent", "--new-session"]
    options += ["--hostname", "room", "--proc", "/proc", "--dev", "/dev"]
    for folder in SCRATCH:
        options += ["--size", str(MAX_SCRATCH_BYTES), "--tmpfs", folder]
    options += system_mounts()
    for path in shown:
        options += ["--ro-bind", path, path]
    options += cache_mounts()
    for path in map(str, hide):
        if any(Path(path).is_relative_to(above) for above in ("/usr", *shown)):
            options += ["--tmpfs", path, "--remount-ro", path]
    for path in ("/", "/dev", "/proc"):
        options += ["--remount-ro", path]
    if filter_file is not None:
        options += ["--seccomp", str(filter_file)]
    return [*options, "--chdir", HOME]


def system_mounts():
    """Options that show the system's programs and libraries."""
    options = ["--ro-bind", "/usr", "/usr"]
    for name in ("/bin", "/sbin", "/lib", "/lib32", "/lib64"):
        if os.path.islink(name):
            options += ["--symlink", os.readlink(name), name]
        else:
            options += ["--ro-bind-try", name, name]
    for name in ("ld.so.cache", "alternatives", "fonts", "localtime"):  # no passwords, no keys
        options += ["--ro-bind-try", f"/etc/{name}", f"/etc/{name}"]
    return options


def cache_mounts():
    """Options that show matplotlib's list of fonts, which takes seconds to make, and weights."""
    caches = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    options = []
    for file in glob.glob(f"{caches}/matplotlib/fontlist*.json"):
        options += ["--ro-bind", file, f"{HOME}/.cache/matplotlib/{Path(file).name}"]
    weights = Path(os.environ.get("TORCH_HOME", f"{caches}/torch"), "hub", "checkpoints")
    return [*options, "--ro-bind-try", str(weights), f"{HOME}/.cache/torch/hub/checkpoints"]


def visible_folders():
    """Folders that the code needs to see: Python with its packages, this library, its data."""
    executable = Path(os.path.realpath(sys.executable)).parents[1]
    folders = []
    # Only what Python itself needs: a base folder of conda also holds environments and tokens.
    for prefix in dict.fromkeys((sys.prefix, sys.base_prefix, str(executable))):
        if os.path.exists(f"{prefix}/pyvenv.cfg"):
            folders.append(prefix)  # a virtual environment holds nothing else
            continue
        folders += [f"{prefix}/{name}" for name in OF_PYTHON if os.path.exists(f"{prefix}/{name}")]
    user_packages = site.getusersitepackages()
    if site.ENABLE_USER_SITE and os.path.isdir(user_packages):
        folders.append(user_packages)
    folders += [str(Path(__file__).resolve().parents[1]), str(data_folder())]
    return [folder for folder in dict.fromkeys(folders) if not Path(folder).is_relative_to("/usr")]


def environment(home):
    """The environment variables that the notebook gets, and no others."""
    threads = str(min(2, os.cpu_count() or 1))  # more of them count as more processor time
    settings = {
        "HOME": home,
        "USER": "student",
        "PATH": f"{sys.prefix}/bin:/usr/bin:/bin",
        "LANG": "C.UTF-8",
        "MPLBACKEND": "module://matplotlib_inline.backend_inline",
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", threads),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    if site.ENABLE_USER_SITE:
        settings["PYTHONUSERBASE"] = site.getuserbase()
    if "XCNN_EXPLORER" in os.environ:
        settings["XCNN_EXPLORER"] = os.environ["XCNN_EXPLORER"]
    return settings


def open_room(command, files=(), hide=(), limits=None, output=subprocess.DEVNULL):
    """Start a command in a new room: a `Popen`. `files` are the descriptors that it inherits."""
    code = seccomp.program()
    filter_file = memory_file(code) if code else None
    # In a file, because the notebook can read the command line of its room.
    words = room_options(hide, filter_file)
    options_file = memory_file("\0".join(words).encode())
    own_files = [file for file in (filter_file, options_file) if file is not None]
    try:
        return subprocess.Popen(
            [*scope(limits), shutil.which("bwrap"), "--args", str(options_file), "--", *command],
            env=environment(HOME),
            pass_fds=[*files, *own_files],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            preexec_fn=leave_grader,
        )
    finally:
        for file in own_files:
            os.close(file)


def open_unprotected(command, home, files=()):
    """Start a command without a room, with the rights of the grader: a `Popen`."""
    return subprocess.Popen(
        command,
        cwd=home,
        env=environment(home),
        pass_fds=files,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        preexec_fn=leave_grader,
        start_new_session=True,
    )


def memory_file(content):
    """The descriptor of a file that holds these bytes, and stands in memory only."""
    descriptor = os.memfd_create("filter")
    os.write(descriptor, content)
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor


def leave_grader():
    """Between fork and exec: what the notebook must not inherit goes, and limits are set."""
    set_limit(resource.RLIMIT_CORE, CORE_BYTES)
    set_limit(resource.RLIMIT_NOFILE, MAX_OPEN_FILES)
    for kind in (resource.RLIMIT_AS, resource.RLIMIT_CPU, resource.RLIMIT_FSIZE):
        hard = resource.getrlimit(kind)[1]
        resource.setrlimit(kind, (hard, hard))  # those of the grader's own process are lower
    if sys.platform == "linux" and platform.machine() in JOIN_KEYRING:
        ctypes.CDLL(None).syscall(*JOIN_KEYRING[platform.machine()], None)
    change_process(DIE_WITH_PARENT, signal.SIGKILL)


def change_process(what, value):
    """Call Linux's prctl for this process; without a room, other systems go on without it."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(what, value)


def set_limit(kind, most):
    """Lower a limit of this process for good, as far as it is not lower already."""
    hard = resource.getrlimit(kind)[1]
    if hard != resource.RLIM_INFINITY:
        most = min(most, hard)
    resource.setrlimit(kind, (most, most))


# --- what this machine can do ---


def scope(limits):
    """The beginning of a command line that counts memory and tasks in a cgroup.

    It is empty where the system's systemd makes none for an ordinary user; the watch then counts.
    """
    if limits is None or not has_scopes():
        return []
    settings = f"XDG_RUNTIME_DIR=/run/user/{os.getuid()}"
    bounds = [f"MemoryMax={int(limits.memory * 2**30 * 1.25)}", "MemorySwapMax=0"]
    bounds.append(f"TasksMax={limits.threads}")
    options = [word for bound in bounds for word in ("-p", bound)]
    cleared = [f"{name}={value}" for name, value in environment(HOME).items()]
    command = ["systemd-run", "--user", "--scope", "--quiet", "--collect", *options, "--"]
    return ["env", settings, *command, "env", "-i", *cleared]


@functools.cache
def has_scopes():
    """Does `systemd-run --user --scope` work here?"""
    if not shutil.which("systemd-run") or not os.path.isdir(f"/run/user/{os.getuid()}/systemd"):
        return False
    trial = ["systemd-run", "--user", "--scope", "--quiet", "-p", "MemoryMax=1G", "--", "true"]
    ended = subprocess.run(trial, stdin=subprocess.DEVNULL, capture_output=True)
    return ended.returncode == 0


def check_room():
    """Raise InputError, in one line, if this machine cannot make a room."""
    if os.geteuid() == 0:
        raise InputError(
            "the grader does not run as root, because a room made by root is weaker; "
            "run it as an ordinary user (in a container: "
            "useradd -m grader, then setpriv --reuid grader --regid grader --init-groups)"
        )
    if not shutil.which("bwrap"):
        raise InputError(
            f"bubblewrap is not installed (apt install bubblewrap); install it, {ADVICE}"
        )
    trial = open_room([sys.executable, "-c", "import IPython"], output=subprocess.PIPE)
    messages = trial.communicate()[1].decode(errors="replace").strip().splitlines()
    if trial.returncode:
        reason = (messages or [f"exit code {trial.returncode}"])[-1]
        raise InputError(
            f"bubblewrap 0.8 or newer is needed and does not work here ({reason}); "
            f"repair it, {ADVICE}"
        )
