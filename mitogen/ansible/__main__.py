"""
`python -m mitogen.ansible`: whether playbooks use mitogen here, and to have them do so or not.

Exit status: 0 on, or done; 1 off, or done to no avail; 2 an error, which is said.
"""

from __future__ import annotations

import argparse
import os
import sys

from mitogen.ansible.setup import enabling, installation

EPILOG = "Exit status: 0 on, or done; 1 off, or done to no avail; 2 an error."


def _values(found: installation.Installation) -> dict[str, list[str]]:
    """Return what Ansible has now for the lists that the callback needs."""
    from ansible import constants

    names = {
        "callbacks_enabled": "CALLBACKS_ENABLED",
        "callback_plugins": "DEFAULT_CALLBACK_PLUGIN_PATH",
    }
    return {
        each.key: [str(value) for value in getattr(constants, names[each.key]) or []]
        for each in found.settings
    }


def _tell(lines: list[str]) -> None:
    for line in lines:
        print("! " + line, file=sys.stderr)


def status(found: installation.Installation, options: argparse.Namespace) -> int:
    """Print what Ansible does here."""
    print("ansible-core:  %s, run by %s" % (found.release, sys.executable))
    print("configuration: %s" % (found.config or "no ansible.cfg"))
    print("plugins:       %s" % found.plugins)
    for number, line in enumerate(found.on or ["off; 'python -m mitogen.ansible enable'"]):
        print("%s %s" % ("              " if number else "mitogen:      ", line))
    _tell(found.problems + found.elsewhere)
    return 0 if found.on and not found.elsewhere else 1


def enable(found: installation.Installation, options: argparse.Namespace) -> int:
    """Put the callback into the ansible.cfg in force."""
    path = options.config or enabling.target(found.config)
    done = enabling.enable(path, found.settings)
    names = ", ".join("%s: %s" % (each.key, each.entry) for each in found.settings)
    print("%s: %s %s" % (path, "now has" if done else "had already", names))
    problems = installation.overridden(found.settings) + found.elsewhere
    if not _is_read(path, found.config):
        text = "Ansible reads %s here, not %s: set ANSIBLE_CONFIG=%s"
        problems.append(text % (found.config or "no such file", path, path))
    _tell(problems)
    return 1 if problems else 0


def _is_read(path: str, in_force: str | None) -> bool:
    from ansible.config.manager import find_ini_config_file

    read = find_ini_config_file(set()) or in_force
    return bool(read) and os.path.realpath(str(read)) == os.path.realpath(path)


def disable(found: installation.Installation, options: argparse.Namespace) -> int:
    """Take the callback out of the ansible.cfg in force."""
    path = options.config or found.config
    if not path or not os.path.exists(path):
        raise installation.Error("%s: there is no such file" % (path or "ansible.cfg"))
    done = enabling.disable(path, found.settings)
    names = ", ".join(each.entry for each in found.settings)
    if not os.path.exists(path):
        print("%s: removed, as there was nothing else in it" % path)
    else:
        print("%s: %s" % (path, ("no longer has %s" if done else "had no %s") % names))
    has = [each.variable for each in found.settings if installation.in_variable(each)]
    _tell(["the variable %s has it: unset it" % variable for variable in has])
    return 1 if has else 0


def env(found: installation.Installation, options: argparse.Namespace) -> int:
    """Print what turns it on for the programs of one shell."""
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
            text = "for whose eval it is: %(choices)s (%(default)s)"
            command.add_argument("--shell", choices=list(enabling.SHELLS), default="sh", help=text)
    return parser


def main(arguments: list[str] | None = None) -> int:
    """
    Run a command and return its exit status.

    :param arguments: of the command line, without the program; None for the process' own
    """
    options = _parser().parse_args(arguments)
    try:
        return int(options.function(installation.look(), options))
    except installation.Error as e:
        print("mitogen.ansible: %s" % e, file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
