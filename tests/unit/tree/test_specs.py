"""mitogen.tree.specs: parsing, errors with positions, connecting hop by hop."""

import ast
import inspect

import hypothesis
import pytest
from hypothesis import strategies

from mitogen import core, parent
from mitogen.tree import specs
from mitogen.tree.specs import parse

SSH = {"hostname": "host"}

# text -> hops
GOOD = {
    "local": [("local", {})],
    "local:": [("local", {})],
    "fork": [("fork", {})],
    "ssh:host": [("ssh", SSH)],
    "ssh:user@host:22/sudo:root/docker:web": [
        ("ssh", {"username": "user", "hostname": "host", "port": 22}),
        ("sudo", {"username": "root"}),
        ("docker", {"container": "web"}),
    ],
    "ssh:user@[::1]:2222": [("ssh", {"username": "user", "hostname": "::1", "port": 2222})],
    "ssh:[fe80::1%25eth0]": [("ssh", {"hostname": "fe80::1%eth0"})],
    "ssh:[::ffff:192.0.2.1]": [("ssh", {"hostname": "::ffff:192.0.2.1"})],
    "ssh:192.0.2.1:65535": [("ssh", {"hostname": "192.0.2.1", "port": 65535})],
    "ssh:DOMAIN%5Cann%40corp@host": [("ssh", {"username": "DOMAIN\\ann@corp", **SSH})],
    "ssh:b%C3%BCcher": [("ssh", {"hostname": "b\u00fccher"})],
    "ssh:b\u00fccher%FF": [("ssh", {"hostname": "b\u00fccher\udcff"})],
    "ssh:100%2525": [("ssh", {"hostname": "100%25"})],
    "sudo": [("sudo", {})],
    "sudo:": [("sudo", {})],
    "su:name": [("su", {"username": "name"})],
    "doas:a b": [("doas", {"username": "a b"})],
    "docker:ann@web": [("docker", {"username": "ann", "container": "web"})],
    "docker?image=registry:5000%2Fdebian": [("docker", {"image": "registry:5000/debian"})],
    "podman:web/buildah:b/jail:u@j": [
        ("podman", {"container": "web"}),
        ("buildah", {"container": "b"}),
        ("jail", {"username": "u", "container": "j"}),
    ],
    "lxc:a/lxd:remote:b/incus:c": [
        ("lxc", {"container": "a"}),
        ("lxd", {"container": "remote:b"}),
        ("incus", {"container": "c"}),
    ],
    "kubectl:pod": [("kubectl", {"pod": "pod"})],
    "kubectl:deployment%2Fweb@prod?container=app&kubectl_args=--kubeconfig '/a b'": [
        (
            "kubectl",
            {"pod": "deployment/web", "namespace": "prod", "container": "app"}
            | {"kubectl_args": ["--kubeconfig", "/a b"]},
        )
    ],
    "setns:lxc:web": [("setns", {"kind": "lxc", "container": "web"})],
    "setns:pid:nobody@42": [("setns", {"kind": "pid", "username": "nobody", "container": "42"})],
    "command:unshare --net?tty=stdio": [
        ("command", {"argv": ["unshare", "--net"], "tty": "stdio"})
    ],
    "command:chroot {root}?root=/s": [("command", {"argv": ["chroot", "{root}"], "root": "/s"})],
    "command:chroot '%2Fa b'/sudo": [("command", {"argv": ["chroot", "/a b"]}), ("sudo", {})],
    "ssh:host?python_path=/usr/bin/python3&port=22": [
        ("ssh", {"python_path": "/usr/bin/python3", "port": 22, **SSH})
    ],
    "ssh:host?python_path=/usr/bin/python3/sudo:root": [
        ("ssh", {"python_path": "/usr/bin/python3", **SSH}),
        ("sudo", {"username": "root"}),
    ],
    "ssh:host?python_path=/opt/local/bin/python3/sudo/local": [
        ("ssh", {"python_path": "/opt/local/bin/python3", **SSH}),
        ("sudo", {}),
        ("local", {}),
    ],
    "ssh:host?port=22/sudo?login=true/local": [
        ("ssh", {"port": 22, **SSH}),
        ("sudo", {"login": True}),
        ("local", {}),
    ],
    "ssh:host?python_path=/a%2Fsudo": [("ssh", {"python_path": "/a/sudo", **SSH})],
    "ssh:host?compression=No&connect_timeout=2.5&ssh_debug_level=3&ssh_args=-F /c": [
        (
            "ssh",
            {"compression": False, "connect_timeout": 2.5, "ssh_debug_level": 3}
            | {"ssh_args": ["-F", "/c"], **SSH},
        )
    ],
    "local?name=a%26b%3Dc%2F%25": [("local", {"name": "a&b=c/%"})],
    "local?name=a=b": [("local", {"name": "a=b"})],
    "local?name=": [("local", {"name": ""})],
    "sudo:?name=x": [("sudo", {"name": "x"})],
}  # fmt: skip


@pytest.mark.parametrize("text", GOOD)
def test_valid_specs(text):
    assert parse(text) == GOOD[text]


