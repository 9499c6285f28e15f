"""Contexts in containers: `command`, setns, from_spec, and the rows of containers.TABLE.

Rules: every row is tested with a stand-in on PATH (tests/stand_ins) that records its arguments. The
tools available here are tested for real: chroot, unshare, nsenter, sudo, su, namespaces, and LXC,
podman and buildah. The last three run in a box: mount and PID namespaces of their own, so that
their state, mounts and processes end with it.
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import threading
import time
from urllib.parse import quote

import pytest

import mitogen.bootstrap.handshake
import mitogen.core
import mitogen.methods.containers
import mitogen.parent
import mitogen.setns
from mitogen.bootstrap.handshake import _SEARCH, first_stage
from tests import processes
from tests.checkout import ROOT
from tests.integration.conftest import PYTHON, own_children
from tests.integration.far import places, work
from tests.unit.methods.test_containers import GOLDEN

STAND_IN = ROOT / "tests" / "stand_ins" / "container_tool.py"
TOOLS = ("docker", "podman", "buildah", "kubectl", "lxc-attach", "lxc", "incus", "jexec")
#: A container for each row, with the minimal options.
MINIMAL = {
    "docker": {"container": "web"},
    "podman": {"container": "web"},
    "buildah": {"container": "web"},
    "kubectl": {"pod": "web"},
    "lxc": {"container": "web"},
    "lxd": {"container": "web"},
    "incus": {"container": "web"},
    "jail": {"container": "web", "jexec_path": "jexec"},
}
needs_root = pytest.mark.root


class StandIns:
    """A directory with a stand-in for each tool, and the log of their calls."""

    def __init__(self, directory):
        self.directory = directory
        self.log = directory / "log"
        for tool in TOOLS:
            (directory / tool).symlink_to(STAND_IN)

    def calls(self):
        """Return the calls since the previous look, as lists of words."""
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        self.log.write_text("")
        return [json.loads(line) for line in lines]


@pytest.fixture(scope="module")
def stand_ins(tmp_path_factory):
    directory = tmp_path_factory.mktemp("stand_ins")
    patch = pytest.MonkeyPatch()
    patch.setenv("PATH", "%s:%s" % (directory, os.environ["PATH"]))
    patch.setenv("STAND_IN_LOG", str(directory / "log"))
    yield StandIns(directory)
    patch.undo()


@pytest.fixture(scope="module", params=["here", "via"])
def via(request, router, stand_ins):
    """Return the context to connect from: this process, or a child of it."""
    if request.param == "here":
        yield None
    else:
        context = router.local()
        yield context
        context.shutdown(wait=True)


@pytest.fixture(autouse=True)
def no_child_is_left():
    """Assert that each test ends its child processes."""
    before = own_children()
    yield
    processes.wait_until(lambda: own_children() <= before, what="end of the test's children")


def check(context):
    """Use a context and end it; return its pid in the container."""
    pid = context.call(os.getpid)
    assert context.call(work.add, 1) == (3, (), {})
    assert context.call(work.checksum, bytes(1 << 20))[0] == 1 << 20
    context.shutdown(wait=True)
    return pid


# ---- every row, with a stand-in


@pytest.mark.parametrize("name", GOLDEN)
def test_the_tool_gets_the_golden_command_line(name, router, via, stand_ins):
    method, kwargs, wanted = GOLDEN[name]
    # The stand-in is run under any name that the row gives its program.
    option = next(iter(mitogen.methods.containers.TABLE[method][0]))
    tool = {"lxc": "lxc-attach", "lxd": "lxc", "jail": "jexec"}.get(method, method)
    words = len(kwargs[option]) if isinstance(kwargs.get(option), (list, tuple)) else 1
    path = ["env"] * (words - 1) + [str(stand_ins.directory / tool)]
    stand_ins.calls()
    context = router.connect(
        method, via=via, **dict(kwargs, remote_name="x", **{option: path if words > 1 else path[0]})
    )
    expected = [tool, *wanted[words:], "sh", "-c", _SEARCH, first_stage(), "x"]
    assert stand_ins.calls() == [expected]
    check(context)


@pytest.mark.parametrize("method", MINIMAL)
def test_the_tool_is_found_on_path_and_starts_the_named_interpreter(method, router, via, stand_ins):
    stand_ins.calls()
    context = router.connect(method, via=via, python_path=PYTHON, **MINIMAL[method])
    ((tool, *args),) = stand_ins.calls()
    assert tool in TOOLS and args[-4:-1] == [PYTHON, "-c", first_stage()]
    assert context.name.endswith("%s.web" % method)
    check(context)


def failure(router, method, where, **more):
    """Return the error of connecting to the container of the given name."""
    kwargs = dict(MINIMAL[method], **more)
    kwargs[next(iter(kwargs))] = where
    with pytest.raises(mitogen.core.Error) as caught:
        router.connect(method, **kwargs)
    return caught.value


@pytest.mark.parametrize("method", MINIMAL)
def test_a_missing_container_is_an_error(method, router, via):
    error = failure(router, method, "nix", via=via)
    assert type(error) is mitogen.methods.containers.ContainerError
    assert str(error).startswith("%s: 'nix' does not exist or is not running\n" % method)


@pytest.mark.parametrize("method", MINIMAL)
def test_a_container_without_an_interpreter_is_an_error(method, router, via):
    error = failure(router, method, "distroless", via=via)
    assert "executable file not found" in str(error)
    assert type(error) is mitogen.bootstrap.handshake.UnsupportedPythonError
    assert "python_path=" in str(error)


def test_a_missing_interpreter_is_an_error(router, via):
    error = failure(router, "docker", "web", via=via, python_path=["/nonexistent/python3"])
    assert type(error) is mitogen.bootstrap.handshake.UnsupportedPythonError
    assert "looked for /nonexistent/python3; found none" in str(error)


@pytest.mark.parametrize("method", MINIMAL)
def test_a_missing_tool_is_an_error(method, router, via):
    option = next(iter(mitogen.methods.containers.TABLE[method][0]))
    error = failure(router, method, "web", via=via, **{option: "/nonexistent/tool"})
    assert type(error) is mitogen.core.StreamError
    assert "cannot start /nonexistent/tool" in str(error) and "is installed" in str(error)


def test_a_silent_container_is_a_timeout(router, via):
    begin = time.monotonic()
    error = failure(router, "docker", "hang", via=via, connect_timeout=0.5)
    assert type(error) is mitogen.core.TimeoutError and time.monotonic() - begin < 5
    assert "after 0.50 seconds" in str(error)


def test_output_of_the_tool_is_harmless(router, via):
    context = router.docker(container="chatty", via=via)
    for _ in range(20):
        assert context.call(work.checksum, bytes(100000))[0] == 100000
    check(context)


def test_unknown_options_are_refused_before_anything_starts(router, via, stand_ins):
    stand_ins.calls()
    with pytest.raises(TypeError, match="docker: unknown option 'contaner'"):
        router.docker(contaner="web", via=via)
    with pytest.raises(TypeError, match="docker: needs container= or image="):
        router.docker(via=via)
    assert stand_ins.calls() == []


def test_containers_can_be_entered_concurrently(router, via):
    errors = []

    def connect():
        try:
            check(router.podman(container="web", via=via))
        except BaseException as e:
            errors.append(e)

    threads = [threading.Thread(target=connect) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert errors == []


def test_the_end_of_the_tool_ends_the_context(own_router, stand_ins):
    context = own_router.lxc(container="web")
    process = own_router.stream_by_id(context.context_id).process
    answer = context.call_async(work.hang)
    os.kill(process.pid, signal.SIGKILL)
    with pytest.raises(mitogen.core.ChannelError):
        answer.get(10)
    check(own_router.lxc(container="web"))


# ---- command, for real

NEW_NETWORK = ["unshare", "--net", "--pid", "--fork", "--kill-child", "--mount-proc"]
#: A root directory with only /usr, which ends with the mount namespace.
CHROOT = """
set -e
mount -t tmpfs none "$1" && cd "$1" && mkdir usr dev tmp && mount --rbind /usr usr
ln -s usr/bin usr/lib usr/lib64 . && : >dev/null && mount --bind /dev/null dev/null
: >dev/urandom && mount --bind /dev/urandom dev/urandom && : >only_here
mkdir etc && echo root:x:0:0::/:/bin/sh >etc/passwd
shift && exec chroot . "$@"
"""


def net(context):
    return context.call(os.readlink, "/proc/self/ns/net")


@needs_root
def test_a_command_can_be_unshare(router, via):
    context = router.command(argv=NEW_NETWORK, via=via)
    assert context.name.endswith("command.unshare")
    assert net(context) != os.readlink("/proc/self/ns/net")
    assert check(context) == 1, "the only process of its namespace"


@needs_root
def test_a_command_can_be_chroot(router, via, tmp_path):
    context = router.command(
        argv=["unshare", "--mount", "sh", "-c", CHROOT, "-", "{root}", "{python}"],
        root=tmp_path,
        python_path=PYTHON,
        via=via,
    )
    assert "only_here" in context.call(os.listdir, "/")
    assert not context.call(os.path.exists, "/proc")
    check(context)
    assert list(tmp_path.iterdir()) == []


@needs_root
def test_a_chroot_without_python_is_an_error(router, via, tmp_path):
    with pytest.raises(mitogen.bootstrap.handshake.UnsupportedPythonError) as caught:
        router.command(argv=["chroot", tmp_path], via=via)
    assert "chroot: failed to run command" in str(caught.value)


def test_commands_can_be_chained_or_run_by_a_shell(router, via):
    argv = ["env", "WHERE={where}", "sh", "-c", "cd / && exec {shell}"]
    context = router.command(argv=argv, where="a b'c", via=via)
    assert context.call(os.getenv, "WHERE") == "a b'c" and context.call(os.getcwd) == "/"
    check(context)


@pytest.fixture(scope="module")
def pw(router, users):
    """Return a context of an account whose sudo asks for its password."""
    context = router.sudo(username=users.pw.name, python_path=PYTHON)
    yield context
    context.shutdown(wait=True)


ASK = [("password[^\n]*: *$", "{password}", "sudo's password is wrong")]
SUDO = {"argv": ["sudo", "-k", "-p", "a password: ", "--"], "tty": True, "python_path": PYTHON}


@needs_root
def test_a_password_is_answered_on_a_terminal_beside_the_pipe(router, users, pw):
    context = router.command(via=pw, password=users.pw.password, prompts=ASK, **SUDO)
    assert context.call(os.geteuid) == 0
    check(context)


@needs_root
@pytest.mark.parametrize(
    "password, why",
    [("wrong", "sudo's password is wrong"), (None, "no value given for {password}")],
)
def test_a_wrong_or_missing_password_is_an_error(router, pw, password, why):
    with pytest.raises(mitogen.methods.containers.PasswordError, match=why):
        router.command(via=pw, password=password, prompts=ASK, **SUDO)


@needs_root
def test_an_unknown_prompt_is_a_timeout(router, pw):
    with pytest.raises(mitogen.core.TimeoutError, match="a password: "):
        router.command(via=pw, connect_timeout=0.7, **SUDO)


@needs_root
def test_a_configured_message_is_an_error(router, users):
    prompts = [*ASK, ("is not in the sudoers file", None, "you may not")]
    via = router.sudo(username=users.su.name, python_path=PYTHON)
    with pytest.raises(mitogen.core.StreamError, match="^you may not\n"):
        router.command(via=via, password=users.su.password, prompts=prompts, **SUDO)
    via.shutdown(wait=True)


SU = {"argv": ["su", "{username}", "-c", "exec {shell}"], "tty": "stdio", "python_path": PYTHON}


@needs_root
def test_a_password_is_answered_on_a_terminal_used_as_the_pipe(router, users, pw):
    kwargs = dict(SU, username=users.su.name, prompts=ASK, via=pw)
    context = router.command(password=users.su.password, **kwargs)
    assert context.call(work.identity)[1] == users.su.name
    check(context)
    with pytest.raises(mitogen.methods.containers.PasswordError, match="no value given for"):
        router.command(**kwargs)


# ---- namespaces of another process


@pytest.fixture
def holder():
    """Return a function that starts a process in new namespaces and returns its pid."""
    started = []

    def hold(*flags):
        script = "hostname inside; echo up; read end"
        argv = ["unshare", "--uts", *flags, "sh", "-c", script]
        outer = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        started.append(outer)
        assert outer.stdout.readline() == b"up\n"
        below = [each.pid for each in processes.process_tree(outer.pid) if each.comm == "sh"]
        return below[0] if below else outer.pid

    yield hold
    for outer in started:
        outer.communicate(timeout=10)


@needs_root
@pytest.mark.parametrize(
    "flags",
    [
        [],
        ["--net", "--ipc"],
        ["--mount", "--pid", "--fork", "--mount-proc"],
        ["--user", "--map-root-user", "--net"],
    ],
    ids=" ".join,
)
def test_setns_enters_the_namespaces(router, via, holder, flags):
    pid = holder(*flags)
    context = router.setns(kind="pid", container=pid, via=via)
    assert context.call(socket.gethostname) == "inside"
    assert context.call(os.getenv, "USER") == "root" and context.call(os.geteuid) == 0
    kinds = ["uts", "net", "ipc", "mnt", "user"]
    there = [os.readlink("/proc/%d/ns/%s" % (pid, kind)) for kind in kinds]
    assert [context.call(os.readlink, "/proc/self/ns/" + kind) for kind in kinds] == there
    inside = check(context)
    assert inside < 100 if "--pid" in flags else processes.process(inside) is None


@needs_root
def test_setns_can_switch_accounts(router, via, holder, users):
    user = users.plain
    context = router.setns(
        kind="pid", container=holder(), username=user.name, python_path=PYTHON, via=via
    )
    assert context.call(os.getresuid) == (user.uid,) * 3
    groups = os.getgrouplist(user.name, context.call(os.getgid))
    assert sorted(context.call(os.getgroups)) == sorted(groups)
    assert context.call(os.getenv, "HOME") == user.home
    check(context)


@needs_root
def test_setns_as_an_unknown_account_is_an_error(router, via, holder):
    with pytest.raises(mitogen.setns.Error, match="account 'mito_nix' does not exist in "):
        router.setns(kind="pid", container=holder(), username="mito_nix", via=via)


@needs_root
def test_setns_enters_another_root_directory(router, via, own_router, tmp_path):
    outer = own_router.command(
        argv=["unshare", "--mount", "sh", "-c", CHROOT, "-", "{root}", "{python}"],
        root=tmp_path,
        python_path=PYTHON,
    )
    context = router.setns(kind="pid", container=outer.call(os.getpid), python_path=PYTHON, via=via)
    assert "only_here" in context.call(os.listdir, "/")
    assert "only_here" in context.call(os.listdir, "../../.."), "a way out"
    check(context)


def test_setns_of_an_ended_process_is_an_error(router, via):
    gone = subprocess.Popen(["true"])
    gone.wait()
    with pytest.raises(mitogen.setns.Error, match="process %d does not exist" % gone.pid):
        router.setns(kind="pid", container=gone.pid, via=via)


@needs_root
def test_setns_without_permission_is_an_error(router, users, pw):
    with pytest.raises(mitogen.setns.Error, match="this needs root"):
        router.setns(kind="pid", container=1, via=pw)


def test_setns_without_nsenter_is_an_error(router, via):
    with pytest.raises(mitogen.core.StreamError, match="cannot start /nonexistent/nsenter"):
        router.setns(
            kind="pid", container=os.getpid(), nsenter_path="/nonexistent/nsenter", via=via
        )


@needs_root
def test_the_end_of_the_namespace_ends_the_context(router, via, holder):
    pid = holder("--pid", "--fork", "--mount-proc")
    context = router.setns(kind="pid", container=pid, via=via)
    answer = context.call_async(work.hang)
    # This is the first process of a PID namespace: the kernel ends all others.
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(mitogen.core.ChannelError):
        answer.get(10)


@needs_root
def test_a_command_can_be_nsenter(router, via, holder):
    pid = holder("--net")
    argv = ["nsenter", "--target", "{pid}", "--uts", "--net"]
    context = router.command(argv=argv, pid=pid, via=via)
    assert net(context) == os.readlink("/proc/%d/ns/net" % pid)
    check(context)


# ---- hop by hop


def test_from_spec_connects_each_hop(router, stand_ins):
    stand_ins.calls()
    context = router.from_spec("local?name=first/docker:ann@web?name=x&python_path=" + PYTHON)
    ((_, *args),) = stand_ins.calls()
    assert args[:5] == ["exec", "--interactive", "--user", "ann", "web"] and args[5] == PYTHON
    assert context.name == "first.x" and context.via.name == "first"
    first = context.via
    check(context)
    first.shutdown(wait=True)


def test_from_spec_through_a_context_and_from_a_child(router, via):
    context = router.from_spec("local/command:env A=b", via=via, name="mine")
    assert context.call(os.getenv, "A") == "b" and context.name.endswith(".mine")
    number, name = context.call(places.follow, "local/docker:web")
    assert number == 3 and name.endswith(".docker.web")
    context.via.shutdown(wait=True)


@pytest.mark.parametrize("last", ["docker:nix", "docker:distroless", "command:%2Fnonexistent"])
def test_from_spec_ends_earlier_hops_if_one_fails(own_router, last):
    before = own_children()
    with pytest.raises(mitogen.core.StreamError, match="^hop 3, "):
        own_router.from_spec("local/local/" + last)
    processes.wait_until(lambda: own_children() == before)
    assert own_router.get_streams() == set()


@needs_root
def test_the_oldest_python_can_connect_to_containers(router, python36, stand_ins, holder):
    old = router.local(python_path=python36)
    check(router.kubectl(pod="web", via=old))
    check(router.command(argv=["env", ["{a}"]], tty=True, via=old))
    context = router.setns(kind="pid", container=holder("--net"), python_path=python36, via=old)
    assert context.call(socket.gethostname) == "inside"
    check(context)
    spec = "local?python_path=%s/docker:web?python_path=%s" % (python36, python36)
    length, name = old.call(places.follow, spec)
    assert length == 3 and name.endswith(".docker.web")
    old.shutdown(wait=True)


@needs_root
@pytest.mark.ssh
def test_from_spec_by_ssh(router, sshd, users):
    text = "ssh:%s@127.0.0.1:%d?identity_file=%s&ssh_args=%s/sudo:root?python_path=%s/local" % (
        users.plain.name,
        sshd.port,
        sshd.identity_file,
        quote(" ".join(sshd.ssh_args), safe=""),
        PYTHON,
    )
    context = router.from_spec(text)
    assert context.call(os.geteuid) == 0
    assert context.via.via.call(work.identity)[1] == users.plain.name
    context.via.via.shutdown(wait=True)


# ---- the real tools, in a box

PODMAN = ["podman", "--runtime", "runc", "--cgroup-manager", "cgroupfs", "--storage-driver", "vfs"]
PODMAN += ["--events-backend", "none"]
BUILDAH = ["env", "BUILDAH_ISOLATION=chroot", "buildah", "--storage-driver", "vfs"]
# The name `web` is taken in podman's own storage.
BUILDAH += ["--root", "/var/lib/containers/buildah", "--runroot", "/run/buildah"]
PATH = "/usr/sbin:/usr/bin:/sbin:/bin"
#: The tools' state directories are a file system that only the box has.
BOX = """
set -e
for at in /run /dev/shm /var/lib/lxc /var/lib/containers
do mkdir -p $at; mount -t tmpfs none $at; done
mkdir /run/lock
exec "$@"
"""
LXC = """
mkdir /var/lib/lxc/web
cat >/var/lib/lxc/web/config <<END
lxc.uts.name = web
lxc.rootfs.path = dir:/
lxc.net.0.type = none
lxc.apparmor.profile = unchanged
lxc.mount.auto = proc:mixed
END
exec lxc-start -n web -d -- sleep 600 >/dev/null 2>&1
"""
BUILD = """
set -e
{buildah} from --name web scratch
{buildah} from --name empty scratch
{buildah} config --env PATH=/usr/bin web
cd $({buildah} mount web)
mkdir -p usr
mount --rbind /usr usr
rm -rf bin lib lib64
ln -s usr/bin usr/lib usr/lib64 .
"""
RUN = ["run", "-d", "--name", "web", "--hostname", "web", "--network", "none", "--rootfs", "/:O"]
# Not more than a machine that is itself a container can have.
RUN[1:1] = ["--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024"]
#: Tool -> (required program, command that starts a container, command that ends it).
REAL = {
    "lxc": ("lxc-start", ["sh", "-c", LXC], ["lxc-stop", "-k", "-n", "web"]),
    "podman": ("podman", [*PODMAN, *RUN, "sleep", "600"], [*PODMAN, "rm", "-f", "-t", "0", "web"]),
    "buildah": ("buildah", ["sh", "-c", BUILD.format(buildah=" ".join(BUILDAH))], ["true"]),
}


@pytest.fixture(scope="module")
def box(router):
    """Return a context in which the tools can work without restrictions."""
    if os.geteuid() != 0:
        pytest.skip("needs root: makes namespaces")
    flags = ["--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
    # The real tools, not the stand-ins.
    argv = ["env", "PATH=" + PATH, "unshare", *flags, "sh", "-c", BOX, "-", "{python}"]
    context = router.command(argv=argv)
    yield context
    context.shutdown(wait=True)


@pytest.fixture(scope="module")
def real(box):
    """Return `real(tool)`, which starts the tool's container `web` once."""
    running = {}

    def start(tool):
        program, begin, end = REAL[tool]
        if tool not in running:
            if not shutil.which(program, path=PATH):
                pytest.skip("needs %s (it is not installed)" % program)
            try:
                box.call(subprocess.check_output, begin, stderr=subprocess.STDOUT)
            except mitogen.core.CallError as e:
                pytest.skip("%s cannot start a container here: %s" % (program, e))
            running[tool] = end

    yield start
    for end in running.values():
        box.call(subprocess.check_output, end, stderr=subprocess.STDOUT)


