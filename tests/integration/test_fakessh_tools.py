"""Programs that use ssh, over mitogen.fakessh: copies are complete, and nothing is left behind.

Each program is real and runs on this machine; the far end is a context one hop away, three hops
away, or root's behind sudo over ssh.
"""

import filecmp
import functools
import os
import pathlib
import shutil
import signal
import stat
import subprocess

import pytest

from mitogen import fakessh
from mitogen.programs import server as programs
from tests import hosts, processes
from tests.integration.conftest import SOON, WAYS

PIPE = subprocess.PIPE
WHERE = {
    "one": lambda router, sshd, users: router.local(),
    "three": lambda router, sshd, users: router.from_spec("local/local/local"),
    "sudo": lambda router, sshd, users: router.sudo(
        via=router.ssh(**sshd.kwargs(username=users.plain.name, compression=False))
    ),
}


def needs(*names):
    missing = [name for name in names if not hosts.program(name)]
    return pytest.mark.skipif(bool(missing), reason="needs " + ", ".join(missing))


@pytest.fixture(scope="module", params=list(WHERE))
def target(request, router):
    sshd = users = None
    if request.param == "sudo":
        if os.geteuid() != 0:
            pytest.skip("needs root: makes accounts")
        sshd, users = request.getfixturevalue("sshd"), request.getfixturevalue("users")
    context = WHERE[request.param](router, sshd, users)
    yield context
    context.shutdown(wait=True)


def move_home(path):
    os.environ["HOME"] = path


@pytest.fixture(scope="module")
def near(router, tmp_path_factory):
    """Yield a context one hop away with its own home, for tests where distance is irrelevant."""
    context = router.local()
    context.call(move_home, str(tmp_path_factory.mktemp("far_home")))
    yield context
    context.shutdown(wait=True)


@pytest.fixture(scope="module")
def other(router):
    context = router.local()
    yield context
    context.shutdown(wait=True)


@pytest.fixture
def tool(tmp_path):
    """Return `tool(context, "rsync", ...)`, which runs it in its own directory, for its output."""
    home = tmp_path / "home"
    home.mkdir()

    def tool(context, *args, hosts=None, status=0, **env):
        out = tmp_path / "tool.out"
        # The settings of the account that runs the tests do not apply.
        names = dict(env, HOME=str(home), XDG_CONFIG_HOME=str(home))
        with out.open("wb") as stdout, open(os.devnull, "rb") as stdin:
            found = fakessh.run(
                context,
                None,
                [str(arg) for arg in args],
                100,
                hosts=hosts,
                env=names,
                cwd=str(tmp_path),
                stdin=stdin,
                stdout=stdout,
                stderr=stdout,
            )
        text = out.read_text(errors="replace")
        assert found in (status if isinstance(status, tuple) else (status,)), text
        return text

    yield tool


def make_tree(top):
    """Make a directory with files of many kinds."""
    (top / "deep" / "er").mkdir(parents=True)
    for number in range(50):
        (top / "deep" / ("file %d" % number)).write_bytes(os.urandom(number * 700))
    (top / "empty").write_bytes(b"")
    (top / "name \n ö").write_text("odd")
    (top / "-rf").write_text("dash")
    script = top / "deep" / "er" / "script"
    script.write_text("#!/bin/sh\n")
    script.chmod(0o750)
    os.utime(str(script), (1000000000, 1000000000))
    (top / "link").symlink_to("deep/er/script")
    return top


def snapshot(top):
    """Return {path: kind, mode, time and content} of everything below *top*."""
    found = {}
    for path in pathlib.Path(top).rglob("*"):
        facts = path.lstat()
        name = str(path.relative_to(top))
        if path.is_symlink():
            found[name] = os.readlink(str(path))
        elif path.is_dir():
            found[name] = stat.S_IMODE(facts.st_mode)
        else:
            content = path.read_bytes()
            found[name] = stat.S_IMODE(facts.st_mode), int(facts.st_mtime), content
    return found


def contents(top):
    """Return {path: content} of the files below *top*."""
    files = (path for path in pathlib.Path(top).rglob("*") if path.is_file())
    return {str(path.relative_to(top)): path.read_bytes() for path in files}


def big_file(path, megabytes):
    """Make a file that does not compress and in which all pieces differ."""
    block = os.urandom(1 << 20)
    with path.open("wb") as fp:
        for number in range(megabytes):
            fp.write(b"%08d" % number + block[8:])
    return path


def names_below(context):
    """Return the names of the programs that a context has started."""
    return [each.comm for each in processes.process_tree(context.call(os.getpid))]


# ---- rsync