def test_docstring_examples():
    example, shown = specs.parse.__doc__.partition(">>> ")[2].strip().split("\n")
    assert eval(example) == ast.literal_eval(shown.strip())


def test_every_method_has_a_target_and_a_test():
    tried = {method for hops in GOOD.values() for method, _ in hops}
    assert sorted(specs.TARGETS) == sorted(parent.METHODS) == sorted(tried)


def test_every_converter_is_for_an_existing_option():
    known = {name for method in parent.METHODS for name in specs._known_options(method)}
    assert set(specs.CONVERTERS) <= known


@pytest.mark.parametrize("method", parent.METHODS)
def test_every_option_that_is_not_text_has_a_converter(method):
    for cls in parent.get_connection_class(method).options_class.__mro__[:-1]:
        for each in inspect.signature(cls).parameters.values():
            if isinstance(each.default, (bool, int, float, tuple)):
                assert each.name in specs.CONVERTERS, each.name


# ---- errors and positions

# text -> (position, reason)
BAD = {
    "": (0, "'' is not a connection method; known methods: buildah, command, doas, docker, "),
    " local": (0, "' local' is not a connection method"),
    "telnet:h": (0, "'telnet' is not a connection method"),
    "Ssh:h": (0, "'Ssh' is not a connection method"),
    "/": (0, "'' is not a connection method"),
    "ssh:h/": (6, "'' is not a connection method"),
    "ssh:h//sudo": (6, "'' is not a connection method"),
    "ssh:h/sudoo:root/local": (6, "'sudoo' is not a connection method"),
    "docker:a/b": (9, "'b' is not a connection method"),
    "ssh": (3, "'' is not a valid target of ssh; expected [user@]host[:port], with brackets"),
    "ssh:": (4, "'' is not a valid target of ssh"),
    "ssh:@h": (4, "'@h' is not a valid target of ssh"),
    "ssh:h:": (4, "'h:' is not a valid target of ssh"),
    "ssh:user:pw@h": (4, "is not a valid target of ssh"),
    "ssh:a@b@h": (4, "is not a valid target of ssh"),
    "ssh:::1": (4, "'::1' is not a valid target of ssh"),
    "ssh:[::1": (4, "'[::1' is not a valid target of ssh"),
    "ssh:[h]": (4, "'[h]' is not a valid target of ssh"),
    "ssh:h:ssh": (4, "'h:ssh' is not a valid target of ssh"),
    "ssh:h:0": (4, "port=0 is not a number from 1 to 65535"),
    "ssh:h:65536": (4, "port=65536 is not a number from 1 to 65535"),
    "local:x": (6, "'x' is not a valid target of local; expected nothing"),
    "sudo:a:b": (5, "'a:b' is not a valid target of sudo; expected [user]"),
    "podman": (6, "'' is not a valid target of podman; expected [user@]container"),
    "kubectl:@n": (8, "'@n' is not a valid target of kubectl; expected pod[@namespace]"),
    "setns:web": (6, "'web' is not a valid target of setns; expected kind:[user@]container"),
    "command": (7, "'' is not a valid target of command"),
    "command:'": (8, "argv=' is not words, quoted as for a shell"),
    "ssh:h?": (6, "'' is not an option, name=value"),
    "ssh:h?port": (6, "'port' is not an option, name=value"),
    "ssh:h?port=2&": (13, "'' is not an option, name=value"),
    "ssh:h?prot=2": (6, "ssh has no option 'prot'; known options: check_host_keys, compression, "),
    "fork?python_path=x": (5, "fork has no option 'python_path'"),
    "ssh:h?via=x": (6, "ssh has no option 'via'"),
    "command:x?a b=x": (10, "command has no option 'a b'"),
    "ssh:h?port=x": (11, "port=x is not a number from 1 to 65535"),
    "ssh:h:1?port=2": (8, "port is given twice"),
    "ssh:h?name=a&name=b": (13, "name is given twice"),
    "ssh:h?compression=maybe": (18, "compression=maybe is not true or false"),
    "ssh:h?connect_timeout=soon": (22, "connect_timeout=soon is not a number of seconds"),
    "su?incorrect_prompts=a": (
        21,
        "incorrect_prompts=a is not allowed in a spec; pass it as an argument",
    ),
    "command:x?prompts=a": (18, "prompts=a is not allowed in a spec; pass it as an argument"),
    "ssh:h?python_path=/a/sudoo:root": (21, "(write a slash in a value as %2F)"),
    "ssh:h?port=22/sudo:a:b": (19, "'a:b' is not a valid target of sudo"),
    "ssh:h%": (5, "'%' must be followed by two hexadecimal digits"),
    "ssh:h%4/local": (5, "'%' must be followed by two hexadecimal digits"),
    "ssh:h?name=a%zz": (12, "'%' must be followed by two hexadecimal digits"),
}


@pytest.mark.parametrize("text", BAD)
def test_invalid_specs(text):
    position, why = BAD[text]
    with pytest.raises(ValueError) as caught:
        parse(text)
    start = "spec %r, position %d: " % (text, position)
    assert str(caught.value).startswith(start) and why in str(caught.value)


