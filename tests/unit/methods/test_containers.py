"""containers.py: every row's argv() as a golden table, `command`, wrong options, and the programs'
messages, whole and byte by byte.

The texts of podman 4.3, buildah 1.28 and lxc-attach 5.0 were copied from the programs; the others
are from documentation. The programs are run in tests/integration.
"""

import inspect
import pathlib

import pytest

import mitogen.lxc
from mitogen import parent
from mitogen.bootstrap.handshake import _SEARCH, Handshake, UnsupportedPythonError, first_stage
from mitogen.core import StreamError
from mitogen.methods import containers
from mitogen.methods.containers import ContainerError, PasswordError, expand, fields_of
from mitogen.tree import connecting

NAME = "user@host:1"
BOOT = ["sh", "-c", _SEARCH, first_stage(), NAME]
HELLO = b"MITO:HELLO 3.9.2 /usr/bin/python3\n"
READY = b"MITO:READY\n"


def conn(method, **kwargs):
    kwargs.setdefault("remote_name", NAME)
    klass = parent.get_connection_class(method)
    return klass(klass.options_class(**kwargs), None)


# ---- the rows

WEB = {"container": "web"}
USER = {"username": "ann"}
LIST = ["sudo", "-n", "tool"]

# name -> (method, options, words before the first stage). Each row appears without options and with
# all of them, as test_every_option_is_tried checks.
GOLDEN = {
    "docker": ("docker", WEB, ["docker", "exec", "--interactive", "web"]),
    "docker, all": (
        "docker",
        {
            "docker_path": pathlib.Path("/opt/docker"),
            "docker_args": ["--env", "A={b}"],
            **WEB,
            **USER,
        },
        ["/opt/docker", "exec", "--interactive", "--user", "ann", "--env", "A={b}", "web"],
    ),
    "docker, image": (
        "docker",
        {"image": "debian:12"},
        ["docker", "run", "--interactive", "--rm", "debian:12"],
    ),
    "docker, image, all": (
        "docker",
        {"image": "debian", "username": 1000, "docker_path": LIST},
        [*LIST, "run", "--interactive", "--rm", "--user", "1000", "debian"],
    ),
    "podman": ("podman", WEB, ["podman", "exec", "--interactive", "web"]),
    "podman, all": (
        "podman",
        {"podman_path": LIST, **WEB, **USER},
        [*LIST, "exec", "--interactive", "--user", "ann", "web"],
    ),
    "buildah": ("buildah", WEB, ["buildah", "run", "--", "web"]),
    "buildah, all": (
        "buildah",
        {"buildah_path": b"/b", **WEB, **USER},
        ["/b", "run", "--user", "ann", "--", "web"],
    ),
    "kubectl": ("kubectl", {"pod": "p"}, ["kubectl", "exec", "--stdin", "p", "--"]),
    "kubectl, all": (
        "kubectl",
        {
            "pod": "p",
            "kubectl_path": ("k3s", "kubectl"),
            "kubectl_args": ["--kubeconfig", "/k"],
            "container": "c",
            "namespace": "n",
            "context": "x",
        },
        ["k3s", "kubectl", "exec", "--stdin", "--context", "x", "--namespace", "n"]
        + ["--container", "c", "--kubeconfig", "/k", "p", "--"],
    ),
    "kubectl, no arguments": (
        "kubectl",
        {"pod": "p", "kubectl_args": []},
        ["kubectl", "exec", "--stdin", "p", "--"],
    ),
    "lxc": ("lxc", WEB, ["lxc-attach", "--clear-env", "--name", "web", "--"]),
    "lxc, all": (
        "lxc",
        {"lxc_attach_path": "/l", **WEB},
        ["/l", "--clear-env", "--name", "web", "--"],
    ),
    "lxd": ("lxd", WEB, ["lxc", "exec", "--mode=non-interactive", "web", "--"]),
    "lxd, all": (
        "lxd",
        {"lxc_path": "/l", **WEB},
        ["/l", "exec", "--mode=non-interactive", "web", "--"],
    ),
    "incus": ("incus", WEB, ["incus", "exec", "--mode=non-interactive", "web", "--"]),
    "incus, all": (
        "incus",
        {"incus_path": "/i", **WEB},
        ["/i", "exec", "--mode=non-interactive", "web", "--"],
    ),
    "jail": ("jail", WEB, ["/usr/sbin/jexec", "web"]),
    "jail, all": ("jail", {"jexec_path": "/j", **WEB, **USER}, ["/j", "-U", "ann", "web"]),
}


