"""
Agent of one account: runs scripts in a warm interpreter (warm.py) that the controller would
otherwise pipe into a new Python. programs.start() calls it, and treats scripts like programs.

Rules
    1. A script is sent in parts. A part that was sent before is represented by its digest only.
    2. Some settings can't be changed in a running zygote (the locale, variables read by the
       interpreter itself), and some interpreters can't be zygotes. In these cases the script runs
       like any program: slower, with the same result.

Threads: start_script() on its call's thread.
"""

from __future__ import annotations

import binascii
import os
import shlex
import signal

from mitogen.ansible.agent import warm
from mitogen.bootstrap.spawn import own_environment
from mitogen.programs import server
from mitogen.programs.endpoints import PolledReader, PolledWriter
from mitogen.programs.server import Refused

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from mitogen.core import Router

__all__ = ["MISSING", "start_script", "surroundings", "unpack"]

#: Maximum bytes of cached parts.
KEPT_BYTES = 134217728
#: Start of the message of a refusal because a part is named by its digest and not cached here.
MISSING = "parts of the script are not here"
#: Prefixes of variables that an interpreter reads before a script could change them.
EARLY = ("LANG", "LANGUAGE", "LC_", "PYTHON", "LD_", "MALLOC_", "GLIBC_", "DYLD_")
#: Login shells that set `_` to the path of the program; with Ansible, that of the shell it runs.
NAMES_PROGRAM = ("bash", "ksh", "zsh")
#: Signals sent to an abandoned script. In a Python the first raises an exception, so that it
#: removes its temporary files.
END_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGKILL)


class _Parts:
    """Cache of parts received, by digest."""

    def __init__(self, _router: Router) -> None:
        self.kept: dict[bytes, bytes] = {}
        self.size = 0

    def join(self, parts: list[Any]) -> bytes:
        """
        Return a script, assembled from its parts.

        :param list parts: pairs of digest and packed part (scripts.pack()); None for a cached part
        :raises Refused: a part is not cached
        """
        found = []
        for digest, sent in parts:
            if sent is None and digest not in self.kept:
                raise Refused(MISSING)
            data = self.kept[digest] if sent is None else unpack(sent)
            found.append(data)
            if digest not in self.kept:
                if self.size + len(data) > KEPT_BYTES:
                    self.kept.clear()
                    self.size = 0
                self.kept[digest] = data
                self.size += len(data)
        return b"".join(found)


def unpack(sent: Any) -> bytes:
    """Return the part of a script that scripts.pack() has packed."""
    if isinstance(sent, bytes):
        return sent
    before, raw, after = sent
    return bytes(before + binascii.b2a_base64(raw, newline=False) + after)


def _parts(router: Router) -> _Parts:
    return router.component(_Parts)


def _is_early(name: str) -> bool:
    return name.startswith(EARLY)


def surroundings() -> list[Any]:
    """Return this context's working directory and environment."""
    env = own_environment()
    env.setdefault("HOME", server.home())
    return [os.getcwd(), env]


def start_script(router: Router, spec: dict[str, Any]) -> Any:
    """
    Start a script, for programs.start(): `args` is [interpreter, parts, added environment, cwd].

    :raises Refused: MISSING
    :raises OSError: the interpreter does not exist
    """
    interpreter, parts, added = spec["args"]
    script = _parts(router).join(parts)
    env = server.environment(dict(spec, add_env=added))
    if spec.get("env") is None and os.path.basename(server.login_shell()) in NAMES_PROGRAM:
        env.setdefault("_", "/bin/sh")
    # As every shell does.
    env.setdefault("PWD", spec.get("cwd") or server.home())
    own = own_environment()
    plain = any(own.get(n) != env.get(n) for n in {*env, *own} if _is_early(n))
    started = None
    if not plain:
        started = _start_warm(router, interpreter, script, env, spec)
    started = started or _start_plain(router, interpreter, script, env, spec)
    # Also used while the context itself ends: an exception takes that long.
    started.end_signals, started.short_pause = END_SIGNALS, server.CUSTOM_GRACE_PAUSE
    return started


def _start_warm(
    router: Router,
    interpreter: str,
    script: bytes,
    env: dict[str, str],
    spec: dict[str, Any],
) -> Any:
    zygote = warm.zygote_of(router, interpreter)
    if zygote is None:
        return None
    cwd = spec.get("cwd") or server.home()
    stdin = os.open("/dev/null", os.O_RDONLY)
    out_r, out_w = os.pipe()
    err_r, err_w = os.pipe()
    try:
        child = zygote.run(script, env, cwd, [stdin, out_w, err_w])
    except (OSError, ValueError):
        # The zygote is gone, and the script has not started: the caller runs it without one.
        os.close(out_r)
        os.close(err_r)
        return None
    finally:
        for fd in (stdin, out_w, err_w):
            os.close(fd)
    for fd in (out_r, err_r):
        os.set_blocking(fd, False)
    broker = router.broker
    null = PolledWriter(broker, os.open("/dev/null", os.O_WRONLY | os.O_NONBLOCK))
    return server.Started(null, PolledReader(broker, out_r), PolledReader(broker, err_r), child)


def _start_plain(
    router: Router,
    interpreter: str,
    script: bytes,
    env: dict[str, str],
    spec: dict[str, Any],
) -> Any:
    import tempfile

    with tempfile.TemporaryFile() as fp:
        fp.write(script)
        fp.seek(0)
        # Below a shell, as Ansible does: the script leads neither a session nor a group.
        words = ["/bin/sh", "-c", shlex.quote(interpreter)]
        plain = dict(spec, kind="argv", args=words, env=env, add_env=None)
        return server.start_on_pipes(router, plain, fp.fileno())
