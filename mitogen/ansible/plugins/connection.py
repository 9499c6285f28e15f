"""
Connection plugins over contexts: the common additions to Ansible's own plugins.

A plugin is its stock counterpart whose exec_command(), put_file(), fetch_file() and reset() send
requests to the run's broker process. Everything else (options, become, results) is Ansible's own
code, of any release.

Rules
    1. A command that is not recognized is run unchanged: slower, with the same result.
    2. A host on which no context can be made, for lack of Python, is left to the stock plugin.
    3. Nothing is printed; errors are Ansible's.
    4. An incompatible change in a future Ansible is detected before a request is sent, and then the
       stock plugin is used: with one line at -vvv.

Threads: a worker's only one.
"""

from __future__ import annotations

import os
import re
import shlex
import signal
import textwrap
from functools import partial
from typing import Any

from ansible import constants as C
from ansible.errors import (
    AnsibleAuthenticationFailure,
    AnsibleConnectionFailure,
    AnsibleError,
    AnsibleFileNotFound,
)
from ansible.executor import module_common
from ansible.module_utils.common.text.converters import to_bytes, to_text
from ansible.utils.display import Display

from mitogen.ansible.broker import client, rpc, scripts
from mitogen.ansible.plugins import (
    accelerators,
    become,
    built_modules,
    option_translation,
    own_options,
    run,
    via,
)

__all__ = ["Plugin", "documentation"]

display = Display()
accelerators.quote_modules(getattr(module_common, "_CachedModule", None))
accelerators.remember_settings(type(C.config))
accelerators.keep_templates()

#: Kinds of error after which a login with other credentials may succeed.
AUTHENTICATION = ("PasswordError", "HostKeyError")
#: Kinds of error that mean that a context can't be had, although the host is reachable.
NO_PYTHON = "UnsupportedPythonError"
NO_CONTEXT = ("NoAccount", NO_PYTHON)
#: Kinds of error that mean that a script has not started, so that it may be run in another way.
#: After any other error it may have started.
NOT_STARTED = ("FileNotFoundError", "NotADirectoryError", "OSError", "PermissionError", "Refused")
#: Errors that an incompatible Ansible causes: a missing name, other arguments.
INCOMPATIBLE = (AttributeError, LookupError, TypeError)
#: Exit status of ssh for its own errors.
SSH_ERROR = 255


def documentation(stock: Any, name: str) -> str:
    """
    Return the options part of a plugin's DOCUMENTATION: the stock plugin's options, with mitogen's
    added or in place of those of the same name.

    The result is text, because each worker needs it: parsing it takes longer than a task.

    :param stock: module of the stock plugin
    :param name: name of mitogen's plugin
    """
    text: str = textwrap.dedent(stock.DOCUMENTATION).strip("\n") + "\n"
    text = re.sub(r"(?m)^( *)pipelining:\n(?:\1 .*\n|\s*\n)*", "", text)
    # Each key with its lines: those not at the margin, or at the margin and part of a list.
    found: dict[str, str] = dict(re.findall(r"(?m)^(\w+):(.*\n(?:[ -].*\n|\s*\n)*)", text))
    listed = found.get("options", "\n")
    indent = re.search(r"^ *(?=\w)", listed, re.MULTILINE)
    ours = own_options.PIPELINING + ("" if name == "local" else own_options.VIA)
    lines = "options:" + listed + textwrap.indent(ours, indent.group() if indent else "  ")
    key = "extends_documentation_fragment"
    return lines + ("%s:%s" % (key, found[key]) if key in found else "")


def _signal_message(signum: int) -> bytes:
    """Return a shell's message for a command that was terminated by a signal."""
    if signum in (signal.SIGINT, signal.SIGPIPE):
        return b""
    return to_bytes("%s\n" % signal.strsignal(signum))  # type: ignore[no-any-return]