@pytest.mark.parametrize("name", GOLDEN)
def test_argv(name):
    method, kwargs, wanted = GOLDEN[name]
    found = conn(method, **kwargs).argv()
    assert found == wanted + BOOT
    assert all(type(word) is str for word in found)


@pytest.mark.parametrize("name", GOLDEN)
def test_argv_with_a_named_interpreter(name):
    method, kwargs, wanted = GOLDEN[name]
    for python, words in (("/p y", ["/p y"]), (["env", "A=$b", "py"], ["env", "A=$b", "py"])):
        found = conn(method, python_path=python, **kwargs).argv()
        assert found == [*wanted, *words, "-c", first_stage(), NAME]


def test_every_option_is_tried():
    for method, (options, command_lines, *_) in containers.TABLE.items():
        tried = set().union(*(kwargs for row, kwargs, _ in GOLDEN.values() if row == method))
        assert tried == {*options, *command_lines}
        named = set().union(*(fields_of(line) for line in command_lines.values()))
        assert named == {*options, *command_lines}, "an option is in no command line"


@pytest.mark.parametrize("method", containers.TABLE)
def test_every_row_is_a_method(method):
    module = __import__("mitogen." + method, fromlist=["Options"])
    assert parent.METHODS[method] == module.__name__ == module.Options.__module__
    assert sorted(module.__all__) == ["Connection", "Options"]
    assert module.Connection.options_class is module.Options
    assert issubclass(module.Connection, containers.Connection)
    options, command_lines, *_ = containers.TABLE[method]
    parameters = inspect.signature(module.Options).parameters
    assert list(parameters) == [*command_lines, *options, *containers.COMMON_OPTIONS]
    assert parameters["connect_timeout"].default == 30.0 and parameters["name"].default is None
    for name, default in options.items():
        assert parameters[name].default == default
    for name in parameters:
        if name not in containers.COMMON_OPTIONS:
            assert ":param %s: " % name in module.Options.__doc__


def test_required_options_have_no_default():
    parameters = inspect.signature(mitogen.lxc.Options).parameters
    assert parameters["container"].default is inspect.Parameter.empty
    docker = inspect.signature(parent.get_connection_class("docker").options_class).parameters
    assert docker["container"].default is docker["image"].default is None


def test_rows_use_pipes_and_send_at_once():
    for name in GOLDEN:
        method, kwargs, _ = GOLDEN[name]
        each = conn(method, **kwargs)
        assert (each.stdio, each.tty, each.err, each.eager) == ("pipe", False, True, True)
        assert each.answers() == {}
        assert each.environ == {}, "variables set here do not reach the container"


def test_clients_and_parents():
    found = {name for name in containers.TABLE if conn(name, **minimal(name)).is_client}
    assert found == {"docker", "podman", "kubectl", "lxd", "incus"}


def minimal(method):
    return {next(iter(containers.TABLE[method][1])): "web"}


def test_names_and_lookups():
    assert conn("docker", image="debian").default_name() == "docker.debian"
    assert conn("kubectl", pod="p").default_name() == "kubectl.p"
    assert conn("lxc", **WEB).lookup().startswith("python3, python3.15, ")
    assert conn("lxc", python_path="/p", **WEB).lookup() == "/p"
    assert conn("podman", **WEB).options.container == "web"  # as programs read it


