"""
The process that holds the contexts of one run of Ansible: `python -m
mitogen.ansible.broker.server`. The run's workers come and go; they send requests through a socket
(rpc.py).

Rules
    1. It is started by the first client, and ends with the run's main process: then all contexts
       are shut down, and the programs in them terminated.
    2. A context is connected once for each account on a host, however many workers wait for it. A
       lost context is connected again by the next request; pending requests have failed. If a
       context can't be had (no Python, no such account), Ansible's own way is used meanwhile. To
       limit the cost, connecting is retried only after RETRY_FACTOR times the duration of the
       failed attempt.
    3. When a worker goes away, its request is cancelled.
    4. Nothing of Ansible is imported here.

Threads: one for each worker's connection.
"""

from __future__ import annotations

import hashlib
import os
import select
import socket
import sys
import threading
import time

import mitogen.master
from mitogen import core
from mitogen.ansible.agent import runner, warm
from mitogen.ansible.broker import commands, hops, rpc, scripts
from mitogen.ansible.broker.names import LOCK, SOCKET
from mitogen.bootstrap import handshake
from mitogen.methods import connection
from mitogen.programs import client, endpoints, server

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["Broker", "main"]


BACKLOG = 128
#: Seconds between polls of the main process, on systems without pidfd_open(2).
POLL_INTERVAL = 0.5
#: Delay before a context that can't be had is retried: a multiple of the duration of the failed
#: attempt, and its maximum in seconds.
RETRY_FACTOR, MAX_RETRY_DELAY = 10, 60.0


#: Modules that tasks need on a host: sent at once, rather than on request one by one. The first
#: ones start an interpreter.
PUSHED = [
    "mitogen.ansible.agent.warm",
    "mitogen.ansible.agent.zygote",
    "mitogen.programs.server",
    "mitogen.ansible.agent.runner",
    "mitogen.ansible.broker.commands",
    "mitogen.calls.workers",
]
#: Methods without a login: programs inherit directory and environment from the context.
PLACES = {"docker", "podman", "buildah", "kubectl", "lxc", "lxd", "incus", "jail", "setns"}


class NoAccount(core.Error):
    """The host is reachable, but the other account on it is not."""


class GatewayError(core.Error):
    """A host on the way to another host is not reachable."""


#: Key of the digests that stand for secrets.
_KEY = os.urandom(32)


def without_secrets(steps: list[Any]) -> list[Any]:
    """Return steps with digests instead of passwords and of command lines with secrets."""
    return [[method, _hidden(options), *rest] for method, options, *rest in steps]


def _hidden(options: dict[str, Any]) -> dict[str, Any]:
    found = dict(options)
    for name, value in options.items():
        words = value if isinstance(value, list) else []
        if name == "password" and value or words and connection.censored(words) != words:
            found[name] = hashlib.blake2b(repr(value).encode(), key=_KEY).hexdigest()
    return found


class Account:
    """
    A context, and its state.

    :param list steps: steps that lead to it, without_secrets(); see option_translation.py
    """

    def __init__(self, router: mitogen.master.Router, steps: list[Any]) -> None:
        self.router = router
        self.steps = steps
        self.lock = threading.Lock()
        self.context: Any = None
        #: Last refusal: the via context, the time until which it holds (monotonic), and the error.
        self._refusal: tuple[Any, float, core.StreamError] | None = None
        self.sent: set[bytes] = set()
        #: Working directory of programs, if not the account's home. An account reached by `become`
        #: inherits it from the account before.
        self.cwd: str | None = None
        #: Whole environment of programs, if not that of a login.
        self.env: dict[str, str] | None = None

    def connect(
        self, via: Any, cwd: str | None, interpreter: str | None, options: dict[str, Any]
    ) -> Any:
        """
        Return the context. Connect it if it is missing or lost.

        :param via: context of the step before
        :param cwd: working directory of programs there, if not the account's home
        :param interpreter: the interpreter that modules will probably use: a path, "" for the
            context's own; None for no interpreter
        :param options: options of the last step, with their secrets
        """
        with self.lock:
            if self.context is None:
                context = self._new_context(via, options)
                core.listen(context, "disconnect", lambda: self._forget(context))
                self.sent = set()
                self.router.responder.forward_modules(context, PUSHED)
                if interpreter is not None:
                    # Starts it while the requests before the first module are handled.
                    context.call_no_reply(warm.prepare, interpreter)
                self.cwd = self._working_directory(via, context, cwd)
                self.context = context
            return self.context

    def _new_context(self, via: Any, options: dict[str, Any]) -> Any:
        start = time.monotonic()
        if self._refusal:
            refused_via, until, error = self._refusal
            if refused_via is via and start < until:
                raise error.with_traceback(None)
        method, _, *particular = self.steps[-1]
        try:
            return self.router.connect(method, via=via, **options)
        except core.StreamError as e:
            if "become" in particular or isinstance(e, handshake.UnsupportedPythonError):
                now = time.monotonic()
                delay = min(RETRY_FACTOR * (now - start), MAX_RETRY_DELAY)
                self._refusal = via, now + delay, e
            raise

    def _working_directory(self, via: Any, context: Any, cwd: str | None) -> str | None:
        """Return the working directory of programs; set `env` if they need one."""
        method, _, *particular = self.steps[-1]
        if method in PLACES:
            cwd, self.env = context.call(runner.surroundings)
            return cwd
        if "become" not in particular or "login" in particular:
            return None
        cwd = cwd or via.call(server.home)
        return cwd if context.call(os.access, cwd, os.X_OK) else None

    def _forget(self, context: Any) -> None:
        if self.context is context:
            self.context = None

    def reset(self) -> None:
        """Shut down the context, if there is one."""
        with self.lock:
            context, self.context = self.context, None
            self._refusal = None
        if context is not None:
            context.shutdown(wait=True)