@needs("rsync")
def test_rsync_copies_a_tree_both_ways(target, tool, tmp_path):
    source = make_tree(tmp_path / "source")
    tool(target, "rsync", "-a", source, "x:%s/far/" % tmp_path)
    assert snapshot(tmp_path / "far" / "source") == snapshot(source)
    tool(target, "rsync", "-az", "x:%s/far/source/" % tmp_path, tmp_path / "back")
    assert snapshot(tmp_path / "back") == snapshot(source)
    (source / "empty").write_text("no longer")
    (source / "link").unlink()
    tool(target, "rsync", "-a", "--delete", source, "u@x:%s/far/" % tmp_path)
    assert snapshot(tmp_path / "far" / "source") == snapshot(source)


@pytest.mark.slow
@needs("rsync")
def test_rsync_copies_500_megabytes_both_ways(target, tool, tmp_path):
    source = big_file(tmp_path / "source", 500)
    tool(target, "rsync", "-W", source, "x:%s" % (tmp_path / "far"))
    assert filecmp.cmp(str(source), str(tmp_path / "far"), shallow=False)
    tool(target, "rsync", "-W", "x:%s" % (tmp_path / "far"), tmp_path / "back")
    assert filecmp.cmp(str(source), str(tmp_path / "back"), shallow=False)


@needs("rsync")
@pytest.mark.parametrize("number, status", [(signal.SIGINT, 20), (signal.SIGTERM, 20)])
def test_an_interrupted_rsync_leaves_no_process(number, status, near, tmp_path):
    (tmp_path / "far").mkdir()
    with (tmp_path / "source").open("wb") as fp:
        fp.truncate(1 << 40)
    with fakessh.session(near) as environ:
        command = ["rsync", "-W", str(tmp_path / "source"), "x:%s/far/" % tmp_path]
        with subprocess.Popen(command, env=environ, stderr=PIPE) as rsync:
            processes.wait_until(lambda: list((tmp_path / "far").iterdir()), SOON)
            assert "rsync" in names_below(near)
            rsync.send_signal(number)
            assert rsync.wait(SOON) == status
            processes.wait_until(lambda: "rsync" not in names_below(near), SOON)


@needs("rsync")
def test_rsync_reports_missing_files_and_hosts(near, tool, tmp_path):
    text = tool(near, "rsync", "x:/nonexistent/file", tmp_path / "back", status=23)
    assert "No such file or directory" in text
    text = tool(None, "rsync", "y:/etc/passwd", tmp_path / "back", hosts={"x": near}, status=255)
    assert "y: unknown host; known hosts: x" in text


@needs("rsync")
def test_rsync_works_without_an_installed_ssh(near, tool, tmp_path):
    programs = tmp_path / "programs"
    programs.mkdir()
    for name in ("rsync", "sh"):
        (programs / name).symlink_to(shutil.which(name))
    tool(near, "rsync", "/etc/passwd", "x:%s/far" % tmp_path, PATH=str(programs))
    assert (tmp_path / "far").read_bytes() == pathlib.Path("/etc/passwd").read_bytes()


@needs("rsync")
def test_rsync_with_option_e(near, tool, tmp_path):
    # A program on PATH is found by its name.
    tool(near, "rsync", "-e", "ssh -p 99 -o BatchMode=yes", "/etc/passwd", "x:%s/far" % tmp_path)
    assert (tmp_path / "far").exists()


@needs("rsync")
def test_rsync_has_only_the_accounts_permissions(router, sshd, users, tool, tmp_path):
    context = WAYS["ssh"].connect(router, sshd, users)
    text = tool(context, "rsync", "/etc/passwd", "x:/root/mitogen-test", status=(3, 11, 23))
    assert "Permission denied" in text
    context.shutdown(wait=True)


# ---- scp, sftp


@needs("scp")
@pytest.mark.parametrize("option", ["-p", "-pO"])
def test_scp_copies_both_ways(option, target, tool, tmp_path):
    source = make_tree(tmp_path / "source")
    (source / "link").unlink()
    # scp's own protocol cannot transfer this name.
    (source / "name \n ö").unlink()
    tool(target, "scp", "-r", option, source, "x:%s/far" % tmp_path)
    assert snapshot(tmp_path / "far") == snapshot(source)
    tool(target, "scp", "-r", option, "scp://x:99/%s/far" % tmp_path, tmp_path / "back")
    assert snapshot(tmp_path / "back") == snapshot(source)


@needs("scp")
@pytest.mark.parametrize("options", [["-3"], ["-3", "-O"]])
def test_scp_copies_between_two_contexts(options, target, other, tool, tmp_path):
    source = big_file(tmp_path / "source", 20)
    hosts = {"one": target, "two": other}
    tool(None, "scp", *options, "one:%s" % source, "two:%s/far" % tmp_path, hosts=hosts)
    assert filecmp.cmp(str(source), str(tmp_path / "far"), shallow=False)


