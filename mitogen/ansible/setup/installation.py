"""
Examination of the Ansible installed here: its release, its configuration, and its use of mitogen.

Rules
    1. Facts come from Ansible itself, from its ConfigManager and loaders.
    2. Each problem is reported with its remedy.
    3. This module imports nothing of Ansible, which may not be installed; only examine() does.

Threads: one.
"""

from __future__ import annotations

import json
import os
import pathlib
import re
import shutil
import stat
import subprocess
import sys
from typing import Any, NamedTuple

from mitogen.ansible.setup.former_package import is_former_release

__all__ = [
    "Error",
    "Installation",
    "Setting",
    "ansible_python",
    "examine",
    "in_variable",
    "overridden",
]

ROOT = str(pathlib.Path(__file__).absolute().parents[3])
#: First and last release that the tests cover.
SUPPORTED = ((2, 16), (2, 22))
STRATEGIES = ("mitogen", "mitogen_linear", "mitogen_free", "mitogen_host_pinned")
COLLECTION = "mitogen.ansible."
#: Script that shows which packages another Python would import. It is run from the root directory,
#: because Ansible's programs do not have the current directory on their path.
PROBE = """
import importlib.util, json
def version(name):
    try:
        return __import__(name, fromlist=["__version__"]).__version__
    except Exception:
        return None
found = {"ansible": version("ansible.release"), "mitogen": version("mitogen"), "ours": False}
try:
    found["ours"] = importlib.util.find_spec("mitogen.ansible.plugins.callback") is not None
except ImportError:
    pass
print(json.dumps(found))
"""
PROBE_LIMIT = 30.0  # seconds; an interpreter starts in a tenth of one


class Error(Exception):
    """A request can't be carried out; the message has the reason, the place and the remedy."""


class Setting(NamedTuple):
    """
    A list in Ansible's configuration that must contain an entry.

    :param key: name of the list in [defaults]
    :param variable: the environment variable that replaces it
    :param entry: the required entry
    :param separator: separator of the list's entries
    :param first: Ansible's default entries, which a list in a file replaces
    """

    key: str
    variable: str
    entry: str
    separator: str = ","
    first: str = ""


class Installation(NamedTuple):
    """
    Result of the examination.

    :param release: release of Ansible, such as `2.21.5`
    :param config: path of the ansible.cfg in use, or None
    :param plugins: place of mitogen's plugins
    :param settings: settings required by the callback
    :param on: the ways in which playbooks use mitogen, a line each
    :param problems: problems with these ways, a line each
    :param elsewhere: problems with the `ansible-playbook` on PATH, a line each
    """

    release: str
    config: str | None
    plugins: str
    settings: list[Setting]
    on: list[str]
    problems: list[str]
    elsewhere: list[str]


# -- Ansible's Python


def ansible_python() -> str | None:
    """Return the Python that runs the `ansible-playbook` on PATH, if any."""
    program = shutil.which("ansible-playbook")
    if program is None:
        return None
    try:
        with open(program, encoding="utf-8", errors="replace") as fp:
            head = fp.read(4096)
    except OSError:
        return None
    # pip writes the second form if the path has blanks or is too long.
    found = re.match(r"#! *(?:/usr/bin/env +)?(\S*python\S*)", head)
    found = found or re.match(r"#!/bin/sh\n'''exec' \"?([^\"\n]+?)\"? \"\$0\"", head)
    return shutil.which(found.group(1)) if found else None


def _probe(python: str) -> dict[str, Any]:
    """Return the packages that a Python would import; {} if it can't be run."""
    try:
        done = subprocess.run(
            [python, "-c", PROBE], cwd="/", capture_output=True, timeout=PROBE_LIMIT, check=True
        )
        return dict(json.loads(done.stdout))
    except (OSError, ValueError, subprocess.SubprocessError):
        return {}