class Worker(rpc.Connection):
    """
    Connection of a worker. Its thread sleeps until its request is done or the worker is gone.

    :param sock: a connected socket
    """

    def __init__(self, sock: socket.socket) -> None:
        rpc.Connection.__init__(self, sock)
        self._rfd, self._wfd = os.pipe()
        self._lock = threading.Lock()
        self._closed = False
        self._parts: dict[bytes, bytes] = {}
        self._poll = select.poll()
        self._poll.register(sock, select.POLLIN)
        self._poll.register(self._rfd, select.POLLIN)

    def part(self, digest: bytes, data: bytes | None) -> bytes:
        """Return a part of a script; cache it if it is long. See Client.script()."""
        if data is None:
            return self._parts[digest]
        if len(data) >= scripts.LONG:
            self._parts[digest] = data
        return data

    def wake(self) -> None:
        """Any thread: make wait() return."""
        with self._lock:
            if not self._closed:
                os.write(self._wfd, b"!")

    def wait(self) -> bool:
        """Sleep until woken; return whether the worker is still connected."""
        ready = [fd for fd, _ in self._poll.poll()]
        if self._rfd in ready:
            os.read(self._rfd, 4096)
        # A worker sends nothing while it waits for its answer.
        return self.sock.fileno() not in ready

    def close(self) -> None:
        """Close the connection."""
        with self._lock:
            self._closed = True
            os.close(self._rfd)
            os.close(self._wfd)
        rpc.Connection.close(self)


