"""Under umask 0, no file or directory of ours may be written by other accounts."""

import os
import shutil
import subprocess
import sys

from tests import processes
from tests.checkout import ROOT

PROGRAM = """
import logging, os, sys, tempfile
import mitogen.core, mitogen.master, mitogen.profiler, mitogen.unix
from mitogen import fakessh, files
from mitogen.ansible.broker.client import make_private_directories

def find(directory):
    # A directory is left out if nothing can be entered from outside.
    with os.scandir(directory) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            mode = entry.stat(follow_symlinks=False).st_mode
            if mode & 0o022 and not entry.is_symlink() and entry.name != "__pycache__":
                yield "%o %s" % (mode, entry.path)
            if entry.is_dir(follow_symlinks=False):
                yield from find(entry.path)

here = sys.argv[1]
mitogen.core.PidfulStreamHandler.template = here + "/%s.%s.log"
handler = mitogen.core.PidfulStreamHandler()
handler.emit(logging.makeLogRecord({"msg": "text"}))
make_private_directories(here + "/a/b/c")
with mitogen.master.Router() as router:
    collector = mitogen.profiler.Collector(router)
    mitogen.unix.Listener.build_stream(router, here + "/socket")
    mitogen.unix.Listener.build_stream(router)
    context = router.local()
    files.put(context, here + "/source", here + "/tree")
    with open(here + "/source/file") as fp:
        files.put(context, fp.buffer, here + "/one", mode=0o600)
    for line in find(here):
        print(line)
    collector.finish()
    print(*find(here + "/profiles"))
    print(sorted(os.listdir(here)))
"""


def test_others_may_write_nothing(tmp_path):
    shutil.copytree(
        ROOT / "mitogen",
        tmp_path / "lib" / "mitogen",
        ignore=shutil.ignore_patterns("__pycache__", "*.shrunk"),
    )
    for name in ("here", "here/source", "here/tmp"):
        (tmp_path / name).mkdir(mode=0o700)
    here = tmp_path / "here"
    (here / "source" / "file").touch(mode=0o600)
    keep = processes.RUN_VARIABLE
    env = {"PATH": os.environ["PATH"], "HOME": str(here), "TMPDIR": str(here / "tmp")}
    env.update({"PYTHONPATH": str(tmp_path / "lib"), keep: os.environ[keep]})
    env["MITOGEN_PROFILING"] = str(here / "profiles")
    done = subprocess.run(
        ["sh", "-c", 'umask 0; exec "$@"', "sh", sys.executable, "-c", PROGRAM, str(here)],
        env=env,
        cwd=str(here),
        stdout=subprocess.PIPE,
        text=True,
        timeout=60,
        check=True,
    )
    *found, made = done.stdout.splitlines()
    assert found == [""], found
    assert {"a", "tree", "one", "profiles"} < {*eval(made)}
    (kept,) = (tmp_path / "lib" / "mitogen" / "__pycache__").glob("core.shrunk*")
    source = ROOT / "mitogen" / "core" / "__init__.py"
    assert kept.stat().st_mode & 0o777 == source.stat().st_mode & 0o644