def plain(value: Any) -> Any:
    """Return a value converted from Ansible's subclasses of text and containers to plain types."""
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
    """Base class of connection plugins, placed before the stock plugin's class."""

    has_pipelining = True
    _client: Any = None
    #: Recorder of commands built by the become plugin.
    _watch: become.Watch | None = None
    #: True if no context is used: none can be made on this host, or Ansible is incompatible.
    _is_stock = False
    #: True if a stock plugin of this kind exists, which needs no context.
    _has_stock = True
    #: Variables of the task, and keywords of the task and its play.
    variables: Any = {}
    task_keys: Any = None
    #: Inventory names of the hosts reached through this one: see via.py.
    chain: list[str] = []
    _via_steps: list[Any] | None = None

    # -- parts that differ between plugins

    def _step(self, is_first: bool) -> Any:
        """
        Return the step to the account of the login.

        :param is_first: True if the step starts from the controller, not through another host
        """
        raise NotImplementedError

    def _via(self) -> list[Any]:
        """Return the steps to the host in `mitogen_via`."""
        if self._via_steps is None:
            spec = self.get_option("mitogen_via")  # type: ignore[attr-defined]
            try:
                self._via_steps = via.steps_to(self, str(plain(spec))) if spec else []
            except INCOMPATIBLE as e:
                # The stock plugin is no fallback: it would connect to the host directly.
                text = "mitogen_via=%s: %s: %s" % (spec, type(e).__name__, e)
                raise AnsibleConnectionFailure(text) from e
        return self._via_steps

    def steps(self) -> list[Any]:
        """Return the steps from the controller to the account of the login."""
        before = self._via()
        return [*before, self._step(not before)]

    def _program_options(self) -> dict[str, Any]:
        """Return arguments of popen() for each program."""
        return {}

    def update_vars(self, variables: Any) -> None:
        """Store the task's variables. Called after set_options()."""
        self.variables = variables
        super().update_vars(variables)  # type: ignore[misc]

    def _resolve_option_variables(self, variables: Any, templar: Any) -> Any:
        # For `meta: reset_connection` too, these are all variables.
        self.variables = variables
        return super()._resolve_option_variables(variables, templar)  # type: ignore[misc]

    def set_options(self, *args: Any, **kwargs: Any) -> None:
        """Register the options under the plugin's full name too, which Ansible uses in results."""
        self._via_steps = None
        self.task_keys = kwargs.get("task_keys")
        if "hostvars" in (kwargs.get("var_options") or ()):
            # For `meta: reset_connection` before ansible-core 2.17.
            self.variables = kwargs["var_options"]
        self._guarded(self._name_options)
        super().set_options(*args, **kwargs)  # type: ignore[misc]
        built_modules.build_cache(os.getpid())

    def _name_options(self) -> None:
        load_name = self._load_name  # type: ignore[attr-defined]
        full_name = "mitogen.ansible.%s" % self.transport  # type: ignore[attr-defined]
        if not C.config.has_configuration_definition("connection", full_name):
            found = C.config.get_configuration_definitions("connection", load_name)
            C.config.initialize_plugin_configuration_definitions("connection", full_name, found)

    def _guarded(self, function: Any, *args: Any, **kwargs: Any) -> Any:
        """Call a function that sends no request; fall back to the stock plugin if it fails."""
        try:
            return function(*args, **kwargs)
        except INCOMPATIBLE as e:
            self._is_stock = True
            text = "this Ansible is not supported, so its own connections are used: %s: %s"
            run.log_once(text % (type(e).__name__, e))
            return None

    # -- requests

    def _prepare(self) -> None:
        """Prepare for requests."""
        # So that all items of a loop use one connection.
        self._connected = True
        if self._client is None:
            self._client = client.Client(run.directory(), run.main_pid())

    def _ask(self, name: str, steps: Any, *args: Any) -> Any:
        self._prepare()
        host = getattr(getattr(self, "_play_context", None), "remote_addr", None)
        ask = self._client.script if name == "script" else partial(self._client.request, name)
        try:
            return ask(*map(plain, (steps, *args)))
        except client.Failed as e:
            text = option_translation.readable(str(e))
            if e.kind in AUTHENTICATION:
                raise AnsibleAuthenticationFailure("%s: %s" % (host, text)) from e
            if e.kind in NO_CONTEXT or (name == "script" and e.kind in NOT_STARTED):
                raise
            if e.kind == "FileNotFoundError":
                raise AnsibleFileNotFound(text) from e
            raise AnsibleConnectionFailure(self.connection_error(host, text)) from None
        except (rpc.Lost, OSError) as e:
            raise AnsibleConnectionFailure("mitogen's broker process is gone: %s" % e) from e

    def connection_error(self, host: Any, text: str) -> str:
        """Return the message for a host that is not reachable."""
        return "%s: %s" % (host, text)

    def set_become_plugin(self, plugin: Any) -> None:
        """Watch the plugin build commands, to know the original command and the account."""
        super().set_become_plugin(plugin)  # type: ignore[misc]
        self._is_stock = False
        self._watch = self._guarded(become.Watch, plugin)

    def _unwrap(self, cmd: str) -> tuple[str, list[Any], bool]:
        """
        Return a command without its become part, the steps to its account, and whether it prompts
        for a password that only the stock plugin can answer.
        """
        steps = self.steps()
        if self._watch is None:
            return cmd, steps, False
        found = self._watch.unwrap(cmd)
        if found.step is None:
            return found.command, steps, found.prompts
        executable = self._play_context.executable or "/bin/sh"  # type: ignore[attr-defined]
        words = "%s -c %s" % (executable, shlex.quote(found.command))
        return words, [*steps, found.step], False

    # -- Ansible's interface

    def is_pipelining_enabled(self, wrap_async: bool = False) -> bool:
        """Return whether modules may be sent on standard input (since ansible-core 2.19)."""
        plugin: Any = self.become  # type: ignore[attr-defined]
        if plugin and not plugin.pipelining and not option_translation.become_step(plugin):
            return False
        wanted = self._guarded(lambda: self.get_option("pipelining"))  # type: ignore[attr-defined]
        return bool(wanted) and not wrap_async

    def _connect(self) -> Any:
        self._connected = True
        return self

    def exec_command(self, *args: Any, **kwargs: Any) -> Any:
        """Run a command; return (status, output, error output)."""
        wanted = None if self._is_stock else self._guarded(self._command, *args, **kwargs)
        found = wanted and self._execute(*wanted)
        # Not within an except clause: errors raised from here on must have no cause.
        return found or self._exec_fallback(*args, **kwargs)

    def _command(self, cmd: Any, in_data: Any = None, sudoable: bool = True) -> Any:
        """Return the arguments of _execute() for a command; None to use the fallback."""
        self._prepare()
        whole = to_text(cmd, errors="surrogateescape")
        command, steps, prompts = self._unwrap(whole)
        if prompts:
            return None
        self._log_command(whole, steps)
        data = None if in_data is None else to_bytes(in_data, errors="surrogateescape")
        options = self._program_options()
        if sudoable and not data and self._wants_terminal():
            options["terminal"] = os.environ.get("TERM", "")
        return command, steps, data, options

    def _log_command(self, cmd: str, steps: list[Any]) -> None:
        """Log a command with its become part, as the stock plugin does."""
        display.vvv("MITOGEN: EXEC %s" % cmd, host=steps[0][1].get("hostname"))

    def _exec_fallback(self, *args: Any, **kwargs: Any) -> Any:
        """Run a command without a context of its account."""
        if self._guarded(self._via):
            return self._exec_via(*args, **kwargs)
        return self.exec_stock(*args, **kwargs)

    def _exec_via(self, cmd: Any, in_data: Any = None, sudoable: bool = True) -> Any:
        """Run a command on a host behind another one."""
        command = to_text(cmd, errors="surrogateescape")
        data = None if in_data is None else to_bytes(in_data, errors="surrogateescape")
        if not self._is_stock:
            steps = self.steps()
            self._log_command(command, steps)
            found = self._execute(command, steps, data, self._program_options())
            if found:
                return found
        status, stdout, stderr = self._ask("outside", self.steps(), command, data)
        if status == SSH_ERROR and self.transport == "ssh":  # type: ignore[attr-defined]
            raise AnsibleConnectionFailure(to_text(stderr))
        return status, stdout, stderr

    def exec_stock(self, *args: Any, **kwargs: Any) -> Any:
        """Run a command from the controller, without a context."""
        return super().exec_command(*args, **kwargs)  # type: ignore[misc]

    def _execute(
        self, command: str, steps: list[Any], data: bytes | None, options: dict[str, Any]
    ) -> tuple[int, bytes, bytes] | None:
        """Run a command; return None if the fallback must be used."""
        terminal = "terminal" in options
        try:
            status, stdout, stderr = self._request(command, steps, data, options)
            if status < 0:
                status, stderr = 128 - status, stderr + _signal_message(-status)
            return status, stdout, stderr + (self._closing_message() if terminal else b"")
        except client.Failed as e:
            # Errors of become, too, are then reported by the command itself.
            display.vvv("MITOGEN: %s; continuing without mitogen" % e)
            self._is_stock = e.kind == NO_PYTHON
            return None

    def _wants_terminal(self) -> bool:
        """Return whether the stock plugin would request a terminal for a command without input."""
        return False

    def _closing_message(self) -> bytes:
        """Return the message of the stock plugin's client when it closes a terminal."""
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
                # For example, a missing interpreter: the command itself has the best message.
                display.vvv("MITOGEN: %s" % e)
        likely, ahead = self._guarded(self._likely, steps) or (None, None)
        return self._ask("run", steps, command, data, options, likely, ahead)

    def _likely(self, steps: list[Any]) -> tuple[str | None, list[Any] | None]:
        """
        Return the interpreter that modules will probably use (see Broker.run()), and the steps to
        their account, if it isn't the command's.

        :param steps: steps to the command's account
        """
        step = self._watch.step() if self._watch and "become" not in steps[-1] else None
        return self._likely_interpreter(), [*steps, step] if step else None

    def _likely_interpreter(self) -> str | None:
        """
        Return the interpreter that modules will probably use: a path, '' for the one that Ansible
        would discover; None if it can't be predicted.
        """
        given = self.variables.get("ansible_python_interpreter") or "auto"
        if isinstance(given, str) and given.startswith("auto"):
            given = self.variables.get("discovered_interpreter_python") or ""
        is_path = isinstance(given, str) and (not given or given[0] == "/") and "{" not in given
        return str(given) if is_path else None

    def put_file(self, *args: Any, **kwargs: Any) -> None:
        """Send a file."""
        wanted = None if self._is_stock else self._guarded(self._put, *args, **kwargs)
        if not (wanted and self._transfer("put", *wanted)):
            if self._has_stock and not self._guarded(self._via):
                return super().put_file(*args, **kwargs)  # type: ignore[misc,no-any-return]
            self._put_by_command(*args, **kwargs)

    def _put(self, in_path: Any, out_path: Any) -> Any:
        self._prepare()
        path = os.path.abspath(to_text(in_path, errors="surrogateescape"))
        if not os.path.exists(path):
            raise AnsibleFileNotFound("file or module does not exist: %s" % path)
        return self.steps(), path, self._remote_path(out_path)

    def _put_by_command(self, in_path: Any, out_path: Any) -> None:
        with open(to_text(in_path, errors="surrogateescape"), "rb") as fp:
            self._copy("cat >%s", out_path, fp.read())

    def fetch_file(self, *args: Any, **kwargs: Any) -> None:
        """Fetch a file."""
        wanted = None if self._is_stock else self._guarded(self._fetch, *args, **kwargs)
        if not (wanted and self._transfer("get", *wanted)):
            if self._has_stock and not self._guarded(self._via):
                return super().fetch_file(*args, **kwargs)  # type: ignore[misc,no-any-return]
            self._fetch_by_command(*args, **kwargs)

    def _fetch(self, in_path: Any, out_path: Any) -> Any:
        self._prepare()
        path = os.path.abspath(to_text(out_path, errors="surrogateescape"))
        return self.steps(), self._remote_path(in_path), path

    def _fetch_by_command(self, in_path: Any, out_path: Any) -> None:
        data = self._copy("cat <%s", in_path, None)
        with open(to_text(out_path, errors="surrogateescape"), "wb") as fp:
            fp.write(data)

    def _transfer(self, name: str, steps: list[Any], source: str, target: str) -> bool:
        """Send or fetch a file; return False if there is no context for it."""
        display.vvv("MITOGEN: %s %s TO %s" % (name.upper(), source, target))
        try:
            self._ask(name, steps, source, target)
            return True
        except client.Failed as e:
            display.vvv("MITOGEN: %s; continuing without mitogen" % e)
            self._is_stock = True
            return False

    def _copy(self, command: str, path: Any, data: bytes | None) -> bytes:
        """Send or fetch a file through the standard input or output of a command."""
        words = command % shlex.quote(self._remote_path(path))
        status, stdout, stderr = self._exec_fallback(words, data, False)
        if status:
            raise AnsibleError("%s: status %s: %s" % (words, status, to_text(stderr)))
        return bytes(stdout)

    def _remote_path(self, path: Any) -> str:
        text: str = to_text(path, errors="surrogateescape")
        return text

    def reset(self) -> None:
        """Shut down the context; the next command connects again."""
        steps = None if self._is_stock else self._guarded(self.steps)
        if steps is None:
            return super().reset()  # type: ignore[misc,no-any-return]
        self._ask("reset", steps)
        self.close()

    def close(self) -> None:
        """Close the connection to the broker; the context remains."""
        if self._client is not None:
            self._client.close()
        built_modules.build_cache(os.getpid()).save()
        self._connected = False