#: Method and options for the container `web` of each tool.
REACH = {
    "lxc": ("lxc", {}),
    "podman": ("podman", {"podman_path": PODMAN}),
    "buildah": ("buildah", {"buildah_path": BUILDAH}),
    # podman has docker's command line.
    "docker": ("podman", {"docker_path": PODMAN}),
    "setns docker": ("podman", {"docker_path": PODMAN, "kind": "docker"}),
    "setns lxc": ("lxc", {"kind": "lxc"}),
}


@needs_root
@pytest.mark.parametrize("name", REACH)
def test_a_real_container_is_entered(router, box, real, name):
    tool, kwargs = REACH[name]
    real(tool)
    method = name.split()[0]
    context = router.connect(method, container="web", via=box, **kwargs)
    if tool != "buildah":
        assert context.call(socket.gethostname) == "web"
    assert context.call(os.geteuid) == 0
    check(context)


@needs_root
@pytest.mark.parametrize("name", ["podman", "setns docker", "setns lxc"])
def test_a_real_container_is_entered_as_another_account(router, box, real, name):
    tool, kwargs = REACH[name]
    real(tool)
    kwargs = dict(kwargs, username="nobody", python_path=PYTHON, via=box, container="web")
    context = router.connect(name.split()[0], **kwargs)
    assert context.call(os.geteuid) == 65534
    check(context)


