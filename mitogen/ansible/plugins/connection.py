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
    method_options,
    options,
    run,
    via,
)

__all__ = ["Plugin", "documentation"]

display = Display()
accelerators.quote_modules(getattr(module_common, "_CachedModule", None))
accelerators.remember_settings(type(C.config))
accelerators.keep_templates()

#: Kinds of error that mean "log in with something else".
AUTHENTICATION = ("PasswordError", "HostKeyError")
#: Kinds of error that mean that a context can't be had, though the host be there.
NO_PYTHON = "UnsupportedPythonError"
NO_CONTEXT = ("NoAccount", NO_PYTHON)
#: Kinds of error by which a script has not begun: it may be run otherwise. After any other one it
#: may have.
NOT_BEGUN = ("FileNotFoundError", "NotADirectoryError", "OSError", "PermissionError", "Refused")
#: What shows that Ansible is not as we know it: a name that is gone, other arguments.
ALIEN = (AttributeError, LookupError, TypeError)
#: ssh's exit status for what is its own fault.
SSH_ERROR = 255


def documentation(stock: Any, name: str) -> str:
    """
    Return what is said of the options of a plugin of ours, for its DOCUMENTATION: the stock one's,
    and ours in place of those that it may have.

    As text, since each worker needs it: to parse it takes longer than a task.

    :param stock: module of the stock plugin
    :param name: ours
    """
    text: str = textwrap.dedent(stock.DOCUMENTATION).strip("\n") + "\n"
    text = re.sub(r"(?m)^( *)pipelining:\n(?:\1 .*\n|\s*\n)*", "", text)
    # Each with the lines that are not at the margin, or an item of a list that is.
    found: dict[str, str] = dict(re.findall(r"(?m)^(\w+):(.*\n(?:[ -].*\n|\s*\n)*)", text))
    listed = found.get("options", "\n")
    indent = re.search(r"^ *(?=\w)", listed, re.MULTILINE)
    ours = options.PIPELINING + ("" if name == "local" else options.VIA)
    lines = "options:" + listed + textwrap.indent(ours, indent.group() if indent else "  ")
    key = "extends_documentation_fragment"
    return lines + ("%s:%s" % (key, found[key]) if key in found else "")


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
    #: What the become plugin makes of commands.
    _watch: become.Watch | None = None
    #: Nothing goes over a context: none can be made on this host, or Ansible is not as we know it.
    _is_stock = False
    #: There is a stock plugin of this kind, which can do without a context.
    _has_stock = True
    #: The task's variables, and the keywords of it and its play.
    variables: Any = {}
    task_keys: Any = None
    #: Inventory names of the hosts that are reached through this one: see via.py.
    chain: list[str] = []
    _via_steps: list[Any] | None = None

    # -- what a plugin says of itself

    def _step(self, is_first: bool) -> Any:
        """
        Return the step to the account that Ansible logs in to.

        :param is_first: it is from the controller, through no other host
        """
        raise NotImplementedError

    def _via(self) -> list[Any]:
        """Return the steps to the host that this one is reached through."""
        if self._via_steps is None:
            spec = self.get_option("mitogen_via")  # type: ignore[attr-defined]
            try:
                self._via_steps = via.steps_to(self, str(plain(spec))) if spec else []
            except ALIEN as e:
                # Not left to the stock plugin, which would go straight to the host.
                text = "mitogen_via=%s: %s: %s" % (spec, type(e).__name__, e)
                raise AnsibleConnectionFailure(text) from e
        return self._via_steps

    def steps(self) -> list[Any]:
        """Return the steps from the controller to the account that Ansible logs in to."""
        before = self._via()
        return [*before, self._step(not before)]

    def _program_options(self) -> dict[str, Any]:
        """Return options of Popen for each program."""
        return {}

    def update_vars(self, variables: Any) -> None:
        """Called with the task's variables, after set_options()."""
        self.variables = variables
        super().update_vars(variables)  # type: ignore[misc]

    def _resolve_option_variables(self, variables: Any, templar: Any) -> Any:
        # That's all of them also for `meta: reset_connection`.
        self.variables = variables
        return super()._resolve_option_variables(variables, templar)  # type: ignore[misc]

    def set_options(self, *args: Any, **kwargs: Any) -> None:
        """Have our options known by our full name too, which Ansible looks for in results."""
        self._via_steps = None
        self.task_keys = kwargs.get("task_keys")
        if "hostvars" in (kwargs.get("var_options") or ()):
            # As they were for `meta: reset_connection` before ansible-core 2.17.
            self.variables = kwargs["var_options"]
        self._guarded(self._name_options)
        super().set_options(*args, **kwargs)  # type: ignore[misc]
        built_modules.keeper(os.getpid())

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
            text = "connections are Ansible's own, which is not as we know it: %s: %s"
            run.say_once(text % (type(e).__name__, e))
            return None

    # -- asking

    def _prepare(self) -> None:
        """Be ready to ask."""
        # A loop's items have one connection then.
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
            text = method_options.readable(str(e))
            if e.kind in AUTHENTICATION:
                raise AnsibleAuthenticationFailure("%s: %s" % (host, text)) from e
            if e.kind in NO_CONTEXT or (name == "script" and e.kind in NOT_BEGUN):
                raise
            if e.kind == "FileNotFoundError":
                raise AnsibleFileNotFound(text) from e
            raise AnsibleConnectionFailure(self._why_not(host, text)) from None
        except (rpc.Lost, OSError) as e:
            raise AnsibleConnectionFailure("mitogen's broker process is gone: %s" % e) from e

    def _why_not(self, host: Any, text: str) -> str:
        """Return what to say of a host that is not reached."""
        return "%s: %s" % (host, text)

    def set_become_plugin(self, plugin: Any) -> None:
        """Note what the plugin makes of commands, to know the command and the account apart."""
        super().set_become_plugin(plugin)  # type: ignore[misc]
        self._is_stock = False
        self._watch = self._guarded(become.Watch, plugin)

    def _take_apart(self, cmd: str) -> tuple[str, list[Any], bool]:
        """
        Return a command without its become, the steps to the account that it is for, and whether
        it is one that asks for a password which only the stock plugin knows how to give.
        """
        steps = self.steps()
        if self._watch is None:
            return cmd, steps, False
        found = self._watch.take_apart(cmd)
        if found.step is None:
            return found.command, steps, found.asks
        executable = self._play_context.executable or "/bin/sh"  # type: ignore[attr-defined]
        words = "%s -c %s" % (executable, shlex.quote(found.command))
        return words, [*steps, found.step], False

    # -- Ansible's interface

    def is_pipelining_enabled(self, wrap_async: bool = False) -> bool:
        """Return whether modules may go by standard input (from ansible-core 2.19)."""
        plugin: Any = self.become  # type: ignore[attr-defined]
        if plugin and not plugin.pipelining and not method_options.become_step(plugin):
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
        # Not from within an except clause: what is raised from here on has no cause of ours.
        return found or self._without(*args, **kwargs)

    def _command(self, cmd: Any, in_data: Any = None, sudoable: bool = True) -> Any:
        """Return what to ask for to have a command run; None if it has to be done without."""
        self._prepare()
        whole = to_text(cmd, errors="surrogateescape")
        command, steps, asks = self._take_apart(whole)
        if asks:
            return None
        self._say_what(whole, steps)
        data = None if in_data is None else to_bytes(in_data, errors="surrogateescape")
        options = self._program_options()
        if sudoable and not data and self._wants_terminal():
            options["terminal"] = os.environ.get("TERM", "")
        return command, steps, data, options

    def _say_what(self, cmd: str, steps: list[Any]) -> None:
        """Say what is run, its become too, as the stock plugin does."""
        display.vvv("MITOGEN: EXEC %s" % cmd, host=steps[0][1].get("hostname"))

    def _without(self, *args: Any, **kwargs: Any) -> Any:
        """Run a command where the account that it is for has no context."""
        if self._guarded(self._via):
            return self._beyond(*args, **kwargs)
        return self._exec_stock(*args, **kwargs)

    def _beyond(self, cmd: Any, in_data: Any = None, sudoable: bool = True) -> Any:
        """Run a command on a host that another one leads to."""
        command = to_text(cmd, errors="surrogateescape")
        data = None if in_data is None else to_bytes(in_data, errors="surrogateescape")
        if not self._is_stock:
            steps = self.steps()
            self._say_what(command, steps)
            found = self._execute(command, steps, data, self._program_options())
            if found:
                return found
        status, stdout, stderr = self._ask("outside", self.steps(), command, data)
        if status == SSH_ERROR and self.transport == "ssh":  # type: ignore[attr-defined]
            raise AnsibleConnectionFailure(to_text(stderr))
        return status, stdout, stderr

    def _exec_stock(self, *args: Any, **kwargs: Any) -> Any:
        """Run a command with no context, from the controller."""
        return super().exec_command(*args, **kwargs)  # type: ignore[misc]

    def _execute(
        self, command: str, steps: list[Any], data: bytes | None, options: dict[str, Any]
    ) -> tuple[int, bytes, bytes] | None:
        """Run a command; return None if the stock plugin has to."""
        terminal = "terminal" in options
        try:
            status, stdout, stderr = self._request(command, steps, data, options)
            if status < 0:
                status, stderr = 128 - status, stderr + _last_words(-status)
            return status, stdout, stderr + (self._farewell() if terminal else b"")
        except client.Failed as e:
            # Also how become fails is then told by the command itself.
            display.vvv("MITOGEN: %s; going on without" % e)
            self._is_stock = e.kind == NO_PYTHON
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
        likely, ahead = self._guarded(self._likely, steps) or (None, None)
        return self._ask("run", steps, command, data, options, likely, ahead)

    def _likely(self, steps: list[Any]) -> tuple[str | None, list[Any] | None]:
        """
        Return what modules will most likely be run with (see Broker.run()), and the steps to the
        account that they are for, if a command's steps are not.

        :param steps: of the command
        """
        step = self._watch.step() if self._watch and "become" not in steps[-1] else None
        return self._likely_interpreter(), [*steps, step] if step else None

    def _likely_interpreter(self) -> str | None:
        """
        Return what modules will most likely be run with: a path, '' for what Ansible would find;
        None if that can't be said.
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
        """Send or fetch a file; return whether there is a context that can do it."""
        display.vvv("MITOGEN: %s %s TO %s" % (name.upper(), source, target))
        try:
            self._ask(name, steps, source, target)
            return True
        except client.Failed as e:
            display.vvv("MITOGEN: %s; going on without" % e)
            self._is_stock = True
            return False

    def _copy(self, command: str, path: Any, data: bytes | None) -> bytes:
        """Send or fetch a file by the standard input or output of a command."""
        words = command % shlex.quote(self._remote_path(path))
        status, stdout, stderr = self._without(words, data, False)
        if status:
            raise AnsibleError("%s: status %s: %s" % (words, status, to_text(stderr)))
        return bytes(stdout)

    def _remote_path(self, path: Any) -> str:
        text: str = to_text(path, errors="surrogateescape")
        return text

    def reset(self) -> None:
        """End the context; the next command connects anew."""
        steps = None if self._is_stock else self._guarded(self.steps)
        if steps is None:
            return super().reset()  # type: ignore[misc,no-any-return]
        self._ask("reset", steps)
        self.close()

    def close(self) -> None:
        """Close the way to the broker; the context stays."""
        if self._client is not None:
            self._client.close()
        built_modules.keeper(os.getpid()).keep()
        self._connected = False
