"""argv() of each connection method, as golden tables; wrong options, and their errors."""

import os
import pathlib
import shlex
import sys
from shlex import quote
from types import SimpleNamespace

import pytest

from mitogen import doas, parent, ssh, su, sudo
from mitogen.bootstrap import spawn
from mitogen.bootstrap.handshake import Prompt, first_stage, remote_command
from mitogen.core import StreamError
from mitogen.methods import connection, containers

NAME = "user@host:1"
HERE = [sys.executable, "-c", first_stage(), NAME]
THERE = remote_command(None, NAME)
SSH_END = ["-o", "ConnectTimeout 30", "--", "h", *THERE]


def argv(module, **kwargs):
    kwargs.setdefault("remote_name", NAME)
    conn = module.Connection(module.Connection.options_class(**kwargs), None)
    if module is sudo:
        conn.prompt = "PROMPT"
    return conn.argv()


def settings(*some):
    return [word for each in some for word in ("-o", each)]


COMPRESS, BATCH, STRICT = "Compression yes", "BatchMode yes", "StrictHostKeyChecking yes"
ALIVE = ("ServerAliveInterval 15", "ServerAliveCountMax 3")
PASSWORD = "NumberOfPasswordPrompts 1"
ONLY = "IdentitiesOnly yes"
IGNORE = (
    "StrictHostKeyChecking no",
    "UserKnownHostsFile /dev/null",
    "GlobalKnownHostsFile /dev/null",
)
USUAL = settings(COMPRESS, *ALIVE, BATCH, STRICT)

SSH = {
    "plain": ({}, ["ssh", "-o", "RequestTTY no", *USUAL, *SSH_END]),
    "user, port": (
        {"username": "u", "port": 2222},
        ["ssh", "-l", "u", "-p", "2222", "-o", "RequestTTY no", *USUAL, *SSH_END],
    ),
    "path": (
        {"ssh_path": pathlib.Path("/opt/ssh")},
        ["/opt/ssh", "-o", "RequestTTY no", *USUAL, *SSH_END],
    ),
    "words": (
        {"ssh_path": ["nice", "ssh"]},
        ["nice", "ssh", "-o", "RequestTTY no", *USUAL, *SSH_END],
    ),
    "arguments": (
        {"ssh_args": ["-F", "/c"]},
        ["ssh", "-o", "RequestTTY no", *USUAL, "-F", "/c", *SSH_END],
    ),
    "debug": ({"ssh_debug_level": 5}, ["ssh", "-vvv", "-o", "RequestTTY no", *USUAL, *SSH_END]),
    "debug 1": ({"ssh_debug_level": 1}, ["ssh", "-v", "-o", "RequestTTY no", *USUAL, *SSH_END]),
    "key": (
        {"identity_file": pathlib.Path("~/key")},
        [
            "ssh",
            "-i",
            os.path.expanduser("~/key"),
            "-o",
            "RequestTTY no",
            *settings(ONLY),
            *USUAL,
            *SSH_END,
        ],
    ),
    "key among others": (
        {"identity_file": "/key", "identities_only": False},
        ["ssh", "-i", "/key", "-o", "RequestTTY no", *USUAL, *SSH_END],
    ),
    "password": (
        {"password": "x"},
        ["ssh", "-o", "RequestTTY no", *settings(ONLY, COMPRESS, *ALIVE, PASSWORD, STRICT)]
        + SSH_END,
    ),
    "accept": (
        {"check_host_keys": "accept"},
        ["ssh", "-o", "RequestTTY no"]
        + settings(COMPRESS, *ALIVE, "StrictHostKeyChecking ask")
        + SSH_END,
    ),
    "ignore": (
        {"check_host_keys": "ignore"},
        ["ssh", "-o", "RequestTTY no", *settings(COMPRESS, *ALIVE, BATCH, *IGNORE), *SSH_END],
    ),
    "True of 2017": ({"check_host_keys": True}, ["ssh", "-o", "RequestTTY no", *USUAL, *SSH_END]),
    "False of 2017": (
        {"check_host_keys": False},
        ["ssh", "-o", "RequestTTY no", *settings(COMPRESS, *ALIVE, BATCH, *IGNORE), *SSH_END],
    ),
    "no compression": (
        {"compression": False},
        ["ssh", "-o", "RequestTTY no", *settings("Compression no", *ALIVE, BATCH, STRICT)]
        + SSH_END,
    ),
    "no keepalive": (
        {"keepalive_enabled": False},
        ["ssh", "-o", "RequestTTY no", *settings(COMPRESS, BATCH, STRICT), *SSH_END],
    ),
    "keepalive": (
        {"keepalive_interval": 5, "keepalive_count": 7},
        ["ssh", "-o", "RequestTTY no"]
        + settings(COMPRESS, "ServerAliveInterval 5", "ServerAliveCountMax 7")
        + settings(BATCH, STRICT)
        + SSH_END,
    ),
    "python": (
        {"python_path": "/opt/my python"},
        [
            "ssh",
            "-o",
            "RequestTTY no",
            *USUAL,
            *SSH_END[:4],
            "'/opt/my python'",
            *remote_command("p", NAME)[1:],
        ],
    ),
}


