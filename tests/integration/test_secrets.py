"""A password goes only to the program that it is meant for, and is not kept.

Each attack is made by files and processes of the account that a context is to run as: they pretend
to be sudo, su or doas on each terminal that they can open, and write down any answer.
"""

import os
import pathlib
import pwd
import subprocess
import sys

import pytest

import mitogen.ssh
from tests import processes
from tests.integration.conftest import PYTHON

pytestmark = [pytest.mark.ssh, pytest.mark.root]

CANARY = "canary-7f31"
ATTACK = r"""
import os, re, select, sys, termios
loot = os.open(LOOT, os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600)
texts = [b"[sudo] password for x: ", b"doas (x@y) password: ", b"Password: "]
for name in os.listdir("/proc"):
    for file in ("cmdline", "environ"):
        try:
            with open("/proc/%s/%s" % (name, file), "rb") as fp:
                texts[:0] = re.findall(rb"\[mitogen [0-9a-f]+\] password: ", fp.read())
        except OSError:
            pass
for text in texts[:-3]:
    os.write(loot, b"found the prompt %r\n" % text)
terminals = [(1, 0)] if os.isatty(0) and os.isatty(1) else []
for path in ["/dev/tty"] + ["/dev/pts/" + name for name in os.listdir("/dev/pts")]:
    try:
        terminals.append((os.open(path, os.O_RDWR | os.O_NOCTTY),) * 2)
    except OSError:
        pass
for out, back in terminals:
    for text in dict.fromkeys(texts):
        os.write(out, b"\r\n" + text)
        if select.select([back], [], [], 0.7)[0]:
            os.write(loot, b"got %r for %r\n" % (os.read(back, 1000), text))
os.write(loot, b"the attack is over\n")
"""
#: Files by which programs are run as an account: name to the content that runs {command}.
FILES = {
    "usercustomize": "import os; os.system({command!r})\n",
    ".bash_profile": "{command}\n",
    ".cshrc": "{command}\n",
    ".config/fish/config.fish": "{command}\n",
}


def user_site(user):
    """Return the user site directory of an account for PYTHON."""
    script = "import site; print(site.getusersitepackages())"
    env = {"HOME": user.home, "PATH": "/usr/bin:/bin"}
    return pathlib.Path(subprocess.check_output([PYTHON, "-c", script], env=env).decode().strip())


class Attacker:
    """An account with a hostile file, and what it wrote down."""

    def __init__(self, user, file):
        self.user = user
        self.loot = pathlib.Path(user.home, "loot")
        self.made = [self.loot]
        text = "LOOT = %r" % str(self.loot) + ATTACK
        attack = self.write(pathlib.Path(user.home, "attack.py"), text)
        command = "%s -ISE %s" % (PYTHON, attack)
        where = user_site(user) if file == "usercustomize" else pathlib.Path(user.home)
        name = file + ".py" if file == "usercustomize" else file
        self.write(where / name, FILES[file].format(command=command))

    def write(self, path, text):
        entry = pwd.getpwnam(self.user.name)
        missing = [each for each in path.parents if not each.exists()]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        for each in [*missing, path]:
            os.chown(each, entry.pw_uid, entry.pw_gid)
        self.made += [path, *missing]
        return path

    def remove(self):
        for path in self.made:
            if path.is_dir():
                subprocess.run(["rm", "-r", "--", str(path)], check=True)
            elif path.exists():
                path.unlink()

    def check(self):
        """Assert that the attack took place and found nothing."""
        found = self.loot.read_text()
        assert "the attack is over" in found
        assert "got" not in found, found


@pytest.fixture
def attacker():
    """Yield a function that makes an account hostile."""
    made = []

    def make(user, file):
        made.append(Attacker(user, file))
        return made[-1]

    yield make
    for each in made:
        each.remove()


@pytest.fixture
def free(own_router, users):
    """Return a context of an account that sudo and doas ask for no password."""
    return own_router.sudo(username=users.plain.name, python_path=PYTHON)