@pytest.mark.parametrize("text", [None, b"local", 5, ["local"]])
def test_spec_that_is_not_text(text):
    with pytest.raises(TypeError, match="a spec is a str, not "):
        parse(text)


PIECES = [
    "ssh",
    "sudo",
    "local",
    "command",
    "docker",
    "kubectl",
    "setns",
    "h",
    "name",
    "port",
    "22",
]


@hypothesis.given(strategies.lists(strategies.sampled_from(list(":/?&=@%[]' {}\0") + PIECES)))
def test_any_text_is_parsed_or_refused_with_a_position(pieces):
    text = "".join(pieces)
    try:
        hops = parse(text)
    except ValueError as e:
        assert str(e).startswith("spec %r, position " % text)
        position = int(str(e)[len("spec %r, position " % text) :].partition(":")[0])
        assert 0 <= position <= len(text)
    else:
        assert hops and all(method in parent.METHODS for method, _ in hops)


@hypothesis.given(strategies.text(min_size=1))
def test_percent_encoding_can_express_any_text(value):
    quoted = "".join("%%%02X" % byte for byte in value.encode("utf-8", "surrogateescape"))
    assert parse("docker:%s/local?name=%s" % (quoted, quoted)) == [
        ("docker", {"container": value}),
        ("local", {"name": value}),
    ]


# ---- connecting


class Context:
    """The parts of a Context that connect() uses."""

    def __init__(self, router, method, via):
        self.router, self.method, self.via = router, method, via

    def shutdown(self):
        self.router.ended.append(self.method)
        return self

    def get(self, timeout):
        assert timeout == 3.0
        if self.router.hangs:
            raise core.TimeoutError("it hangs")


class Router:
    """A router that only records requests."""

    broker = type("Broker", (), {"shutdown_timeout": 3.0})
    from_spec = parent.Router.from_spec
    hangs = False

    def __init__(self, **errors):
        self.errors = errors
        self.made, self.ended, self.disconnected = [], [], []

    def connect(self, method, via=None, **kwargs):
        if method in self.errors:
            raise self.errors[method]
        self.made.append((method, via.method if via else None, kwargs))
        return Context(self, method, via)

    def disconnect(self, context):
        self.disconnected.append(context.method)


def test_hop_by_hop():
    router = Router()
    context = router.from_spec("ssh:host/sudo:root/local", name="mine", debug=True)
    assert router.made == [
        ("ssh", None, {"hostname": "host"}),
        ("sudo", "ssh", {"username": "root"}),
        ("local", "sudo", {"name": "mine", "debug": True}),
    ]
    assert (context.method, context.via.method, context.via.via.method) == ("local", "sudo", "ssh")
    assert router.ended == []


def test_connect_via_a_context_with_overriding_options():
    router = Router()
    router.from_spec("ssh:host:22?compression=no", via=Context(router, "first", None), port=23)
    assert router.made == [("ssh", "first", {"hostname": "host", "port": 23, "compression": False})]


FAILURE = core.StreamError("no such %s", "account")


@pytest.mark.parametrize(
    "error, wanted",
    [
        (FAILURE, "hop 3, su: no such account"),
        (core.TimeoutError("too late"), "hop 3, su: too late"),
        (KeyboardInterrupt(), ""),
        (ValueError("odd"), "odd"),
    ],
)
def test_connected_hops_are_ended_if_a_hop_fails(error, wanted):
    router = Router(su=error)
    with pytest.raises(type(error)) as caught:
        router.from_spec("ssh:host/sudo/su:x", via=Context(router, "first", None))
    assert type(caught.value) is type(error) and str(caught.value) == wanted
    # Ending the first hop ends all hops reached through it, but not existing contexts.
    assert router.ended == ["ssh"] and router.disconnected == []


def test_hanging_hop_is_ended():
    router = Router(su=FAILURE)
    router.hangs = True
    with pytest.raises(core.StreamError, match="hop 2, su: no such account"):
        router.from_spec("ssh:host/su:x")
    assert router.disconnected == ["ssh"]


def test_failure_of_the_first_hop_is_raised_unchanged():
    router = Router(ssh=FAILURE)
    with pytest.raises(core.StreamError) as caught:
        router.from_spec("ssh:host/su:x")
    assert caught.value is FAILURE and router.ended == []


@pytest.mark.parametrize(
    "text, kwargs, error",
    [
        ("ssh:h/docker", {}, TypeError),
        ("ssh:h/local", {"hostname": "x"}, TypeError),
        ("ssh:-oProxyCommand=x/local", {}, ValueError),
        ("ssh:h/setns:vserver:x/local", {}, ValueError),
        ("ssh:h/command:chroot {root}", {}, ValueError),
        ("ssh:h/nix", {}, ValueError),
    ],
)
def test_nothing_is_started_for_an_invalid_spec(text, kwargs, error):
    router = Router()
    with pytest.raises(error):
        router.from_spec(text, **kwargs)
    assert router.made == []