class Broker:
    """
    State of the broker process.

    :param str directory: the run's private directory, which becomes the working directory
    """

    def __init__(self, directory: str) -> None:
        self.directory = directory
        self.router = mitogen.master.Router()
        self.lock = threading.Lock()
        self.accounts: dict[str, Account] = {}
        self.listener = socket.socket(socket.AF_UNIX)
        # A relative path: the full path may be too long for a socket.
        os.chdir(directory)
        self.listener.bind(SOCKET)
        self.listener.listen(BACKLOG)

    # -- connections

    def serve(self, main_pid: int) -> None:
        """Serve until the main process has exited."""
        gone = _Watch(main_pid)
        poll = select.poll()
        poll.register(self.listener, select.POLLIN)
        if gone.fd is not None:
            poll.register(gone.fd, select.POLLIN)
        while gone.is_there():
            for fd, _ in poll.poll(None if gone.fd is not None else POLL_INTERVAL * 1000):
                if fd == self.listener.fileno():
                    sock, _ = self.listener.accept()
                    threading.Thread(target=self._serve_one, args=(sock,), daemon=True).start()
        self.close()

    def close(self) -> None:
        """Shut down all contexts, and remove files left behind by a killed main process."""
        self.listener.close()
        for remove, name in ((os.unlink, SOCKET), (os.unlink, LOCK), (os.rmdir, self.directory)):
            try:
                remove(name)
            except OSError:
                pass
        self.router.broker.shutdown()
        self.router.broker.join()

    def _serve_one(self, sock: socket.socket) -> None:
        worker = Worker(sock)
        try:
            while True:
                request = worker.receive()
                worker.send(self._answer(worker, *request))
        except rpc.Lost:
            pass
        finally:
            worker.close()

    def _answer(self, worker: Worker, name: str, *args: Any) -> Any:
        try:
            return ["ok", REQUESTS[name](self, worker, *args)]
        except Exception as e:
            return ["error", type(e).__name__, str(e)]

    # -- accounts

    def account(self, steps: list[Any]) -> Account:
        """Return the Account that these steps lead to."""
        steps = without_secrets(steps)
        with self.lock:
            return self.accounts.setdefault(repr(steps), Account(self.router, steps))

    def context(self, steps: list[Any], interpreter: str | None = None) -> tuple[Account, Any]:
        """
        Return an Account and its context. Connect it and the accounts before it as needed.

        :param interpreter: see Account.connect()
        """
        via: Any = None
        account: Any = None
        of_host = sum("become" not in step for step in steps)
        for number in range(len(steps)):
            cwd = account.cwd if account else None
            account = self.account(steps[: number + 1])
            try:
                is_last = number == len(steps) - 1
                likely = interpreter if is_last else None
                via = account.connect(via, cwd, likely, steps[number][1])
            except core.StreamError as e:
                if number >= of_host:
                    raise NoAccount("%s", e) from e
                if number < of_host - 1:
                    where = ", ".join(map(_step_name, steps[: number + 1]))
                    raise GatewayError("mitogen_via: cannot connect to %s: %s", where, e) from e
                raise
        return account, via

    def _connect_ahead(self, steps: list[Any], interpreter: str | None) -> None:
        """Start connecting an account; an error is reported by the request that needs it."""

        def connect() -> None:
            try:
                self.context(steps, interpreter)
            except core.Error:
                pass

        if self.account(steps).context is None:
            threading.Thread(target=connect, daemon=True).start()

    def release(self, steps: list[Any], text: bytes) -> None:
        """
        Shut down the contexts of other accounts that a command mentions: it may be about to remove
        an account, which fails while that account has processes.
        """
        steps = without_secrets(steps)
        with self.lock:
            others = list(self.accounts.values())
        for other in others:
            if other.steps[:-1] == steps[: len(other.steps) - 1] and other.steps != steps:
                name = other.steps[-1][1].get("username")
                if "become" in other.steps[-1] and name and name.encode() in text:
                    other.reset()

    # -- requests

    def run(
        self,
        worker: Worker,
        steps: list[Any],
        command: str,
        data: bytes | None,
        options: dict[str, Any],
        likely: str | None,
        ahead: list[Any] | None = None,
    ) -> list[Any]:
        """
        Run a command string; return [status, output, error output].

        :param likely: interpreter of the modules that will follow; see Account.connect()
        :param ahead: steps to another account that these modules will be for
        """
        inner = scripts.inner_command(command)
        known = commands.known(inner) if inner and not data else None
        here = None if ahead else likely
        if known:
            home = options["env"].get("HOME", "") if "env" in options else None
            output = self.context(steps, here)[1].call(commands.do, *known, home)
            if output is not None:
                return [0, output, b""]
        self.release(steps, command.encode("utf-8", "surrogateescape") + (data or b""))
        account, context = self.context(steps, here)
        if ahead:
            self._connect_ahead(ahead, likely)
        # A login shell would only exec that shell; the context already has its variables.
        program = command if inner is None else ["/bin/sh", "-c", inner]
        return self._run(worker, account, context, program, data, options)

    def script(
        self,
        worker: Worker,
        steps: list[Any],
        interpreter: str,
        environment: dict[str, str],
        parts: list[Any],
        options: dict[str, Any],
    ) -> list[Any]:
        """
        Run a script in a Python; return [status, output, error output].

        :param parts: lists of digest and bytes, or None for a part that this worker has sent before
        """
        parts = [[digest, worker.part(digest, data)] for digest, data in parts]
        self.release(steps, b"".join(data for _, data in parts if len(data) < scripts.LONG))
        account, context = self.context(steps, interpreter)
        try:
            return self._script(worker, account, context, interpreter, environment, parts, options)
        except client.Refused as e:
            if not str(e).startswith(runner.MISSING):
                raise
            account.sent = set()
        return self._script(worker, account, context, interpreter, environment, parts, options)

    def _script(
        self,
        worker: Worker,
        account: Account,
        context: Any,
        interpreter: str,
        environment: dict[str, str],
        parts: list[Any],
        options: dict[str, Any],
    ) -> list[Any]:
        known = account.sent
        sent = [[d, None if d in known else scripts.pack(data)] for d, data in parts]
        program = client.Custom(
            "mitogen.ansible.agent.runner.start_script", [interpreter, sent, environment]
        )
        answer = self._run(worker, account, context, program, None, options)
        # The parts have arrived by now, whether or not the script succeeded.
        known.update(digest for digest, _ in parts)
        return answer

    def _run(
        self,
        worker: Worker,
        account: Account,
        context: Any,
        program: Any,
        data: bytes | None,
        options: dict[str, Any],
    ) -> list[Any]:
        options = dict(options)
        if account.cwd is not None:
            options.setdefault("cwd", account.cwd)
        if account.env is not None:
            options.setdefault("env", account.env)
        term = options.pop("terminal", None)
        if term is not None:
            options["pty"] = client.Pty(term, 0, 0)
        stdin = client.PIPE if data else client.DEVNULL
        output, errors = endpoints.Keep(), endpoints.Keep()
        with context.popen(program, stdin=stdin, stdout=output, stderr=errors, **options) as popen:
            client.feed(popen, data)
            popen.when_done(lambda popen: worker.wake())
            while popen.poll() is None and popen.error is None:
                if not worker.wait():
                    # ^C or a timeout: terminate the processes that it has started, too.
                    popen.close(0)
                    raise rpc.Lost("the worker has exited")
            status = popen.wait()
        return [status, b"".join(output.chunks), b"".join(errors.chunks)]

    def outside(
        self,
        worker: Worker,
        steps: list[Any],
        command: str,
        data: bytes | None,
    ) -> list[Any]:
        """
        Run a command with the last step's program, started in the context before, so that the
        step's own context isn't needed. Return [status, output, error output].
        """
        account, context = self.context(steps[:-1])
        method, options, *_ = steps[-1]
        argv = context.call(hops.command_line, method, options, command)
        return self._run(worker, account, context, argv, data, {})

    def put(self, _: Worker, steps: list[Any], path: str, remote: str) -> None:
        """Send a file."""
        self.context(steps)[1].put(path, remote, compress=_is_compressed(steps))

    def get(self, _: Worker, steps: list[Any], remote: str, path: str) -> None:
        """Fetch a file."""
        self.context(steps)[1].get(remote, path, compress=_is_compressed(steps))

    def connect(self, _: Worker, steps: list[Any]) -> None:
        """Connect an account's context."""
        self.context(steps)

    def reset(self, _: Worker, steps: list[Any]) -> None:
        """Shut down an account's context: the next request connects it again."""
        self.account(steps).reset()


