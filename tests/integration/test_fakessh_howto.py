"""The pages of docs/howto/ about fakessh: commands and programs, run as their readers run them.

Accounts and a container of this machine replace the hosts.
"""

import os
import pathlib
import re
import shlex
import shutil
import subprocess
import sys
import urllib.parse

import pytest

from tests.checkout import ROOT

HOWTO = ROOT / "docs" / "howto"
STAND_IN = ROOT / "tests" / "stand_ins" / "container_tool.py"
#: Page -> number of its commands and programs.
PAGES = {"rsync-sudo": (2, 1), "host-to-host": (0, 2), "git-bastion": (1, 1)}
PAGES["files-container"] = (3, 1)

pytestmark = [pytest.mark.root, pytest.mark.ssh]


def blocks(page, kind):
    """Return the code of each `code-block` of a page."""
    pattern = r"\.\. code-block:: {}\n(?:   :.*\n)?\n((?:   .*\n|\n)+)".format(kind)
    found = re.findall(pattern, (HOWTO / (page + ".rst")).read_text())
    return [re.sub("(?m)^   ", "", text).strip() + "\n" for text in found]


def commands(page):
    return [line for text in blocks(page, "console") for line in text.splitlines()]


@pytest.mark.parametrize("page", PAGES)
def test_the_pages_have_all_commands(page):
    assert (len(commands(page)), len(blocks(page, "python"))) == PAGES[page]


@pytest.fixture
def run(sshd, users, hosts_directory, tmp_path):
    """Return `run(text)`, which runs a command line or a program of a page and returns its output.

    Hosts are accounts of this machine: `*.example.com` may use sudo for everything, `git.internal`
    is root. /srv is a directory of the test.
    """
    # ssh refuses a key that others can read, so the account on the first host needs its own.
    key = hosts_directory / "howto_key"
    shutil.copy(sshd.identity_file, str(key))
    os.chown(str(key), users.plain.uid, -1)
    srv = hosts_directory / "howto_srv"
    srv.mkdir()
    os.chown(str(srv), users.plain.uid, -1)
    log = srv / "docker.log"
    # This is a copy, because other accounts may be unable to read the checkout.
    stand_in = shutil.copy(str(STAND_IN), str(hosts_directory / "howto_tool"))
    os.chmod(stand_in, 0o755)
    wrapper = hosts_directory / "howto_docker"
    wrapper.write_text('#!/bin/sh\nexec env STAND_IN_LOG={} {} "$@"\n'.format(log, stand_in))
    wrapper.chmod(0o755)

    def options(host):
        return {
            "hostname": sshd.hostname,
            "port": sshd.port,
            "username": "root" if host == "git.internal" else users.plain.name,
            "identity_file": str(key),
            "check_host_keys": "ignore",
        }

    def spec(match):
        found = options(match.group(1))
        text = "&".join(
            "{}={}".format(name, urllib.parse.quote(found[name], ""))
            for name in ("check_host_keys", "identity_file")
        )
        return "ssh:{username}@{hostname}:{port}?".format(**found) + text

    def as_here(text):
        text = re.sub(r"ssh:([a-z.]+\.(?:example\.com|internal))", spec, text)
        pattern = r'hostname="([a-z.]+\.(?:example\.com|internal))"'
        text = re.sub(pattern, lambda found: "**%r" % options(found.group(1)), text)
        text = text.replace("docker:web", "docker:web?docker_path=%s" % wrapper)
        text = text.replace('container="web"', 'container="web", docker_path=%r' % str(wrapper))
        return text.replace("/srv", str(srv))

    def run(text):
        text = as_here(text)
        if text.startswith("python3 "):
            command = [sys.executable, *shlex.split(text)[1:]]
        else:
            path = tmp_path / "program" / "program.py"
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)
            command = [sys.executable, str(path)]
        done = subprocess.run(
            command,
            cwd=str(tmp_path),
            env=dict(os.environ, PYTHONPATH=str(ROOT), HOME=str(tmp_path), **GIT),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    run.srv = srv
    yield run
    shutil.rmtree(str(srv))
    for path in (key, wrapper, pathlib.Path(stand_in)):
        path.unlink()


GIT = {
    "GIT_CONFIG_COUNT": "1",
    "GIT_CONFIG_KEY_0": "safe.directory",
    "GIT_CONFIG_VALUE_0": "*",
    "GIT_AUTHOR_NAME": "a",
    "GIT_AUTHOR_EMAIL": "a@b",
    "GIT_COMMITTER_NAME": "a",
    "GIT_COMMITTER_EMAIL": "a@b",
}


@pytest.fixture
def site(tmp_path):
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "index.html").write_text("<p>hello")


def test_rsync_through_sudo(run, site, users):
    first, second = commands("rsync-sudo")
    run(first)
    published = run.srv / "site" / "index.html"
    assert published.read_text() == "<p>hello"
    assert published.stat().st_uid == 0
    shutil.rmtree(str(run.srv / "site"))
    (program,) = blocks("rsync-sudo", "python")
    run(program)
    assert published.read_text() == "<p>hello"
    (run.srv / "dump").write_text("data")
    run(second.replace("web:/srv/dump", "web:/srv/copy"))
    assert (run.srv / "copy").read_text() == "data"


def test_rsync_from_host_to_host(run):
    (run.srv / "data").mkdir()
    (run.srv / "data" / "file").write_text("x")
    move, collect = blocks("host-to-host", "python")
    # Both hosts are this machine.
    run(move.replace("new:/srv/data/", "new:/srv/moved/"))
    assert (run.srv / "moved" / "file").read_text() == "x"
    shutil.chown(str(run.srv / "data"), (run.srv).owner())
    assert run(collect) == "done\n"
    for name in ("hosts", "passwd"):
        copied = (run.srv / "data" / name).read_bytes()
        assert copied == pathlib.Path("/etc", name).read_bytes()


def test_git_through_a_bastion(run, tmp_path):
    env = dict(os.environ, **GIT)
    far, first = str(run.srv / "project.git"), str(tmp_path / "first")
    for args in (
        ["init", "-q", "--bare", "-b", "main", far],
        ["clone", "-q", far, first],
        ["-C", first, "commit", "-q", "--allow-empty", "-m", "one"],
        ["-C", first, "push", "-q", "origin", "HEAD:main"],
    ):
        subprocess.run(["git", *args], env=env, check=True, capture_output=True)
    run(commands("git-bastion")[0])
    assert (tmp_path / "project" / ".git").is_dir()
    (program,) = blocks("git-bastion", "python")
    run(program)
    tags = subprocess.run(["git", "-C", far, "tag"], env=env, capture_output=True, check=True)
    assert tags.stdout == b"v1\n"


def test_sftp_into_a_container(run, site, tmp_path):
    (tmp_path / "batch").write_text("put site/index.html {}/batched\n".format(run.srv))
    for line in commands("files-container"):
        run(line)
    for name in ("site/index.html", "copy/index.html", "batched"):
        assert (run.srv / name).read_text() == "<p>hello"
    shutil.rmtree(str(run.srv / "site"))
    (program,) = blocks("files-container", "python")
    assert run(program) == "index.html\n"
    assert '"exec", "--interactive", "web"' in (run.srv / "docker.log").read_text()
