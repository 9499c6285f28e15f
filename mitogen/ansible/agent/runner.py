"""
The part of an account's agent: scripts that the controller would have piped into a Python, run by a
warm interpreter (warm.py). It is found by programs.start(), which runs them as it runs programs.

Rules
    1. A script comes in parts. Those that were sent before are named by their digest only.
    2. What a zygote can't imitate (the locale, what the interpreter itself reads from its
       environment), and an interpreter that can't be a zygote, is run as any program is: slower,
       never otherwise.

Threads: start_script() on that of its call.
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

#: Bytes of parts that are kept.
KEPT_BYTES = 134217728
#: Begins the text of a refusal, because a part was named that is not here.
MISSING = "parts of the script are not here"
#: What an interpreter reads before a script could change it.
EARLY = ("LANG", "LANGUAGE", "LC_", "PYTHON", "LD_", "MALLOC_", "GLIBC_", "DYLD_")
#: Login shells that tell a program its path; it would be that of the shell that Ansible has run.
NAMES_PROGRAM = ("bash", "ksh", "zsh")
#: What ends a script that nobody wants any more. The first one is an exception to a Python, which
#: removes its temporary files then.
ENDINGS = (signal.SIGINT, signal.SIGTERM, signal.SIGKILL)


class _Parts:
    """What was sent, by digest."""

    def __init__(self) -> None:
        self.kept: dict[bytes, bytes] = {}
        self.size = 0

    def join(self, parts: list[Any]) -> bytes:
        """
        Return a script.

        :param list parts: pairs of digest, and what scripts.pack() makes of it or None
        :raises Refused: one is not here
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
    """Return the part of a script that scripts.pack() was given."""
    if isinstance(sent, bytes):
        return sent
    before, raw, after = sent
    return bytes(before + binascii.b2a_base64(raw, newline=False) + after)


def _parts(router: Router) -> _Parts:
    found: _Parts = router.__dict__.get("_parts") or router.__dict__.setdefault("_parts", _Parts())
    return found


def _is_early(name: str) -> bool:
    return name.startswith(EARLY)


def surroundings() -> list[Any]:
    """Return the directory and the environment that this context has been given."""
    env = own_environment()
    env.setdefault("HOME", server.home())
    return [os.getcwd(), env]


def start_script(router: Router, spec: dict[str, Any]) -> Any:
    """
    Start a script, for programs.start(): `args` is [interpreter, parts, added environment, cwd].

    :raises Refused: MISSING
    :raises OSError: there is no such interpreter
    """
    interpreter, parts, added = spec["args"]
    script = _parts(router).join(parts)
    env = server.environment(dict(spec, add_env=added))
    if spec.get("env") is None and os.path.basename(server.login_shell()) in NAMES_PROGRAM:
        env.setdefault("_", "/bin/sh")
    # Which every shell sets.
    env.setdefault("PWD", spec.get("cwd") or server.home())
    own = own_environment()
    plain = any(own.get(n) != env.get(n) for n in {*env, *own} if _is_early(n))
    started = None
    if not plain:
        started = _start_warm(router, interpreter, script, env, spec)
    started = started or _start_plain(router, interpreter, script, env, spec)
    # Also where the context itself is about to end: an exception takes that long.
    started.end_signals, started.short_pause = ENDINGS, server.CUSTOM_GRACE_PAUSE
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
        # Gone, and this script has not begun: a new one, or none.
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
        # Below a shell, as Ansible does it: it leads neither a session nor a group.
        words = ["/bin/sh", "-c", shlex.quote(interpreter)]
        plain = dict(spec, kind="argv", args=words, env=env, add_env=None)
        return server.start_on_pipes(router, plain, fp.fileno())