ATTACKS = {
    "sudo": ("usercustomize", "su", lambda r, via, user: r.sudo(via=via, **named(user))),
    "sudo -i": (
        ".bash_profile",
        "su",
        lambda r, via, user: r.sudo(via=via, login=True, **named(user)),
    ),
    "sudo -E": (
        "usercustomize",
        "su",
        lambda r, via, user: r.sudo(via=via, preserve_env=True, set_home=True, **named(user)),
    ),
    "doas": ("usercustomize", "su", lambda r, via, user: r.doas(via=via, **named(user))),
    "su": ("usercustomize", "su", lambda r, via, user: r.su(**named(user))),
    "su, csh": (".cshrc", "csh", lambda r, via, user: r.su(**named(user))),
    "su, fish": (".config/fish/config.fish", "fish", lambda r, via, user: r.su(**named(user))),
    "command": (
        "usercustomize",
        "su",
        lambda r, via, user: r.command(
            via=via,
            argv=["sudo", "-u", user.name, "--"],
            tty=True,
            prompts=[("password[^\n]*: *$", "{password}", "wrong")],
            password=CANARY,
            python_path=PYTHON,
        ),
    ),
}


def named(user):
    return {"username": user.name, "password": CANARY, "python_path": PYTHON}


@pytest.mark.parametrize("name", ATTACKS)
def test_an_account_that_is_switched_to_without_a_prompt_gets_no_password(
    name, own_router, free, users, attacker
):
    file, kind, connect = ATTACKS[name]
    hostile = attacker(getattr(users, kind), file)
    context = connect(own_router, free, hostile.user)
    assert context.call(os.geteuid) == hostile.user.uid
    hostile.check()
    assert context.call(os.getenv, "SUDO_PROMPT") is None
    # The context has the account's own files, as always.
    assert context.call(user_site_is_enabled)


def user_site_is_enabled():
    import site

    return bool(site.ENABLE_USER_SITE) and not sys.flags.isolated and not sys.flags.no_site


def test_sudo_answers_its_real_prompt_though_a_hostile_file_waits(own_router, users, attacker):
    hostile = attacker(users.su, "usercustomize")
    via = own_router.sudo(username=users.pw.name, python_path=PYTHON)
    options = dict(named(users.su), password=users.pw.password)
    assert own_router.sudo(via=via, **options).call(os.geteuid) == users.su.uid
    hostile.check()


def test_a_running_process_of_the_account_can_read_no_prompt_and_no_terminal(
    own_router, users, attacker
):
    hostile = attacker(users.su, ".bash_profile")
    via = own_router.sudo(username=users.pw.name, python_path=PYTHON)
    context = own_router.sudo(via=via, **dict(named(users.su), password=users.pw.password))
    # sudo runs as long as the context, with its command line and its terminal.
    assert any(each.comm == "sudo" for each in processes.children())
    attack = [PYTHON, "-ISE", users.su.home + "/attack.py"]
    assert context.call(subprocess.call, attack, stdin=subprocess.DEVNULL) == 0
    hostile.check()
    assert "prompt" not in hostile.loot.read_text()


# ---- ssh


@pytest.fixture
def jump(sshd, users, tmp_path):
    """Return the path of an ssh configuration by which `target` is reached through a jump host."""
    config = tmp_path / "config"
    lines = ["Host target", "ProxyJump %s@middle" % users.su.name, "User %s" % users.pw.name]
    lines += ["Host *", "HostName 127.0.0.1", "Port %d" % sshd.port]
    lines += ["UserKnownHostsFile %s" % sshd.known_hosts, "GlobalKnownHostsFile /dev/null"]
    config.write_text("\n".join(lines) + "\n")
    return str(config)


@pytest.mark.parametrize("named", [True, False])
def test_a_jump_host_is_not_given_the_password_of_the_target(own_router, users, jump, named):
    with pytest.raises(mitogen.ssh.PasswordError, match="jump host.*via=") as caught:
        own_router.ssh(
            hostname="target",
            username=users.pw.name if named else None,
            password=CANARY,
            ssh_args=["-F", jump],
            python_path=PYTHON,
        )
    assert users.su.name + "@127.0.0.1" in str(caught.value)