@pytest.mark.parametrize("name", SSH)
def test_ssh(name):
    kwargs, wanted = SSH[name]
    assert argv(ssh, hostname="h", **kwargs) == wanted


SUDO_START = ["sudo", "-u"]
OTHERS = {
    "local": (connection, {}, HERE),
    "local python": (connection, {"python_path": pathlib.Path("/p")}, ["/p", *HERE[1:]]),
    "local words": (
        connection,
        {"python_path": ["env", "A=b", "p"]},
        ["env", "A=b", "p", *HERE[1:]],
    ),
    "sudo": (sudo, {}, [*SUDO_START, "root", "--", *HERE]),
    "sudo user": (sudo, {"username": "u"}, [*SUDO_START, "u", "--", *HERE]),
    "sudo path": (
        sudo,
        {"sudo_path": pathlib.Path("/s")},
        ["/s", "-u", "root", "--", *HERE],
    ),
    "sudo flags": (
        sudo,
        {"preserve_env": True, "set_home": True, "login": True},
        [*SUDO_START, "root", "-E", "-H", "-i", "--", *HERE],
    ),
    "sudo selinux": (
        sudo,
        {"selinux_role": "r", "selinux_type": "t"},
        [*SUDO_START, "root", "-r", "r", "-t", "t", "--", *HERE],
    ),
    "sudo_args": (
        sudo,
        {"username": "u", "sudo_args": ["-u", "v", "-EHi", "-r", "R", "--type=T"]},
        [*SUDO_START, "v", "-E", "-H", "-i", "-r", "R", "-t", "T", "--", *HERE],
    ),
    "sudo_args, others": (
        sudo,
        {"sudo_args": ["-g", "wheel", "-C", 5, "-k", "--host=h", "-P", "-R", "/r", "-D", "/d"]},
        [
            *SUDO_START,
            "root",
            "-C",
            "5",
            "-g",
            "wheel",
            "-h",
            "h",
            "-k",
            "-P",
            "-R",
            "/r",
            "-D",
            "/d",
        ]
        + ["--", *HERE],
    ),
    "sudo_args about the prompt": (
        sudo,
        {"sudo_args": ["-n", "-S", "-p", "other"]},
        [*SUDO_START, "root", "--", *HERE],
    ),
    "doas": (doas, {}, ["doas", "-u", "root", "--", *HERE]),
    "doas user": (
        doas,
        {"username": "u", "doas_path": pathlib.Path("/d")},
        ["/d", "-u", "u", "--", *HERE],
    ),
    "su user": (su, {"username": "u", "su_path": pathlib.Path("/s")}, None),
    "su": (su, {}, None),
}


