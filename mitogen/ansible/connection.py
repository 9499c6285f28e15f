"""
Connection plugins over contexts: what each of them adds to Ansible's own of that name.

A plugin is its stock counterpart whose exec_command(), put_file(), fetch_file() and reset() ask the
run's broker process. So everything else (options, become, results) is Ansible's own code, of
whatever release.

Rules
    1. What is not understood is run as it is: slower, never otherwise.
    2. A host that no context can be made on, as there is no Python, is left to the stock plugin.
    3. Nothing is printed; errors are Ansible's.
    4. What an Ansible that we don't know has changed is noticed before anything is asked for, and
       then the stock plugin does it: with one line at -vvv.

Threads: a worker's only one.
"""

from __future__ import annotations

import os
import re
import shlex
import signal
import textwrap
from typing import Any

from ansible import constants as C
from ansible.errors import (
    AnsibleAuthenticationFailure,
    AnsibleConnectionFailure,
    AnsibleFileNotFound,
)
from ansible.module_utils.common.text.converters import to_bytes, to_text
from ansible.utils.display import Display

from mitogen.ansible import client, rpc, scripts, transports

__all__ = ["Plugin", "documentation"]

display = Display()

#: Kinds of error that mean "log in with something else".
AUTHENTICATION = ("PasswordError", "HostKeyError")
#: Kinds of error that mean that a context can't be had, though the host be there.
NO_CONTEXT = ("NoAccount", "UnsupportedPythonError")

#: What shows that Ansible is not as we know it: a name that is gone, other arguments.
ALIEN = (AttributeError, LookupError, TypeError)

#: Modules by standard input unless told otherwise; put among the stock plugin's options.
PIPELINING = """
pipelining:
  description: Send modules by the standard input of an interpreter, rather than copy them first.
  type: boolean
  default: true
  env: [{name: ANSIBLE_PIPELINING}, {name: ANSIBLE_SSH_PIPELINING}]
  ini:
    - {section: defaults, key: pipelining}
    - {section: connection, key: pipelining}
    - {section: ssh_connection, key: pipelining}
  vars: [{name: ansible_pipelining}, {name: ansible_ssh_pipelining}]
"""


def documentation(stock: Any, name: str) -> str:
    """
    Return the DOCUMENTATION of a plugin of ours: that of the stock one, whose options it has.

    As text, since each worker needs it: to parse it takes longer than a task.

    :param stock: module of the stock plugin
    :param name: ours
    """
    # Ours comes in place of one that it may have.
    text: str = re.sub(r"(?m)^( *)pipelining:\n(?:\1 .*\n|\s*\n)*", "", stock.DOCUMENTATION)
    found = re.search(r"^( *)options:\n( *)", text, re.MULTILINE)
    if found:
        options = text[: found.start(2)] + textwrap.indent(PIPELINING.lstrip(), found.group(2))
        return options + text[found.start(2) :]
    indent = re.search(r"^( *)", text.lstrip("\n"))
    outer = indent.group(1) if indent else ""
    more = textwrap.indent(PIPELINING.lstrip(), outer + "    ")
    return text.rstrip() + "\n" + outer + "options:\n" + more


def _say_once() -> bool:
    """Return whether nobody in this run has said what every task has to say."""
    try:
        path = os.path.join(to_text(C.DEFAULT_LOCAL_TMP), "mitogen-said")
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    except FileExistsError:
        return False
    except (OSError, *ALIEN):
        pass
    return True


def _last_words(signum: int) -> bytes:
    """Return what a shell says of a command that a signal has ended."""
    if signum in (signal.SIGINT, signal.SIGPIPE):
        return b""
    return to_bytes("%s\n" % signal.strsignal(signum))  # type: ignore[no-any-return]


