"""commands.py and a shell do the same: both are run and compared."""

import os
import pathlib
import stat
import subprocess

import pytest

from mitogen.ansible.broker import commands

NAME = "ansible-tmp-1795336299.2389705-27318-74922379351028"
MAKE = (
    '( umask 77 && mkdir -p "` echo {0} `"&& mkdir "` echo {0}/{1} `"'
    ' && echo {1}="` echo {0}/{1} `" )'
)
REMOVE = "rm -f -r {}/ > /dev/null 2>&1"


@pytest.fixture
def homes(tmp_path):
    """Create two equal directories, one for the shell and one for commands.py."""
    found = [tmp_path / "shell", tmp_path / "ours"]
    for home in found:
        home.mkdir(mode=0o755)
    return found


def snapshot(top):
    return {
        str(path.relative_to(top)): (stat.filemode(path.lstat().st_mode), path.is_symlink())
        for path in sorted(top.rglob("*"))
    }


def by_shell(command, home):
    done = subprocess.run(
        ["/bin/sh", "-c", command],
        env={**os.environ, "HOME": str(home)},
        capture_output=True,
    )
    return done.returncode, done.stdout


def both(template, homes, prepare=lambda home: None):
    """Run a command by a shell and by commands.do(); return the output of do()."""
    shell, ours = homes
    for home in homes:
        prepare(home)
    command = template.replace("HERE", str(ours))
    found = commands.known(command)
    assert found, command
    output = commands.do(*found, home=str(ours))
    status, expected = by_shell(template.replace("HERE", str(shell)), shell)
    if output is not None:
        assert (0, expected) == (status, output.replace(os.fsencode(ours), os.fsencode(shell)))
        assert snapshot(shell) == snapshot(ours)
    return output


@pytest.mark.parametrize("pause", ["", " && sleep 0"])
@pytest.mark.parametrize("base", ["~/.ansible/tmp", "$HOME/.ansible/tmp", "HERE/a/b", "HERE"])
def test_make_temporary_makes_a_directory(homes, base, pause):
    output = both(MAKE.format(base, NAME) + pause, homes)
    assert output.startswith(NAME.encode() + b"=/") and output.endswith(NAME.encode() + b"\n")
    # It exists now: the command itself must report that.
    assert both(MAKE.format(base, NAME) + pause, homes) is None


def test_make_temporary_below_a_file(homes):
    write = lambda home: (home / "file").write_text("")  # noqa: E731
    assert both(MAKE.format("HERE/file/a", NAME), homes, write) is None


@pytest.mark.parametrize("home", ["", "relative", "/with space", "/glob*", "/back\\slash"])
def test_a_home_that_a_shell_would_expand(home):
    assert commands.do("home", [], home=home) is None
    assert commands.do("make_temporary", ["~/x", "~/x/y", "y"], home=home) is None


def fill(home):
    (home / "dir" / "deep").mkdir(parents=True)
    (home / "dir" / "deep" / "file").write_text("x")
    (home / "dir" / "link").symlink_to("/etc")
    (home / "link").symlink_to("dir")
    (home / "file").write_text("")


@pytest.mark.parametrize("path", ["HERE/dir", "HERE/none", "HERE/dir/deep"])
def test_remove(homes, path):
    assert both(REMOVE.format(path), homes, fill) == b""


def test_remove_without_a_slash(homes):
    assert both("rm -f -r HERE/link > /dev/null 2>&1", homes, fill) == b""
    assert (homes[1] / "dir").exists()


@pytest.mark.parametrize("path", ["HERE/link", "HERE/file"])
def test_remove_a_file(homes, path):
    assert both(REMOVE.format(path), homes, fill) is None


def test_remove_the_root():
    assert commands.do("remove", ["/"]) is None


def test_open(homes):
    def prepare(home):
        (home / "file").write_text("")
        (home / "file").chmod(0o640)
        (home / "dir").mkdir()
        (home / "dir").chmod(0o2050)

    assert both("chmod u+rwx HERE/dir/ HERE/file && sleep 0", homes, prepare) == b""
    assert stat.S_IMODE((homes[1] / "dir").stat().st_mode) == 0o2750
    assert both("chmod u+rwx HERE/none", homes) is None


def test_home(homes):
    assert both("echo ~ && sleep 0", homes) == os.fsencode(homes[1]) + b"\n"
    assert commands.do("home", []) == os.fsencode(pathlib.Path(os.environ["HOME"])) + b"\n"


@pytest.mark.parametrize(
    "command",
    [
        "",
        "true",
        "echo ~root",
        "echo ~; true",
        "rm -f -r relative/ > /dev/null 2>&1",
        "rm -f -r /a /b > /dev/null 2>&1",
        "rm -f -r /a*/ > /dev/null 2>&1",
        "rm -f -r '/a b' > /dev/null 2>&1",
        "rm -f -r /a > /dev/null 2>&1; echo",
        "rm -f -r /a > /dev/null 2>&1 && sleep 0\n",
        "rm -f -r ~/a > /dev/null 2>&1",
        "chmod u+rwx",
        "chmod u+rwx -R",
        "chmod 700 /a",
        "chmod u+rwx /a;reboot",
        MAKE.format("/a", NAME) + "; true",
        MAKE.format("/a $(id)", NAME),
        MAKE.format("~root/a", NAME),
        MAKE.format("$TMPDIR/a", NAME),
        MAKE.format("/a", NAME).replace(NAME, "other", 1),
        MAKE.format("/a", NAME).replace("77", "022"),
    ],
)
def test_other_commands_are_unknown(command):
    assert commands.known(command) is None
