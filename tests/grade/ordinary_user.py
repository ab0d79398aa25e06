"""Run a command as an ordinary user: the grader refuses root, and CI runs as root."""

import os
import shutil
import sys
from pathlib import Path

from tools import ROOT

USER_ID = "12345"


def as_user(*command):
    """The command line that runs this command as an ordinary user; as it is, if we are one."""
    if os.geteuid() != 0:
        return [*map(str, command)]
    user = ["setpriv", "--reuid", USER_ID, "--regid", USER_ID, "--clear-groups"]
    return [*opened_folders(), *user, *map(str, command)]


def own(folder):
    """Give a folder with all that is in it to the ordinary user; return the folder."""
    if os.geteuid() == 0:
        for path in (folder, *Path(folder).rglob("*")):
            os.chown(path, int(USER_ID), int(USER_ID), follow_symlinks=False)
    return folder


def opened_folders():
    """The beginning of a command line that shows Python and this repository to everybody.

    They may lie below a folder that only root can enter, such as /root. What else lies there stays
    out of sight.
    """
    options = ["bwrap", "--dev-bind", "/", "/"]
    made = set()
    for needed in map(Path, dict.fromkeys((sys.base_prefix, sys.prefix, str(ROOT)))):
        closed = next((top for top in reversed(needed.parents) if is_closed(top)), None)
        if closed is None:
            continue
        if closed not in made:
            options += ["--perms", "0755", "--tmpfs", str(closed)]
            made.add(closed)
        for folder in reversed(needed.parents):
            if folder.is_relative_to(closed) and folder not in made:
                options += ["--perms", "0755", "--dir", str(folder)]
                made.add(folder)
        options += ["--bind", str(needed), str(needed)]
    return options


def is_closed(folder):
    """Can only its owner enter this folder?"""
    return not os.stat(folder).st_mode & 0o001


def can_change_user():
    """Is this an ordinary user, or root with the programs that make one?"""
    return os.geteuid() != 0 or all(map(shutil.which, ("bwrap", "setpriv")))