def plain(value: Any) -> Any:
    """Return a value without what Ansible's own kinds of text and containers carry besides."""
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, dict):
        return {plain(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(each) for each in value]
    if isinstance(value, bytes):
        return bytes.join(b"", [value])
    return value


class Plugin:
    """Mixed into a stock connection plugin, before it."""

    has_pipelining = True
    _client: Any = None
    #: What become plugins have made of commands: (command, step).
    _become_commands: dict[str, tuple[str, Any]]
    #: Nothing goes over a context: none can be made on this host, or Ansible is not as we know it.
    _is_stock = False
    #: Become plugins tell us what they make of commands.
    _is_watched = True

    # -- what a plugin says of itself

    def _step(self) -> Any:
        """Return the step from the controller to the account that Ansible logs in to."""
        raise NotImplementedError

    def _program_options(self) -> dict[str, Any]:
        """Return options of Popen for each program."""
        return {}

    def set_options(self, *args: Any, **kwargs: Any) -> None:
        """Have our options known by our full name too, which Ansible looks for in results."""
        self._guarded(self._name_options)
        super().set_options(*args, **kwargs)  # type: ignore[misc]

    def _name_options(self) -> None:
        load_name = self._load_name  # type: ignore[attr-defined]
        full_name = "mitogen.ansible.%s" % self.transport  # type: ignore[attr-defined]
        if not C.config.has_configuration_definition("connection", full_name):
            found = C.config.get_configuration_definitions("connection", load_name)
            C.config.initialize_plugin_configuration_definitions("connection", full_name, found)

    def _guarded(self, function: Any, *args: Any, **kwargs: Any) -> Any:
        """Return what a function says that asks for nothing yet; if it fails, ours do nothing."""
        try:
            return function(*args, **kwargs)
        except ALIEN as e:
            self._is_stock = True
            if _say_once():
                text = "mitogen.ansible: connections are Ansible's own, which is not as we know it"
                display.vvv("%s: %s: %s" % (text, type(e).__name__, e))
            return None

    # -- asking

    def _prepare(self) -> None:
        """Be ready to ask."""
        if self._client is None:
            directory = os.path.join(to_text(C.DEFAULT_LOCAL_TMP), "mitogen")
            main_pid = int(getattr(self, "_ansible_playbook_pid", None) or os.getppid())
            self._client = client.Client(directory, main_pid)

    def _ask(self, name: str, steps: Any, *args: Any) -> Any:
        self._prepare()
        host = getattr(getattr(self, "_play_context", None), "remote_addr", None)
        try:
            return self._client.request(name, *map(plain, (steps, *args)))
        except client.Failed as e:
            if e.kind in AUTHENTICATION:
                raise AnsibleAuthenticationFailure("%s: %s" % (host, e)) from e
            if e.kind in NO_CONTEXT or name == "script":
                raise
            if e.kind == "FileNotFoundError":
                raise AnsibleFileNotFound(str(e)) from e
            raise AnsibleConnectionFailure(self._why_not(host, str(e))) from None
        except (rpc.Lost, OSError) as e:
            raise AnsibleConnectionFailure("mitogen's broker process is gone: %s" % e) from e

    def _why_not(self, host: Any, text: str) -> str:
        """Return what to say of a host that is not reached."""
        return "%s: %s" % (host, text)

    def set_become_plugin(self, plugin: Any) -> None:
        """Note what the plugin makes of commands, to know the command and the account apart."""
        super().set_become_plugin(plugin)  # type: ignore[misc]
        self._become_commands = {}
        self._guarded(self._watch, plugin)

    def _watch(self, plugin: Any) -> None:
        build = getattr(plugin, "build_become_command", None)
        if plugin is None or build is None:
            self._is_watched = plugin is None
            return

        def build_become_command(*args: Any, **kwargs: Any) -> Any:
            built = build(*args, **kwargs)
            cmd = args[0] if args else kwargs.get("cmd", built)
            if built and built != cmd:
                self._become_commands[built] = (cmd, transports.become_step(plugin))
            return built

        plugin.build_become_command = build_become_command

    def _take_apart(self, cmd: str) -> tuple[str, list[Any], bool]:
        """
        Return a command without its become, the steps to the account that it is for, and whether
        it is one that asks for a password which only the stock plugin knows how to give.
        """
        steps = [self._step()]
        inner = scripts.inner_command(cmd)
        for built, (command, step) in getattr(self, "_become_commands", {}).items():
            # Where a task wants no shell around it, the command is all there is.
            if cmd != built and (inner is None or inner not in (built, built + " && sleep 0")):
                continue
            if step is None:
                become: Any = self.become  # type: ignore[attr-defined]
                return cmd, steps, bool(become and become.expect_prompt())
            executable = self._play_context.executable or "/bin/sh"  # type: ignore[attr-defined]
            return "%s -c %s" % (executable, shlex.quote(command)), [*steps, step], False
        unknown: Any = None if self._is_watched else self.become  # type: ignore[attr-defined]
        return cmd, steps, bool(unknown and unknown.expect_prompt())

    # -- Ansible's interface

    def is_pipelining_enabled(self, wrap_async: bool = False) -> bool:
        """Return whether modules may go by standard input (from ansible-core 2.19)."""
        become: Any = self.become  # type: ignore[attr-defined]
        if become and not become.pipelining and not transports.become_step(become):
            return False
        wanted = self._guarded(self.get_option, "pipelining")  # type: ignore[attr-defined]
        return bool(wanted) and not wrap_async

    def _connect(self) -> Any:
        self._connected = True
        return self

    def exec_command(self, *args: Any, **kwargs: Any) -> Any:
        """Run a command; return (status, output, error output)."""
        wanted = None if self._is_stock else self._guarded(self._command, *args, **kwargs)
        found = wanted and self._execute(*wanted)
        # Not from within an except clause: what is raised from here on has no cause of ours.
        return found or super().exec_command(*args, **kwargs)  # type: ignore[misc]

    def _command(self, cmd: Any, in_data: Any = None, sudoable: bool = True) -> Any:
        """Return what to ask for to have a command run; None if the stock plugin has to."""
        self._prepare()
        command, steps, asks = self._take_apart(to_text(cmd, errors="surrogateescape"))
        data = None if in_data is None else to_bytes(in_data, errors="surrogateescape")
        options = self._program_options()
        if sudoable and not data and self._wants_terminal():
            options["terminal"] = os.environ.get("TERM", "")
        return None if asks else (command, steps, data, options)

    def _execute(
        self, command: str, steps: list[Any], data: bytes | None, options: dict[str, Any]
    ) -> tuple[int, bytes, bytes] | None:
        """Run a command; return None if the stock plugin has to."""
        display.vvv("MITOGEN: EXEC %s" % command, host=steps[0][1].get("hostname"))
        terminal = "terminal" in options
        try:
            status, stdout, stderr = self._request(command, steps, data, options)
            if status < 0:
                status, stderr = 128 - status, stderr + _last_words(-status)
            return status, stdout, stderr + (self._farewell() if terminal else b"")
        except client.Failed as e:
            # Also how become fails is then told by the command itself.
            display.vvv("MITOGEN: %s; going on without" % e)
            self._is_stock = len(steps) == 1
            return None

    def _wants_terminal(self) -> bool:
        """Return whether the stock plugin would ask for a terminal, where there is no input."""
        return False

    def _farewell(self) -> bytes:
        """Return what the stock plugin's client says at the end of a terminal."""
        return b""

    def _request(
        self, command: str, steps: list[Any], data: bytes | None, options: dict[str, Any]
    ) -> Any:
        inner = scripts.inner_command(command)
        piped = scripts.piped_python(inner) if inner and data else None
        if piped:
            try:
                return self._ask("script", steps, *piped, data, options)
            except client.Failed as e:
                if e.kind in NO_CONTEXT:
                    raise
                # No such interpreter, say: the command itself tells that best.
                display.vvv("MITOGEN: %s" % e)
        return self._ask("run", steps, command, data, options)

    def put_file(self, *args: Any, **kwargs: Any) -> None:
        """Send a file."""
        wanted = None if self._is_stock else self._guarded(self._put, *args, **kwargs)
        if not wanted:
            return super().put_file(*args, **kwargs)  # type: ignore[misc,no-any-return]
        step, path, remote = wanted
        if not os.path.exists(path):
            raise AnsibleFileNotFound("file or module does not exist: %s" % path)
        display.vvv("MITOGEN: PUT %s TO %s" % (path, remote))
        self._ask("put", [step], path, remote)

    def _put(self, in_path: Any, out_path: Any) -> Any:
        self._prepare()
        path = os.path.abspath(to_text(in_path, errors="surrogateescape"))
        return self._step(), path, self._remote_path(out_path)

    def fetch_file(self, *args: Any, **kwargs: Any) -> None:
        """Fetch a file."""
        wanted = None if self._is_stock else self._guarded(self._fetch, *args, **kwargs)
        if not wanted:
            return super().fetch_file(*args, **kwargs)  # type: ignore[misc,no-any-return]
        step, remote, path = wanted
        display.vvv("MITOGEN: FETCH %s TO %s" % (remote, path))
        self._ask("get", [step], remote, path)

    def _fetch(self, in_path: Any, out_path: Any) -> Any:
        self._prepare()
        path = os.path.abspath(to_text(out_path, errors="surrogateescape"))
        return self._step(), self._remote_path(in_path), path

    def _remote_path(self, path: Any) -> str:
        text: str = to_text(path, errors="surrogateescape")
        return text

    def reset(self) -> None:
        """End the context; the next command connects anew."""
        step = None if self._is_stock else self._guarded(self._step)
        if step is None:
            return super().reset()  # type: ignore[misc,no-any-return]
        self._ask("reset", [step])
        self.close()

    def close(self) -> None:
        """Close the way to the broker; the context stays."""
        if self._client is not None:
            self._client.close()
        self._connected = False


def ssh(stock: Any) -> Any:
    """Return the class of our `ssh` plugin."""

    class Connection(Plugin, stock.Connection):  # type: ignore[misc]
        transport = "ssh"

        def _step(self) -> Any:
            return transports.ssh_step(self)

        def _wants_terminal(self) -> bool:
            return bool(self.get_option("use_tty"))

        def _why_not(self, host: Any, text: str) -> str:
            # The client's own words, as the stock plugin has them.
            found = re.search(r"(?s)lines received:\n(.*)\nprocess exited", text)
            return "Failed to connect to the host via ssh: %s" % (found.group(1) if found else text)

        def _farewell(self) -> bytes:
            shared = "ControlPersist" in str(self.get_option("ssh_args"))
            text = (
                "Shared connection to %s closed.\r\n" if shared else "Connection to %s closed.\r\n"
            )
            return to_bytes(text % self.get_option("host"))  # type: ignore[no-any-return]

    return Connection


def local(stock: Any) -> Any:
    """Return the class of our `local` plugin."""

    class Connection(Plugin, stock.Connection):  # type: ignore[misc]
        transport = "local"

        def _step(self) -> Any:
            return transports.local_step(self)

        def _program_options(self) -> dict[str, Any]:
            cwd = to_text(self.cwd) if getattr(self, "cwd", None) else os.getcwd()
            return {"cwd": cwd, "env": dict(os.environ)}

    return Connection