def _other_python() -> list[str]:
    """Return problems with the Python of `ansible-playbook`, which may be another one."""
    python = ansible_python() or sys.executable
    found = _probe(python)
    # A Python that can't be run reports its own error.
    if not found or found["ours"]:
        return []
    if found.get("mitogen"):
        what = "an older package, mitogen %s" % found["mitogen"]
    else:
        what = "no mitogen"
    text = "%s, which runs ansible-playbook, has %s: run '%s -m pip install --upgrade mitogen'"
    # A checkout needs no installation, but an installed package would take precedence over it.
    if _is_checkout() and not found.get("mitogen"):
        return []
    return [text % (python, what, python)]


def _without_ansible() -> Error:
    python = ansible_python()
    found = _probe(python) if python else {}
    if not found.get("ansible"):
        text = "%s has no ansible-core: install it ('%s -m pip install ansible-core'), or run this"
        return Error((text + " with the Python that has it") % (sys.executable, sys.executable))
    text = "%s has no ansible-core; the ansible-playbook on PATH is run by %s: run '%s%s -m "
    install = "" if found.get("ours") else "%s -m pip install mitogen && " % python
    return Error((text + "mitogen.ansible'") % (sys.executable, python, install, python))


# -- the plugins


def _checkout() -> str:
    return os.path.join(ROOT, "ansible_plugins", "callback")


def _is_checkout() -> bool:
    return os.path.exists(os.path.join(_checkout(), "mitogen.py"))


def _plugins(constants: Any, callback_loader: Any) -> tuple[str, list[Setting]]:
    """Return the place of the plugins, and the settings required by the callback."""
    enabled = ("callbacks_enabled", "ANSIBLE_CALLBACKS_ENABLED")
    found = callback_loader.find_plugin_with_context(COLLECTION + "mitogen")
    if found.resolved:
        path = found.plugin_resolved_path.rsplit(os.sep + "plugins" + os.sep, 1)[0]
        text = "the collection mitogen.ansible in %s" % path
        return text, [Setting(*enabled, COLLECTION + "mitogen")]
    if _is_checkout():
        default = constants.config.get_configuration_definitions()["DEFAULT_CALLBACK_PLUGIN_PATH"]
        first = default["default"]
        # "{{ ANSIBLE_HOME ~ "/plugins..." }}", written with the usual path if possible.
        if "ANSIBLE_HOME" in first:
            home = constants.ANSIBLE_HOME
            home = "~/.ansible" if home == os.path.expanduser("~/.ansible") else home
            first = "%s/plugins/callback:/usr/share/ansible/plugins/callback" % home
        where = ("callback_plugins", "ANSIBLE_CALLBACK_PLUGINS", _checkout(), ":", first)
        return "the checkout %s" % ROOT, [Setting(*enabled, "mitogen"), Setting(*where)]
    site = os.path.join(ROOT, "ansible_collections", "mitogen", "ansible")
    if os.path.isdir(site) and not constants.COLLECTIONS_SCAN_SYS_PATH:
        text = "collections_scan_sys_path is off, so Ansible does not see %s: turn it on, or put %s"
        raise Error((text + " into collections_path") % (site, ROOT))
    text = (
        "Ansible does not find mitogen's plugins next to %s or elsewhere: reinstall mitogen ('%s "
    )
    raise Error((text + "-m pip install --force-reinstall mitogen')") % (ROOT, sys.executable))


# -- the configuration


def _values(constants: Any, name: str) -> tuple[list[str], str]:
    value, origin = constants.config.get_config_value_and_origin(name)
    return [str(each) for each in value or []], str(origin)


def _by_callback(constants: Any, loader: Any, settings: list[Setting]) -> tuple[list[str], Any]:
    """Return lines about the enabled callback, and its problems."""
    enabled, origin = _values(constants, "CALLBACKS_ENABLED")
    found = [each for each in enabled if each in ("mitogen", COLLECTION + "mitogen")]
    if not found:
        return [], []
    if not loader.find_plugin_with_context(found[0]).resolved:
        text = "callbacks_enabled has %s, which Ansible does not find: remove that; it finds %s: "
        names = ", ".join("%s = %s" % (each.key, each.entry) for each in settings)
        return [], [(text + "run 'python -m mitogen.ansible enable'") % (found[0], names)]
    return ["callback: callbacks_enabled has %s (%s)" % (found[0], origin)], []


