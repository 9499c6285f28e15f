"""enabling.py: atomic edits of files; shells; the command line."""

import os
import stat
import subprocess
import threading

import pytest

from mitogen.ansible import __main__ as command
from mitogen.ansible.setup import enabling, installation

SETTINGS = [
    installation.Setting("callbacks_enabled", "ANSIBLE_CALLBACKS_ENABLED", "mitogen"),
    installation.Setting("callback_plugins", "ANSIBLE_CALLBACK_PLUGINS", "/x", ":", "/a:/b"),
]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "ansible.cfg"


def both(path):
    """Enable and disable; return the text in between."""
    assert enabling.enable(str(path), SETTINGS) is True
    text = path.read_bytes().decode()
    assert enabling.enable(str(path), SETTINGS) is False
    assert path.read_bytes().decode() == text
    assert enabling.disable(str(path), SETTINGS) is True
    return text


def test_disable_removes_a_new_file(path):
    """It has the permissions of any new file, and is removed when it has no other contents."""
    old = os.umask(0o027)
    try:
        enabling.enable(str(path), SETTINGS)
    finally:
        os.umask(old)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert "callbacks_enabled = mitogen\n" in path.read_text()
    assert "callback_plugins = /a:/b:/x\n" in path.read_text()
    enabling.disable(str(path), SETTINGS)
    assert not path.exists() and os.listdir(str(path.parent)) == []


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"[defaults]\n",
        b"[defaults]\r\nforks = 5 ; as many\r\n",
        b"# \xc3\xa4\n[defaults]\ncallbacks_enabled = timer\ncallback_plugins=/c\n",
        b"[ssh_connection]\npipelining = 1",
    ],
)
def test_disable_restores_the_file(path, text):
    path.write_bytes(text)
    path.chmod(0o604)
    assert "mitogen" in both(path)
    if text:
        assert path.read_bytes() == text
        assert stat.S_IMODE(path.stat().st_mode) == 0o604
    assert set(os.listdir(str(path.parent))) <= {"ansible.cfg"}


def test_a_symlink_is_kept(path):
    target = path.parent / "real.cfg"
    target.write_text("[defaults]\n")
    path.symlink_to(target.name)
    both(path)
    assert path.is_symlink() and target.read_text() == "[defaults]\n"


def test_a_missing_entry_is_not_removed(path):
    assert enabling.disable(str(path), SETTINGS) is False
    assert not path.exists()
    path.write_text("[defaults]\n")
    assert enabling.disable(str(path), SETTINGS) is False


@pytest.mark.parametrize(
    "text, why", [(b"[defaults\n", "can't read it"), (b"[a]\nb=\xff\n", "not UTF-8")]
)
def test_an_invalid_file_is_an_error(path, text, why):
    path.write_bytes(text)
    for change in (enabling.enable, enabling.disable):
        with pytest.raises(installation.Error, match=why) as caught:
            change(str(path), SETTINGS)
        assert str(path) in str(caught.value)
    assert path.read_bytes() == text


def test_a_wrong_path_is_an_error(path):
    with pytest.raises(installation.Error, match="No such file or directory: .*--config"):
        enabling.enable(str(path / "ansible.cfg"), SETTINGS)
    with pytest.raises(installation.Error, match="Is a directory"):
        enabling.enable(str(path.parent), SETTINGS)


