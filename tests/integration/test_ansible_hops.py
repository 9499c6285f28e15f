"""Commands run by a step's own program, for hosts without Python."""

import os
import subprocess

import pytest

from mitogen import core
from mitogen.ansible.broker import hops


def run(argv, data=b""):
    """Return (status, output) of a command."""
    done = subprocess.run(argv, input=data, stdout=subprocess.PIPE, timeout=60)
    return done.returncode, done.stdout


@pytest.mark.root
@pytest.mark.ssh
def test_a_command_runs_by_ssh(sshd, users):
    keywords = {
        "hostname": "127.0.0.1",
        "port": sshd.port,
        "username": users.plain.name,
        "identity_file": sshd.identity_file,
        "ssh_args": sshd.ssh_args,
    }
    argv = hops.command_line("ssh", keywords, "id -un; echo 'a  b' \"$HOME\"; cat; exit 5")
    text = "%s\na  b %s\nx" % (users.plain.name, users.plain.home)
    assert run(argv, b"x") == (5, text.encode())


@pytest.mark.root
def test_a_command_runs_in_namespaces(users):
    holder = subprocess.Popen(
        ["unshare", "--uts", "sh", "-c", "hostname inside; echo; exec sleep 600"],
        stdout=subprocess.PIPE,
    )
    with holder:
        try:
            holder.stdout.readline()
            keywords = {"kind": "pid", "container": holder.pid, "username": users.plain.name}
            command = "hostname; id -un"
            argv = hops.command_line("setns", keywords, command)
            assert run(argv) == (0, ("inside\n%s\n" % users.plain.name).encode())
            keywords["username"] = "root"
            assert run(hops.command_line("setns", keywords, command)) == (0, b"inside\nroot\n")
        finally:
            holder.kill()


def test_namespaces_of_an_ended_process_are_an_error():
    gone = subprocess.Popen(["true"])
    gone.wait()
    with pytest.raises(core.StreamError, match="process .* does not exist"):
        hops.command_line("setns", {"kind": "pid", "container": gone.pid}, "true")


@pytest.mark.parametrize("method", ["sudo", "doas", "su"])
def test_a_command_with_a_password_has_no_report_in_its_output(method):
    argv = hops.command_line(method, {"password": "x"}, "echo one")
    assert "MITO" not in " ".join(argv) and argv[-1].endswith(
        "echo one'" if method == "su" else "one"
    )


def test_secrets_are_not_in_the_command_line_that_is_shown():
    words = ["--token", "a $b 'c'", "x y", '--password=p"q', "TOKEN=t", ""]
    before = dict(os.environ)
    with hops.secrets_in_environment(["printf", "<%s>", *words]) as shown:
        found = run(["sh", "-c", shown])
    assert found == (0, "".join("<%s>" % word for word in words).encode())
    assert not [text for text in ("$b", "q", "TOKEN=t") if text in shown]
    assert dict(os.environ) == before