def _by_strategy(constants: Any, strategy_loader: Any) -> tuple[list[str], list[str]]:
    name = str(constants.DEFAULT_STRATEGY)
    if name.rpartition(".")[2] not in STRATEGIES:
        return [], []
    if strategy_loader.find_plugin_with_context(name).resolved:
        return ["strategy: strategy = %s" % name], []
    text = "strategy = %s is not found: remove it, because the callback needs no strategy, or name "
    return [], [(text + "it %s%s") % (name, COLLECTION, name.rpartition(".")[2])]


def _by_connection(constants: Any) -> list[str]:
    name = str(constants.DEFAULT_TRANSPORT)
    return ["connection: transport = %s" % name] if name.startswith(COLLECTION) else []


def overridden(settings: list[Setting]) -> list[str]:
    """
    Return the settings of a configuration file that are replaced by variables, a line each.

    :param settings: settings in the file
    """
    text = "the variable %s replaces %s in the file, but has no %s: unset it, or run 'eval \"$("
    text += "python -m mitogen.ansible env)\"'"
    return [
        text % (each.variable, each.key, each.entry)
        for each in settings
        if each.variable in os.environ and not in_variable(each)
    ]


def in_variable(setting: Setting) -> bool:
    """Return whether a setting's environment variable contains the entry."""
    value = os.environ.get(setting.variable, "")
    return setting.entry in [each.strip() for each in value.split(setting.separator)]


def _former_plugins(constants: Any) -> list[str]:
    """Return a line for each directory of plugins of a 0.3 release in the configuration."""
    text = "%s has %s, plugins of mitogen 0.3, which need that release: remove it, or use %s"
    return [
        text % (name.lower(), path, COLLECTION + "mitogen (the callback)")
        for name in ("DEFAULT_STRATEGY_PLUGIN_PATH", "DEFAULT_CONNECTION_PLUGIN_PATH")
        for path in _values(constants, name)[0]
        if is_former_release(path)
    ]


def _problems(constants: Any, settings: list[Setting]) -> list[str]:
    found = []
    number = tuple(int(part) for part in _release().split(".")[:2])
    if not SUPPORTED[0] <= number <= SUPPORTED[1]:
        ends = ["%d.%d" % each for each in SUPPORTED]
        found.append(
            "ansible-core %s is not one of the tested releases, %s to %s" % (_release(), *ends)
        )
    found += _former_plugins(constants)
    path = constants.CONFIG_FILE
    here = os.path.abspath("ansible.cfg")
    if os.stat(".").st_mode & stat.S_IWOTH and os.path.exists(here) and path != here:
        text = "%s is world-writable, so Ansible does not read %s: run 'chmod o-w .', or set "
        found.append((text + "ANSIBLE_CONFIG") % (os.getcwd(), here))
    if path:
        with open(path, encoding="utf-8", errors="replace") as fp:
            text = fp.read()
        if re.search(r"(?m)^\s*callback_whitelist\s*[=:]", text):
            found.append("%s: Ansible reads callbacks_enabled, not callback_whitelist" % path)
        if any(re.search(r"(?m)^\s*%s\s*[=:].*mitogen" % each.key, text) for each in settings):
            found += overridden(settings)
    return found


def _release() -> str:
    from ansible.release import __version__

    return str(__version__)


def examine() -> Installation:
    """
    Examine the installation.

    :raises Error: Ansible is not installed or not usable, or does not find mitogen's plugins
    """
    try:
        _release()
    except ImportError:
        raise _without_ansible() from None
    try:
        from ansible import constants
        from ansible.plugins import loader
    except Exception as e:
        raise Error("Ansible can't be imported: %s" % " ".join(str(e).split())) from None
    loader.init_plugin_loader()
    plugins, settings = _plugins(constants, loader.callback_loader)
    ways = [
        _by_callback(constants, loader.callback_loader, settings),
        _by_strategy(constants, loader.strategy_loader),
        (_by_connection(constants), []),
    ]
    on = [line for lines, _ in ways for line in lines]
    problems = [line for _, lines in ways for line in lines]
    problems += _problems(constants, settings)
    config, elsewhere = constants.CONFIG_FILE, _other_python()
    return Installation(_release(), config, plugins, settings, on, problems, elsewhere)