@pytest.mark.parametrize(
    "method, kwargs, error, why",
    [
        ("docker", {}, TypeError, r"docker: needs container= or image=\Z"),
        ("docker", {"container": ""}, TypeError, r"docker: needs container= or image=\Z"),
        ("docker", {"container": "a", "image": "b"}, TypeError, "or image=, not both"),
        ("podman", {}, TypeError, "podman: needs container="),
        ("kubectl", {"container": "c"}, TypeError, "kubectl: needs pod="),
        ("podman", {"image": "x", **WEB}, TypeError,
         "podman: unknown option 'image'; known options are: container, podman_path, username, "),
        ("docker", {"contaner": "x"}, TypeError, "docker: unknown option 'contaner'; known"),
        ("lxc", {"username": "x", **WEB}, TypeError, "lxc: unknown option 'username'"),
        ("docker", {"container": "--privileged"}, ValueError,
         "docker: container='--privileged' is not a name"),
        ("docker", {"image": "-v/:/host"}, ValueError, "docker: image='-v/:/host' is not a name"),
        ("kubectl", {"pod": "-n"}, ValueError, "kubectl: pod='-n' is not a name"),
        ("docker", {"container": ["a", "b"]}, ValueError, r"container=\['a', 'b'\] is not"),
        ("docker", {"docker_path": None, **WEB}, ValueError, "'{docker_path}' requires docker_p"),
        ("docker", {"remote_name": "a/b", **WEB}, ValueError, "must not contain a slash"),
        ("docker", {"connect_timeout": "soon", **WEB}, ValueError, "soon"),
    ],
)  # fmt: skip
def test_wrong_options(method, kwargs, error, why):
    with pytest.raises(error, match=why):
        parent.get_connection_class(method).options_class(**kwargs)


# ---- command


def command(*argv, **kwargs):
    return conn("command", argv=list(argv), **kwargs)


SHELL = " ".join(connecting.handshake.remote_command(None, NAME)[1:])
PROMPTS = [("password", "{password}", "wrong")]

# name -> (argv, options, resulting command line)
COMMANDS = {
    "at the end": (["chroot", "/srv"], {}, ["chroot", "/srv", *BOOT]),
    "in the middle": (["a", "{python}", "z"], {}, ["a", *BOOT, "z"]),
    "paths": ([pathlib.Path("/a b"), ["-x", pathlib.Path("/c")]], {}, ["/a b", "-x", "/c", *BOOT]),
    "for a shell": (["sg", "adm", "-c", "exec {shell}"], {}, None),
    "interpreter": (["env"], {"python_path": "/p"}, ["env", "/p", "-c", first_stage(), NAME]),
    "fields": (
        ["dzdo", "-u", "{username}", "--chdir={where}/x"],
        {"username": "ann", "where": pathlib.Path("/w")},
        ["dzdo", "-u", "ann", "--chdir=/w/x", *BOOT],
    ),
    "a field of words": (["{tool}", "x"], {"tool": ["nice", "-n", 5]}, None),
    "nought is set": (["x", ["-n", "{n}"]], {"n": 0}, ["x", "-n", "0", *BOOT]),
    "optional": (["run0", ["--user", "{user}"]], {"user": "a"}, ["run0", "--user", "a", *BOOT]),
    "optional, left out": (["run0", ["--user", "{user}"]], {}, ["run0", *BOOT]),
    "optional, in optional": (["x", ["{a}", ("{b}",)]], {"a": "1"}, ["x", "1", *BOOT]),
    "python in an optional": (["x", ["{python}"], "z"], {}, ["x", *BOOT, "z"]),
    "braces": (["x", "{{}}", "{{{a}}}", ""], {"a": "1"}, ["x", "{}", "{1}", "", *BOOT]),
    "common options": (["x", "{name}", "{remote_name}"], {"name": "n"}, ["x", "n", NAME, *BOOT]),
    "bytes": (["x", "{a}"], {"a": b"\xff"}, ["x", "\udcff", *BOOT]),
}
COMMANDS["for a shell"] = (*COMMANDS["for a shell"][:2], ["sg", "adm", "-c", "exec " + SHELL])
COMMANDS["a field of words"] = (
    *COMMANDS["a field of words"][:2],
    ["nice", "-n", "5", "x", *BOOT],
)