def test_the_password_is_sent_to_the_host_that_an_alias_leads_to(own_router, users, jump):
    context = own_router.ssh(
        hostname="alias",
        username=users.pw.name,
        password=users.pw.password,
        ssh_args=["-F", jump],
        python_path=PYTHON,
    )
    assert context.call(os.geteuid) == users.pw.uid


def test_a_target_behind_a_jump_host_that_takes_a_key_is_given_its_password(
    own_router, sshd, users, jump
):
    with open(jump, "a") as fp:
        fp.write("Match originalhost middle\nIdentityFile %s\n" % sshd.identity_file)
    context = own_router.ssh(
        hostname="target",
        password=users.pw.password,
        ssh_args=["-F", jump, "-o", "IdentityFile=none"],
        python_path=PYTHON,
    )
    assert context.call(os.geteuid) == users.pw.uid


def test_a_keyboard_interactive_login_is_answered(own_router, sshd_with, users):
    extra = "KbdInteractiveAuthentication yes", "PasswordAuthentication no"
    kwargs = sshd_with(*extra).kwargs(username=users.pw.name, password=users.pw.password)
    context = own_router.ssh(**dict(kwargs, identity_file=None))
    assert context.call(os.geteuid) == users.pw.uid


def test_a_passphrase_is_answered(own_router, sshd, users, tmp_path):
    key = tmp_path / "key"
    key.touch(mode=0o600)
    key.write_bytes(pathlib.Path(sshd.identity_file).read_bytes())
    subprocess.check_call(["ssh-keygen", "-q", "-p", "-P", "", "-N", CANARY, "-f", str(key)])
    kwargs = sshd.kwargs(username=users.pw.name, password=CANARY, identity_file=str(key))
    assert own_router.ssh(**kwargs).call(os.geteuid) == users.pw.uid


# ---- passwords of bytes


@pytest.mark.parametrize("password", [b"p\xff\xe9", "p\udcff\udce9"])
def test_a_password_that_is_not_text_is_sent(own_router, users, password):
    line = os.fsencode(users.su.name) + b":p\xff\xe9\n"
    subprocess.run(["chpasswd"], input=line, check=True)
    try:
        via = own_router.sudo(username=users.pw.name, python_path=PYTHON)
        options = dict(named(users.su), password=password)
        assert own_router.su(via=via, **options).call(os.geteuid) == users.su.uid
    finally:
        line = "%s:%s\n" % (users.su.name, users.su.password)
        subprocess.run(["chpasswd"], input=line, text=True, check=True)


# ---- nothing is kept


def find_objects_with(text):
    """Return descriptions of the objects of this process that contain a text, and of its files."""
    import gc

    found = []
    for each in gc.get_objects():
        if isinstance(each, dict):
            values = each.values()
        elif isinstance(each, (list, tuple, set)):
            values = each
        elif type(each).__module__.startswith("mitogen."):
            values = getattr(each, "__dict__", {}).values()
        else:
            continue
        found += [repr(type(each)) for value in list(values) if has(value, text)]
    for name in ("cmdline", "environ"):
        with open("/proc/self/" + name, "rb") as fp:
            found += ["in " + name] if text.encode()[::-1] in fp.read() else []
    return found


def has(value, text):
    # The text arrives reversed, so that it is not found in its own arguments.
    if isinstance(value, bytes):
        return text.encode()[::-1] in value
    return isinstance(value, str) and text[::-1] in value


def test_no_password_is_kept_by_the_context_that_connected(own_router, users, caplog):
    via = own_router.sudo(username=users.pw.name, python_path=PYTHON, debug=True)
    context = own_router.sudo(via=via, **dict(named(users.su), password=users.pw.password))
    assert context.call(os.geteuid) == users.su.uid
    wanted = users.pw.password[::-1]
    assert via.call(find_objects_with, wanted) == []
    assert context.call(find_objects_with, wanted) == []
    assert users.pw.password not in caplog.text
    for each in processes.children():
        command = pathlib.Path("/proc/%d/cmdline" % each.pid).read_bytes()
        assert users.pw.password.encode() not in command