BATCH = """
put {0}/source {0}/far
get {0}/far {0}/back
mkdir {0}/directory
chmod 750 {0}/directory
symlink {0}/far {0}/directory/link
rename {0}/far {0}/directory/file
ls -l {0}/directory
pwd
"""


@needs("sftp")
@pytest.mark.parametrize("server", ["native", "builtin"])
def test_sftp(server, target, tool, tmp_path):
    if server == "native" and not programs.find_sftp_server():
        pytest.skip("needs openssh-sftp-server")
    source = big_file(tmp_path / "source", 5)
    (tmp_path / "batch").write_text(BATCH.format(tmp_path))
    before = target.call(hide_sftp_server) if server == "builtin" else None
    try:
        text = tool(target, "sftp", "-b", tmp_path / "batch", "-P", "99", "u@x")
    finally:
        if before:
            target.call(show_sftp_server, before)
    assert filecmp.cmp(str(source), str(tmp_path / "back"), shallow=False)
    assert filecmp.cmp(str(source), str(tmp_path / "directory" / "file"), shallow=False)
    assert stat.S_IMODE((tmp_path / "directory").stat().st_mode) == 0o750
    assert "Remote working directory: " + target.call(programs.home) in text


def hide_sftp_server():
    before = programs.SFTP_SERVERS, programs.SSHD_CONFIG
    programs.SFTP_SERVERS, programs.SSHD_CONFIG = (), "/nonexistent"
    assert programs.find_sftp_server() is None
    return before


def show_sftp_server(before):
    programs.SFTP_SERVERS, programs.SSHD_CONFIG = before


@needs("sshfs", "fusermount3")
@pytest.mark.root
def test_sshfs(near, tmp_path):
    mounted, far = tmp_path / "mounted", make_tree(tmp_path / "far")
    mounted.mkdir()
    with fakessh.session(near) as environ:
        command = ["sshfs", "-f", "x:%s" % far, str(mounted)]
        with subprocess.Popen(command, env=environ, stderr=PIPE) as sshfs:
            try:
                processes.wait_until(lambda: os.path.ismount(str(mounted)) or sshfs.poll(), SOON)
                if sshfs.poll():
                    pytest.skip("FUSE can't be used here: %s" % sshfs.stderr.read())
                assert contents(mounted) == contents(far)
                (mounted / "new").write_bytes(b"x" * 300000)
                assert (far / "new").read_bytes() == b"x" * 300000
            finally:
                subprocess.call(["fusermount3", "-u", str(mounted)], stderr=PIPE)
                sshfs.terminate()


# ---- version control


GIT = {
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_AUTHOR_NAME": "a",
    "GIT_AUTHOR_EMAIL": "a@b",
    "GIT_COMMITTER_NAME": "a",
    "GIT_COMMITTER_EMAIL": "a@b",
}


@needs("git")
@pytest.mark.parametrize("form", ["ssh://u@x:2222%s", "x:%s"])
def test_git(form, target, tool, tmp_path):
    git = functools.partial(tool, target, "git", **GIT)
    url = form % (tmp_path / "far.git")
    make_tree(tmp_path / "first")
    git("init", "-q", "--bare", "-b", "main", tmp_path / "far.git")
    git("init", "-q", "-b", "main", tmp_path / "first")
    git("-C", tmp_path / "first", "add", ".")
    git("-C", tmp_path / "first", "commit", "-q", "-m", "one")
    git("-C", tmp_path / "first", "push", "-q", url, "main")
    # GIT_SSH_COMMAND takes precedence over core.sshCommand.
    text = tool(
        target,
        *["git", "-c", "core.sshCommand=false", "-c", "protocol.version=2"],
        *["clone", url, tmp_path / "second"],
        GIT_TRACE_PACKET="1",
        **GIT,
    )
    assert "version 2" in text
    assert contents(tmp_path / "second" / "deep") == contents(tmp_path / "first" / "deep")
    git("-C", tmp_path / "second", "commit", "-q", "--allow-empty", "-m", "two")
    git("-C", tmp_path / "second", "push", "-q")
    assert git("-C", tmp_path / "far.git", "log", "--format=%s") == "two\none\n"


@needs("git")
def test_git_reports_a_missing_repository(near, tool, tmp_path):
    text = tool(near, "git", "clone", "ssh://x/nonexistent", tmp_path / "back", status=128, **GIT)
    assert "'/nonexistent' does not appear to be a git repository" in text


@needs("svn", "svnserve")
def test_svn(near, tool, tmp_path):
    url = "svn+ssh://u@x%s/far" % tmp_path
    tool(near, "svnadmin", "create", tmp_path / "far")
    make_tree(tmp_path / "first")
    (tmp_path / "first" / "name \n ö").unlink()
    tool(near, "svn", "import", "-q", "-m", "one", tmp_path / "first", url + "/trunk")
    tool(near, "svn", "checkout", "-q", url + "/trunk", tmp_path / "second")
    assert contents(tmp_path / "second" / "deep") == contents(tmp_path / "first" / "deep")