@pytest.mark.parametrize("name", COMMANDS)
def test_command(name):
    argv, kwargs, wanted = COMMANDS[name]
    assert command(*argv, **kwargs).argv() == wanted


@pytest.mark.parametrize(
    "argv, kwargs, error, why",
    [
        (None, {}, ValueError, r"command: argv=\[\] must be a non-empty list of words"),
        ("chroot /srv", {}, ValueError, "argv='chroot /srv' must be a non-empty list of words"),
        (b"x", {}, ValueError, "must be a non-empty list of words"),
        (["x", 5], {}, ValueError, "command: 5 in argv= is not a str"),
        (["x", b"y"], {}, ValueError, "command: b'y' in argv= is not a str"),
        (["x", ["y", None]], {}, ValueError, "command: None in argv= is not a str"),
        (["x", "{user}"], {}, ValueError, "'{user}' requires user= to be one word; it is None"),
        (["x", "-{u}"], {"u": ["a"]}, ValueError, r"'-{u}' requires u=.* it is \['a'\]"),
        (["x", "{user}"], {"usr": "x"}, TypeError,
         "command: unknown option 'usr'; known options are: argv, prompts, tty, password, user"),
        (["x"], {"username": "x"}, TypeError, "command: unknown option 'username'"),
        (["x", "{password}"], {"password": "s"}, ValueError, "would be visible to all users"),
        (["x", "{}"], {}, ValueError, "cannot parse '{}': braces enclose the name of an option"),
        (["x", "a}"], {}, ValueError, "cannot parse 'a}'"),
        (["x", "{a.b}"], {}, ValueError, "cannot parse '{a.b}'"),
        (["x", "{a!r}"], {}, ValueError, "cannot parse '{a!r}'"),
        (["x", "{a:>9}"], {}, ValueError, "cannot parse '{a:>9}'"),
        (["x", "{argv}"], {}, ValueError, "'{argv}' requires argv="),
        (["x"], {"tty": "yes"}, ValueError, "command: tty='yes' must be False, True or 'stdio'"),
        (["x"], {"prompts": PROMPTS}, ValueError, r"prompts\[0\] has an answer, which requires"),
        (["x"], {"prompts": [("a", None)]}, ValueError, r"prompts\[0\]=\('a', None\) must be \("),
        (["x"], {"prompts": [None]}, ValueError, r"prompts\[0\]=None must be \(regular"),
        (["x"], {"prompts": [("(", None, "e")]}, ValueError, r"prompts\[0\]=.*unterminated"),
        (["x"], {"prompts": [(5, None, "e")]}, ValueError, r"prompts\[0\]="),
        (["x"], {"tty": True, "prompts": [("a", "{x", "e")]}, ValueError, "cannot parse '{x'"),
    ],
)  # fmt: skip
def test_wrong_commands(argv, kwargs, error, why):
    with pytest.raises(error, match=why):
        containers.Options(argv or [], **kwargs)


def test_terminals():
    plain, tty, stdio = (command("x", tty=tty) for tty in (False, True, "stdio"))
    assert (plain.stdio, plain.tty, plain.eager) == ("pipe", False, True)
    assert (tty.stdio, tty.tty, tty.eager) == ("pipe", True, True)
    assert (stdio.stdio, stdio.tty, stdio.eager) == ("tty", False, False)
    assert plain.err and not plain.is_client


def test_names():
    assert command("/usr/sbin/chroot", "/srv").default_name() == "command.chroot"
    assert command("{python}").default_name() == "command.sh"


def test_a_secret_is_not_on_the_command_line():
    each = command("dzdo", tty=True, password="secret", prompts=PROMPTS)
    assert not any("secret" in word for word in each.argv())
    assert each.answers() == {"{password}": "secret"}


def test_the_base_class_of_the_rows_is_not_a_method():
    # Without a row it has the signature that Python derives.
    assert list(inspect.signature(containers.ToolOptions).parameters) == ["kwargs"]