@pytest.mark.parametrize("name", OTHERS)
def test_argv(name):
    module, kwargs, wanted = OTHERS[name]
    found = argv(module, **kwargs)
    if module is su:
        path, user = ("/s", "u") if kwargs else ("su", "root")
        assert found[:3] == [path, user, "-c"] and len(found) == 4
        assert shlex.split(found[3]) == ["exec", *HERE]
    else:
        assert found == wanted
    assert all(type(word) is str for word in found)


@pytest.mark.parametrize("module", [connection, ssh, sudo, su, doas])
def test_nothing_secret_is_on_the_command_line(module):
    kwargs = {} if module is connection else {"password": "secret"}
    if module is ssh:
        kwargs["hostname"] = "h"
    assert not any("secret" in word for word in argv(module, **kwargs))


def test_the_prompt_of_sudo_is_unique():
    prompts = {sudo.Connection(sudo.Options(), None).prompt for _ in range(5)}
    assert len(prompts) == 5 and all("password" in prompt for prompt in prompts)


# ---- wrong options


@pytest.mark.parametrize(
    "module, kwargs, error, why",
    [
        (connection, {"remote_name": "a/b"}, ValueError, "must not contain a slash"),
        (connection, {"remote_name": "a\\b"}, ValueError, "must not contain a slash"),
        (connection, {"connect_timeout": "soon"}, ValueError, "soon"),
        (connection, {"no_such_option": 1}, TypeError, "no_such_option"),
        (ssh, {}, TypeError, "hostname"),
        (ssh, {"hostname": ""}, ValueError, "hostname='' is not a host name"),
        (ssh, {"hostname": "-oProxyCommand=x"}, ValueError, "'-oProxyCommand=x' is not a host"),
        (ssh, {"hostname": "h", "check_host_keys": "maybe"}, ValueError,
         "check_host_keys='maybe' must be 'enforce', 'accept' or 'ignore'"),
        (ssh, {"hostname": "h", "user": "u"}, TypeError, "user"),
        (sudo, {"sudo_args": ["--no-such"]}, StreamError, "invalid sudo_args=.*no such option"),
        (sudo, {"sudo_args": ["-u"]}, StreamError, "invalid sudo_args=.*-u"),
        (sudo, {"sudo_args": ["ls"]}, StreamError, "invalid sudo_args=.*'ls' is not an option"),
        (sudo, {"no_such_option": 1}, TypeError, "no_such_option"),
        (su, {"sudo_path": "x"}, TypeError, "sudo_path"),
        (doas, {"hostname": "x"}, TypeError, "hostname"),
    ],
)  # fmt: skip
def test_wrong_options(module, kwargs, error, why):
    with pytest.raises(error, match=why):
        module.Connection.options_class(**kwargs)


@pytest.mark.parametrize("port", [22, "22"])
def test_a_port_may_be_text(port):
    assert "22" in argv(ssh, hostname="h", port=port)


def test_a_user_that_looks_like_an_option():
    for module, flag in ((sudo, "-u"), (doas, "-u"), (ssh, "-l")):
        kwargs = {"hostname": "h"} if module is ssh else {}
        found = argv(module, username="-x", **kwargs)
        assert found[found.index(flag) + 1] == "-x"  # its value, not an option


def test_a_user_that_looks_like_an_option_to_su():
    with pytest.raises(ValueError):
        argv(su, username="-c")


# ---- other attributes of a method


def test_names_and_lookups():
    def conn(module, **kwargs):
        return module.Connection(module.Connection.options_class(**kwargs), None)

    assert conn(ssh, hostname="h").default_name() == "ssh.h"
    assert conn(ssh, hostname="h", port=2222).default_name() == "ssh.h:2222"
    assert conn(sudo).default_name() == "sudo.root"
    assert conn(su, username="u").default_name() == "su.u"
    assert conn(doas, username="u").default_name() == "doas.u"
    assert conn(ssh, hostname="h").lookup().startswith("python3, python3.15, ")
    assert conn(ssh, hostname="h").lookup().endswith(", python3.6, python")
    assert conn(ssh, hostname="h", python_path=["a", "b"]).lookup() == "a b"
    assert conn(connection).lookup() == sys.executable