@needs("hg")
def test_hg(near, tool, tmp_path):
    make_tree(tmp_path / "first")
    (tmp_path / "first" / "name \n ö").unlink()
    tool(near, "hg", "init", tmp_path / "first")
    tool(near, "hg", "-R", tmp_path / "first", "commit", "-A", "-q", "-m", "one", "-u", "me")
    tool(near, "hg", "clone", "-q", "ssh://u@x:99/%s/first" % tmp_path, tmp_path / "second")
    assert contents(tmp_path / "second" / "deep") == contents(tmp_path / "first" / "deep")
    tool(near, "hg", "-R", tmp_path / "second", "tag", "-u", "me", "two")
    tool(near, "hg", "-R", tmp_path / "second", "push", "-q")
    assert tool(near, "hg", "-R", tmp_path / "first", "tags", "-q") == "tip\ntwo\n"


# ---- others


@needs("unison")
def test_unison(near, tool, tmp_path):
    make_tree(tmp_path / "first")
    (tmp_path / "far").mkdir()
    (tmp_path / "far" / "there").write_text("only there")
    far = "ssh://x/%s/far" % tmp_path
    tool(near, "unison", "-batch", "-ui", "text", tmp_path / "first", far)
    assert (tmp_path / "first" / "there").read_text() == "only there"
    assert contents(tmp_path / "first") == contents(tmp_path / "far")


@needs("borg")
def test_borg(near, tool, tmp_path):
    borg = functools.partial(
        tool,
        near,
        "borg",
        BORG_REPO="ssh://u@x:99%s/far" % tmp_path,
        BORG_BASE_DIR=str(tmp_path / "home"),
    )
    make_tree(tmp_path / "first")
    borg("init", "-e", "none")
    borg("create", "::one", "first")
    shutil.move(str(tmp_path / "first"), str(tmp_path / "before"))
    borg("extract", "::one")
    assert snapshot(tmp_path / "first") == snapshot(tmp_path / "before")


@needs("autossh")
def test_autossh(near, tool):
    # The first ssh fails and is started again.
    assert tool(near, "autossh", "-M", "0", "x", "echo hi", AUTOSSH_GATETIME="0") == "hi\n"


def test_tar_through_ssh(near, tool, tmp_path):
    make_tree(tmp_path / "first")
    script = "tar -C first -cf - . | ssh x 'mkdir %s && tar -C %s -xpf -'"
    tool(near, "sh", "-c", script % (tmp_path / "far", tmp_path / "far"))
    assert snapshot(tmp_path / "far") == snapshot(tmp_path / "first")


@needs("rsync")
def test_a_tool_runs_in_a_context(target, other, own_router, tmp_path):
    """The tool runs in a context; its ssh leads to a child of that context."""
    middle = own_router.local()
    far = own_router.local(via=middle)
    source = make_tree(tmp_path / "source")
    args = ["rsync", "-a", str(source), "x:%s/far/" % tmp_path]
    assert middle.call(fakessh.run, far, None, args) == 0
    assert snapshot(tmp_path / "far" / "source") == snapshot(source)


@needs("rsync")
def test_nothing_is_left(near, tool, tmp_path):
    def there():
        files = os.listdir(os.environ["TMPDIR"]), near.call(os.listdir, "/proc/self/fd")
        return files, [each.pid for each in processes.process_tree(near.call(os.getpid))]

    # Resources of the first program stay for the others.
    tool(near, "ssh", "x", "true")
    before = there()
    tool(near, "rsync", "-a", make_tree(tmp_path / "source"), "x:%s/far/" % tmp_path)
    processes.wait_until(lambda: there() == before, SOON)


def test_ssh_output_after_the_tools_end_is_kept(router, tool):
    """rsync ends with its server's status before the server's last output has arrived."""
    context = router.local()
    script = "mkfifo f; ssh x 'echo; sleep 0.3; echo late >&2' > f & read line < f; exit 3"
    text = tool(context, "sh", "-c", script, status=3)
    assert text == "late\n"
    context.shutdown(wait=True)


def test_program_output_after_rsync_ends_its_ssh_is_kept(router, tool):
    """rsync takes its server's status from the data, and ends its ssh with SIGUSR1."""
    context = router.local()
    script = """
        mkfifo f
        ssh x 'echo; sleep 0.3; echo late >&2' > f & read line < f
        kill -USR1 $!; exit 3
    """
    text = tool(context, "sh", "-c", script, status=3)
    assert text == "late\n"
    context.shutdown(wait=True)