def test_expand_leaves_the_template_alone():
    template = ["a", ["-u", "{u}"], "{u}"]
    assert expand(template, {"u": "x"}) == ["a", "-u", "x", "x"]
    assert template == ["a", ["-u", "{u}"], "{u}"]
    assert list(fields_of(template)) == ["u", "u"]


# ---- messages of the programs

IN = [("pipe", HELLO, [("hello",)]), ("pipe", READY, [("ready", b"")])]
SENT = [("send", "tty", b"secret\n")]


def failed(cls):
    return [("failed", cls.__name__)]


NO_DOCKER = b"Error response from daemon: No such container: web\n"
STOPPED = b"Error response from daemon: container 5f3c8 is not running\n"
NO_SH = b"""OCI runtime exec failed: exec failed: unable to start container process: exec: "sh": \
executable file not found in $PATH: unknown\n"""
NO_SH_CRUN = b"Error: crun: executable file `sh` not found in $PATH: No such file or directory\n"
PULL = b"Unable to find image 'debian:latest' locally\nlatest: Pulling from library/debian\n"
LXC_ATTACH = (
    b"lxc-attach: web: ../src/lxc/attach.c: get_attach_context: 406 Connection refused - Failed to"
    b" get init pid\n"
)
POD = {"pod": "web"}
ASK = {"argv": ["dzdo"], "tty": True, "password": "secret", "prompts": PROMPTS}
DENIED = [("not allowed", None, "dzdo: you are not allowed to")]
YES = [("continue\\?", "yes", "no"), *PROMPTS]
CODE = [(b"code:", "{code}", "the code is wrong"), ("press enter", "", "stuck")]

TRANSCRIPTS = {
    "docker": ("docker", WEB, IN),
    "docker, image is pulled": ("docker", {"image": "debian"}, [("err", PULL, []), *IN]),
    "docker, none": ("docker", WEB, [("err", NO_DOCKER, failed(ContainerError))]),
    "docker, stopped": ("docker", WEB, [("err", STOPPED, failed(ContainerError))]),
    "docker, no shell": ("docker", WEB, [("err", NO_SH, failed(UnsupportedPythonError))]),
    "docker, no Python": (
        "docker",
        WEB,
        [("pipe", b"MITO:NONE\n", failed(UnsupportedPythonError))],
    ),
    "docker, its own words on the pipe": ("docker", WEB, [("pipe", NO_DOCKER, []), *IN]),
    "podman, none": (
        "podman",
        WEB,
        [("err", b'Error: no container with name or ID "web" found: no such container\n',
          failed(ContainerError))],
    ),
    "podman, stopped": (
        "podman",
        WEB,
        [("err", b"Error: can only create exec sessions on running containers: container state "
          b"improper\n", failed(ContainerError))],
    ),
    "podman, no shell": ("podman", WEB, [("err", NO_SH_CRUN, failed(UnsupportedPythonError))]),
    "kubectl, no shell": ("kubectl", POD, [("err", NO_SH_CRUN, failed(UnsupportedPythonError))]),
    "buildah, none": (
        "buildah",
        WEB,
        [("err", b'Error: reading build container "web": container not known\n',
          failed(ContainerError))],
    ),
    "buildah, no shell": (
        "buildah",
        WEB,
        [("err", b'process failed to start with error: exec: "sh": executable file not found in '
          b"$PATHprocess exited with error: exec: not started\n",
          failed(UnsupportedPythonError))],
    ),
    "kubectl": (
        "kubectl",
        POD,
        [("err", b'Defaulted container "app" out of: app, sidecar\n', []), *IN],
    ),
    "kubectl, none": (
        "kubectl",
        POD,
        [("err", b'Error from server (NotFound): pods "web" not found\n', failed(ContainerError))],
    ),
    "kubectl, wrong container": (
        "kubectl",
        POD,
        [("err", b"error: container x is not valid for pod web\n", failed(ContainerError))],
    ),
    "lxc, none": ("lxc", WEB, [("err", LXC_ATTACH, failed(ContainerError))]),
    "lxd, none": ("lxd", WEB, [("err", b"Error: Instance not found\n", failed(ContainerError))]),
    "lxd, none, as before": ("lxd", WEB, [("err", b"Error: not found\n", failed(ContainerError))]),
    "incus, stopped": (
        "incus",
        WEB,
        [("err", b"Error: Instance is not running\n", failed(ContainerError))],
    ),
    "jail, none": (
        "jail",
        WEB,
        [("err", b'jexec: jail "web" not found\n', failed(ContainerError))],
    ),
    "command": ("command", {"argv": ["chroot", "/srv"]}, IN),
    "command, password": ("command", ASK, [("tty", b"\r\nPassword: ", SENT), *IN]),
    "command, asks on stderr": ("command", ASK, [("err", b"Password: ", SENT), *IN]),
    "command, says it on stdout": ("command", ASK, [("pipe", b"Password: none\n", []), *IN]),
    "command, asks again": (
        "command",
        ASK,
        [("tty", b"Password: ", SENT), ("tty", b"\r\nPassword: ", failed(PasswordError))],
    ),
    "command, no password": (
        "command",
        {**ASK, "password": None},
        [("tty", b"Password: ", failed(PasswordError))],
    ),
    "command, on standard input": (
        "command",
        {**ASK, "tty": "stdio"},
        [("pipe", b"Password: ", [("send", "pipe", b"secret\n")]), ("pipe", b"\r\n", []), *IN],
    ),
    "command, refused": (
        "command",
        {"argv": ["dzdo"], "prompts": DENIED},
        [("err", b"You are Not Allowed to do that\n", failed(StreamError))],
    ),
    "command, refused on stdout": (
        "command",
        {"argv": ["dzdo"], "prompts": DENIED},
        [("pipe", b"You are not allowed to do that\n", failed(StreamError))],
    ),
    "command, two questions": (
        "command",
        {**ASK, "prompts": YES},
        [("tty", b"continue? ", [("send", "tty", b"yes\n")]), ("tty", b"password: ", SENT), *IN],
    ),
    "command, own answers": (
        "command",
        {**ASK, "prompts": CODE, "code": 123, "argv": ["x"]},
        [("tty", b"Code: ", [("send", "tty", b"123\n")]),
         ("tty", b"press ENTER", [("send", "tty", b"\n")]), *IN],
    ),
    "command, own answer not given": (
        "command",
        {**ASK, "prompts": CODE, "argv": ["x"]},
        [("tty", b"Code: ", failed(PasswordError))],
    ),
}  # fmt: skip


