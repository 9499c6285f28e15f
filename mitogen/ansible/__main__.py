"""
`python -m mitogen.ansible`: show whether playbooks here use mitogen, and turn that on or off.

Exit status: 0 on, or done; 1 off, or done without effect; 2 an error, reported on stderr.
"""

from __future__ import annotations

import argparse
import os
import sys

from mitogen.ansible.setup import enabling, installation

EPILOG = "Exit status: 0 on, or done; 1 off, or done without effect; 2 an error."


def _values(found: installation.Installation) -> dict[str, list[str]]:
    """Return Ansible's current values of the lists that must contain the callback."""
    from ansible import constants

    names = {
        "callbacks_enabled": "CALLBACKS_ENABLED",
        "callback_plugins": "DEFAULT_CALLBACK_PLUGIN_PATH",
    }
    return {
        each.key: [str(value) for value in getattr(constants, names[each.key]) or []]
        for each in found.settings
    }


def _print_problems(lines: list[str]) -> None:
    for line in lines:
        print("! " + line, file=sys.stderr)


def status(found: installation.Installation, options: argparse.Namespace) -> int:
    """Show whether playbooks here use mitogen, and any problems found."""
    print("ansible-core:  %s, run by %s" % (found.release, sys.executable))
    print("configuration: %s" % (found.config or "no ansible.cfg"))
    print("plugins:       %s" % found.plugins)
    for number, line in enumerate(found.on or ["off; 'python -m mitogen.ansible enable'"]):
        print("%s %s" % ("              " if number else "mitogen:      ", line))
    _print_problems(found.problems + found.elsewhere)
    return 0 if found.on and not found.elsewhere else 1


def enable(found: installation.Installation, options: argparse.Namespace) -> int:
    """Add the callback to the ansible.cfg in use."""
    path = options.config or enabling.target(found.config)
    done = enabling.enable(path, found.settings)
    names = ", ".join("%s: %s" % (each.key, each.entry) for each in found.settings)
    print("%s: %s %s" % (path, "now has" if done else "had already", names))
    problems = installation.overridden(found.settings) + found.elsewhere
    if not _is_read(path, found.config):
        text = "Ansible reads %s here, not %s: set ANSIBLE_CONFIG=%s"
        problems.append(text % (found.config or "no such file", path, path))
    _print_problems(problems)
    return 1 if problems else 0


def _is_read(path: str, in_force: str | None) -> bool:
    from ansible.config.manager import find_ini_config_file

    read = find_ini_config_file(set()) or in_force
    return bool(read) and os.path.realpath(str(read)) == os.path.realpath(path)


def disable(found: installation.Installation, options: argparse.Namespace) -> int:
    """Remove the callback from the ansible.cfg in use."""
    path = options.config or found.config
    if not path or not os.path.exists(path):
        raise installation.Error("%s: no such file" % (path or "ansible.cfg"))
    done = enabling.disable(path, found.settings)
    names = ", ".join(each.entry for each in found.settings)
    if not os.path.exists(path):
        print("%s: removed, because nothing else was in it" % path)
    else:
        print("%s: %s" % (path, ("no longer has %s" if done else "had no %s") % names))
    has = [each.variable for each in found.settings if installation.in_variable(each)]
    _print_problems(["the variable %s contains it; unset it" % variable for variable in has])
    return 1 if has else 0


def env(found: installation.Installation, options: argparse.Namespace) -> int:
    """Print shell commands that turn it on for the programs of one shell."""
    print("\n".join(enabling.environment(_values(found), found.settings, options.shell)))
    return 0


COMMANDS = {"status": status, "enable": enable, "env": env, "disable": disable}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m mitogen.ansible",
        description=(__doc__ or "").strip().partition("\n")[0],
        epilog=EPILOG,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, function in COMMANDS.items():
        about = str(function.__doc__)
        command = commands.add_parser(name, help=about, description=about, epilog=EPILOG)
        command.set_defaults(function=function)
        if name in ("enable", "disable"):
            command.add_argument(
                "--config", metavar="PATH", type=os.path.expanduser, help="edit this file instead"
            )
        if name == "env":
            text = "shell that evaluates the output: %(choices)s (%(default)s)"
            command.add_argument("--shell", choices=list(enabling.SHELLS), default="sh", help=text)
    return parser


def main(arguments: list[str] | None = None) -> int:
    """
    Run a command and return its exit status.

    :param arguments: command-line arguments without the program; None for this process's own
    """
    options = _parser().parse_args(arguments)
    try:
        return int(options.function(installation.examine(), options))
    except installation.Error as e:
        print("mitogen.ansible: %s" % e, file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