def test_an_interrupt_leaves_the_file_unchanged(path, monkeypatch):
    """The file is unchanged, and no other is left behind."""
    path.write_text("[defaults]\n")

    def replace(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(KeyboardInterrupt):
        enabling.enable(str(path), SETTINGS)
    assert path.read_text() == "[defaults]\n" and os.listdir(str(path.parent)) == ["ansible.cfg"]


def test_concurrent_edits_are_kept(path):
    """All entries added by several threads are in the file."""
    path.write_text("[defaults]\nforks = 5\n")
    entries = [SETTINGS[0]._replace(entry="e{}".format(number)) for number in range(8)]
    threads = [
        threading.Thread(target=enabling.enable, args=(str(path), [entry])) for entry in entries
    ]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert all(each.entry in path.read_text() for each in entries)


# ---- which file


def test_the_target_is_the_file_that_ansible_reads(monkeypatch, path):
    monkeypatch.chdir(path.parent)
    monkeypatch.delenv("ANSIBLE_CONFIG", raising=False)
    assert enabling.target("/etc/ansible/ansible.cfg") == "/etc/ansible/ansible.cfg"
    assert enabling.target(None) == str(path)
    monkeypatch.setenv("ANSIBLE_CONFIG", "/somewhere/a.cfg")
    assert enabling.target(None) == "/somewhere/a.cfg"
    monkeypatch.setenv("ANSIBLE_CONFIG", str(path.parent))
    assert enabling.target(None) == str(path)


def test_a_world_writable_directory_is_refused(monkeypatch, path):
    monkeypatch.chdir(path.parent)
    monkeypatch.delenv("ANSIBLE_CONFIG", raising=False)
    path.parent.chmod(0o777)
    with pytest.raises(installation.Error, match="is world-writable, so Ansible"):
        enabling.target(None)


# ---- shells


@pytest.mark.parametrize("shell", ["sh", "fish", "csh"])
@pytest.mark.parametrize("entry", ["/x", "/a b/it's", 'a"b\\c$d'])
def test_the_environment_can_be_set_in_each_shell(shell, entry):
    """A shell that runs it has the variable, with any characters; earlier entries stay."""
    settings = [SETTINGS[0]._replace(entry=entry)]
    lines = enabling.environment({"callbacks_enabled": ["timer", entry]}, settings, shell)
    script = "\n".join([*lines, "env"])
    done = subprocess.run([shell, "-c", script], capture_output=True, text=True, check=True)
    assert "ANSIBLE_CALLBACKS_ENABLED=timer,{}\n".format(entry) in done.stdout


# ---- the command line


@pytest.fixture
def found(monkeypatch, path):
    """Return a result of examine(), to be changed by a test."""
    made = installation.Installation("2.21.5", str(path), "somewhere", SETTINGS[:1], [], [], [])
    state = [made]
    monkeypatch.setattr(installation, "examine", lambda: state[0])
    monkeypatch.setattr(command, "_is_read", lambda path, in_force: path == in_force)
    monkeypatch.delenv("ANSIBLE_CALLBACKS_ENABLED", raising=False)
    return state


def test_status_prints_state_and_problems(found, capsys):
    assert command.main(["status"]) == 1
    assert "off; " in capsys.readouterr().out
    found[0] = found[0]._replace(on=["callback: x", "strategy: y"], problems=["a thing"])
    assert command.main(["status"]) == 0
    output = capsys.readouterr()
    assert "mitogen:       callback: x\n               strategy: y\n" in output.out
    assert output.err == "! a thing\n"
    found[0] = found[0]._replace(elsewhere=["another Python"])
    assert command.main(["status"]) == 1


def test_enable_and_disable(found, path, capsys, monkeypatch):
    assert command.main(["disable"]) == 2
    assert "no such file" in capsys.readouterr().err
    assert [command.main(["enable"]) for _ in range(2)] == [0, 0]
    output = capsys.readouterr().out
    assert "now has callbacks_enabled: mitogen" in output and "had already" in output
    monkeypatch.setenv("ANSIBLE_CALLBACKS_ENABLED", "timer")
    assert command.main(["enable"]) == 1
    assert "the variable ANSIBLE_CALLBACKS_ENABLED replaces" in capsys.readouterr().err
    monkeypatch.setenv("ANSIBLE_CALLBACKS_ENABLED", "timer, mitogen")
    assert command.main(["enable"]) == 0
    assert command.main(["disable"]) == 1
    assert "contains it; unset it" in capsys.readouterr().err and not path.exists()


def test_another_file_needs_a_variable(found, path, capsys):
    other = path.parent / "other.cfg"
    assert command.main(["enable", "--config", str(other)]) == 1
    assert "set ANSIBLE_CONFIG={}".format(other) in capsys.readouterr().err
    assert other.exists() and not path.exists()
    assert command.main(["disable", "--config", str(other)]) == 0
    assert "removed" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [[], ["start"], ["env", "--shell", "tcl"], ["status", "x"]])
def test_wrong_arguments_are_refused(arguments, capsys):
    with pytest.raises(SystemExit) as caught:
        command.main(arguments)
    assert caught.value.code == 2 and "usage: python -m mitogen.ansible" in capsys.readouterr().err