@needs_root
@pytest.mark.parametrize("name", REACH)
def test_a_missing_container_of_a_real_tool_is_an_error(router, box, real, name):
    tool, kwargs = REACH[name]
    real(tool)
    method = name.split()[0]
    with pytest.raises(mitogen.core.StreamError) as caught:
        router.connect(method, container="nix", via=box, **kwargs)
    wanted = mitogen.setns.Error if method == "setns" else mitogen.methods.containers.ContainerError
    assert type(caught.value) is wanted and "nix" in str(caught.value)


@needs_root
@pytest.mark.parametrize("name", ["lxc", "podman"])
def test_a_missing_interpreter_in_a_real_container_is_an_error(router, box, real, name):
    tool, kwargs = REACH[name]
    real(tool)
    with pytest.raises(mitogen.bootstrap.handshake.UnsupportedPythonError) as caught:
        router.connect(name, container="web", python_path="/nonexistent/py", via=box, **kwargs)
    assert "/nonexistent/py" in str(caught.value)


@needs_root
def test_a_real_container_without_a_shell_is_an_error(router, box, real):
    real("buildah")
    error = mitogen.bootstrap.handshake.UnsupportedPythonError
    with pytest.raises(error, match='"sh": executable file not found'):
        router.buildah(container="empty", buildah_path=BUILDAH, via=box)