def test_terminals_and_keepalives_of_each_method():
    plain = ssh.Connection(ssh.Options("h"), None)
    asked = ssh.Connection(ssh.Options("h", password="x"), None)
    assert (plain.tty, plain.err, asked.tty) == (False, True, True)
    assert ssh.Connection(ssh.Options("h", check_host_keys="accept"), None).tty
    assert ssh.Connection(ssh.Options("h", keepalive_enabled=False), None).keepalive_interval == 0
    assert (asked.keepalive_interval, asked.keepalive_count) == (15, 3)
    assert (su.Connection.stdio, su.Connection.eager) == ("tty", False)
    assert sudo.Connection.tty and sudo.Connection.eager and doas.Connection.tty


def test_every_method_has_its_class():
    for name in parent.METHODS:
        assert issubclass(parent.get_connection_class(name), connection.Connection)
        method = getattr(parent.Router, name)
        assert method.__name__ == name and name in method.__doc__
    with pytest.raises(
        ValueError, match="unknown connection method 'telnet'; known are: buildah, command, "
    ):
        parent.get_connection_class("telnet")


def test_default_remote_name():
    name = connection.get_default_remote_name()
    assert name.endswith(":%d" % os.getpid()) and "@" in name and "/" not in name
    assert connection.Options().remote_name == name
    assert connection.get_sys_executable() == sys.executable


# ---- passwords

WITH_PASSWORD = {
    "ssh": lambda password: ssh.Options(hostname="h", password=password),
    "sudo": lambda password: sudo.Options(password=password),
    "su": lambda password: su.Options(password=password),
    "doas": lambda password: doas.Options(password=password),
    "command": lambda password: containers.Options(argv=["a"], password=password),
}


@pytest.mark.parametrize("name", WITH_PASSWORD)
def test_a_password_is_text_or_bytes(name):
    make = WITH_PASSWORD[name]
    assert make(b"a\xff").password == "a\udcff" and make("\u00e9").password == "\u00e9"
    with pytest.raises(TypeError, match="password= must be str or bytes, not int"):
        make(1234)
    with pytest.raises(ValueError, match="a lone surrogate"):
        make("\ud800")


@pytest.mark.parametrize("module", [sudo, doas, su])
def test_a_guard_precedes_the_child_if_there_is_a_password(module):
    guard = " ".join(["echo MITO:PASSED;exec", *(quote(word) for word in HERE)])
    *_, last = argv(module, password="x")
    assert guard in (shlex.split(last) if module is su else [last])
    assert "MITO:PASSED" not in " ".join(argv(module))


def test_no_secret_is_on_the_command_line():
    conn = sudo.Connection(sudo.Options(password="hunter2"), None)
    token = conn.prompt.split()[1][:-1]
    assert len(token) == 32 and token in conn.environ["SUDO_PROMPT"]
    assert not [word for word in conn.argv() if token in word or "hunter2" in word]


ACCOUNTS = {
    "the caller": ([{1000}], True),
    "set-user-id": ([{1000, 0}], True),
    "with a child": ([{0}, {1000}], True),
    "not shown": (None, True),
    "another account": ([{0}, {0}, {1001}], False),
    "another account in a set-user-id program": ([{0}, {0, 1001}], False),
    "ended": ([{0, -1}], False),
}


@pytest.mark.parametrize("unusual", [False, True])
@pytest.mark.parametrize("name", ACCOUNTS)
def test_an_account_that_has_changed_is_given_no_answer(monkeypatch, name, unusual):
    accounts, good = ACCOUNTS[name]
    monkeypatch.setattr(os, "getuid", lambda: 1000)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(spawn, "accounts_below", lambda pid: accounts)
    monkeypatch.setattr(spawn, "has_reaped", lambda pid: False)
    conn = sudo.Connection(sudo.Options(password="x"), None)
    conn.process = SimpleNamespace(pid=1)
    # Another prompt than ours is answered only if no other process can have written it.
    alone = accounts is not None and len(accounts) == 1
    wanted = good and (alone or not unusual)
    assert conn.judge(Prompt("password", "Password:", "", unusual)) is wanted
    if unusual:
        monkeypatch.setattr(spawn, "has_reaped", lambda pid: True)
        assert conn.judge(Prompt("password", "Password:", "", unusual)) is False