def feed(shake, channel, data, size):
    """Return the events up to the one that ends the conversation, without variable parts."""
    events = []
    for at in range(0, len(data), size or len(data)):
        events += shake.receive(channel, data[at : at + (size or len(data))])
        if events and events[-1][0] in ("failed", "ready"):
            break
    return [
        (name, type(args[0]).__name__) if name == "failed" else (name, *args)
        for name, *args in events
    ]


@pytest.mark.parametrize("size", [None, 1], ids=["whole", "bytes"])
@pytest.mark.parametrize("name", TRANSCRIPTS)
def test_transcript(name, size):
    method, kwargs, steps = TRANSCRIPTS[name]
    each = conn(method, **kwargs)
    shake = Handshake(each.rules(), each.answers(), each.lookup())
    for channel, data, wanted in steps:
        assert feed(shake, channel, data, size) == wanted


def error_of(method, text, **kwargs):
    each = conn(method, **kwargs)
    events = Handshake(each.rules(), each.answers(), each.lookup()).receive("err", text)
    return str(events[-1][1])


def test_errors_name_the_failure_the_place_and_the_remedy():
    text = error_of("docker", NO_DOCKER, **WEB)
    assert text.startswith("docker: 'web' does not exist or is not running\nError response")
    text = error_of("docker", NO_SH, **WEB)
    assert text.startswith("docker: no Python found in 'web': looked for python3, python3.15")
    assert "name one with python_path=" in text and "executable file not found" in text
    text = error_of("command", b"Password: ", **{**ASK, "password": None})
    assert text.startswith("no value given for {password}, which is prompted for (command.dzdo)")