REQUESTS: dict[str, Any] = {
    "connect": Broker.connect,
    "get": Broker.get,
    "outside": Broker.outside,
    "put": Broker.put,
    "reset": Broker.reset,
    "run": Broker.run,
    "script": Broker.script,
}


def _is_compressed(steps: list[Any]) -> bool:
    """Return whether file transfers should be compressed."""
    return any("compress" in step for step in steps)


def _step_name(step: list[Any]) -> str:
    """Return a step's name for an error message."""
    method, options, *_ = step
    names = ("hostname", "container", "pod", "username")
    found = [str(options[name]) for name in names if options.get(name)]
    return " ".join([method, *found[:1]])


class _Watch:
    """
    Watcher of a process that is not a child.

    :param int pid: pid of the process
    """

    def __init__(self, pid: int) -> None:
        self.pid = pid
        #: Readable once the process has exited; None if the system does not support it.
        self.fd: int | None = None
        try:
            self.fd = os.pidfd_open(pid)
        except (AttributeError, OSError):
            pass

    def is_there(self) -> bool:
        if self.fd is not None:
            return not select.select([self.fd], [], [], 0)[0]
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            pass
        return True


def main() -> None:
    """
    Run the process. Its arguments are the run's directory, the pid of its main process, and
    optionally a descriptor that holds the run's lock until connections are accepted.
    """
    directory, main_pid, *locks = sys.argv[1:]
    broker = Broker(directory)
    for lock in locks:
        os.close(int(lock))
    # The parent waits for this line.
    os.write(1, b"ready\n")
    null = os.open("/dev/null", os.O_RDWR)
    os.dup2(null, 1)
    # Yield to other threads soon: the first of them starts an ssh.
    sys.setswitchinterval(0.0005)
    # Done before the first connection is made.
    threading.Thread(target=broker.router.responder.prepare, args=(PUSHED,), daemon=True).start()
    broker.serve(int(main_pid))


if __name__ == "__main__":
    main()