G_JUMP = {"user": "u", "hostname": "H.example", "proxyjump": "j"}
G_PLAIN = {"user": "u", "hostname": "H.example"}
LONG = "a" * 200
#: Options, the prompt's line, its asker, ssh's configuration if it must be read; whether to answer.
ASKERS = {
    "named": ({}, "u@h's password:", "", None, True),
    "upper case": ({"hostname": "H"}, "u@h's password:", "", None, True),
    "account": ({"username": "u"}, "u@h's password:", "", None, True),
    "domain": ({"username": "u@d"}, "u@d@h's password:", "", None, True),
    "long": ({"hostname": LONG}, "u@%s's password:" % LONG[:128], "", None, True),
    "interactive": ({}, "Password:", "u@h", None, True),
    "alias": ({}, "u@h.example's password:", "", G_JUMP, True),
    "alias, interactive": ({}, "Password:", "u@h.example", G_JUMP, True),
    "jump": ({}, "u@j's password:", "", G_JUMP, False),
    "jump, same host": ({"username": "u"}, "v@h's password:", "", G_JUMP, False),
    "jump, interactive": ({}, "Password:", "u@j", G_JUMP, False),
    "jump that pretends": ({}, "u@h's password:", "u@j", G_JUMP, False),
    "old ssh": ({}, "Password:", "", G_PLAIN, True),
    "old ssh, jump": ({}, "Password:", "", G_JUMP, False),
    "no configuration": ({}, "Password:", "", {}, False),
    "key": ({}, "Enter passphrase for key '/k':", "", None, True),
    "own key": ({"identity_file": "/k"}, "Enter passphrase for key '/k':", "", None, True),
    "other key": ({"identity_file": "/k"}, "Enter passphrase for key '/j':", "", None, False),
    "key of a server": ({}, "Enter passphrase for key '/k':", "u@j", G_JUMP, False),
}


@pytest.mark.parametrize("name", ASKERS)
def test_ssh_answers_only_the_host_and_account_that_were_named(monkeypatch, name):
    kwargs, line, asker, configuration, good = ASKERS[name]
    conn = ssh.Connection(ssh.Options(**dict({"hostname": "h", "password": "x"}, **kwargs)), None)
    monkeypatch.setattr(conn, "_configuration", lambda: configuration, raising=False)
    verdict = conn.judge(Prompt("password", line, asker, False))
    error = None if verdict is True else verdict()
    assert (error is None) == good, error
    assert isinstance(error, (ssh.PasswordError, type(None)))


def test_a_host_key_is_accepted_without_a_look_at_the_host():
    conn = ssh.Connection(ssh.Options(hostname="h", check_host_keys="accept"), None)
    assert conn.judge(Prompt("hostkey", "(yes/no)?", "", False)) is True


@pytest.mark.parametrize(
    "argv, shown",
    [
        (["kubectl", "--token", "abc", "x"], ["kubectl", "--token", "********", "x"]),
        (["kubectl", "--token=a=b"], ["kubectl", "--token=********"]),
        (["env", "API_TOKEN=x", "MY_PASSWD=y", "HOME=/"],
         ["env", "API_TOKEN=********", "MY_PASSWD=********", "HOME=/"]),
        (["--password", "--token", "x"], ["--password", "********", "********"]),
        (["--token"], ["--token"]),
        (["--token="], ["--token="]),
    ],
)  # fmt: skip
def test_secrets_on_a_command_line_are_not_shown(argv, shown):
    assert connection.censored(argv) == shown
