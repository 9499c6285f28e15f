"""Options of connection and become plugins as steps; the interpreter found by the shell command."""

import json
import os
import subprocess

import pytest

from mitogen import parent
from mitogen.ansible.broker import hops
from mitogen.ansible.plugins import option_translation, own_options
from tests.checkout import ROOT

PYTHON = ["exec", *option_translation.PYTHON]
START_TIMEOUT = option_translation.START_TIMEOUT


class Plugin:
    """A fake plugin of Ansible: has options, and raises KeyError for unknown ones."""

    def __init__(self, name="", **given):
        self.name = name
        self.given = given

    def get_option(self, name):
        return self.given[name]


def connection(which, **given):
    """Return a connection plugin with default options, except for those given."""
    found = {name: option.default for name, option in own_options.KINDS[which].items()}
    assert set(given) <= set(found), "unknown option"
    return Plugin(**{**found, **given})


WEB = {"remote_addr": "web"}
# kind -> rows of (options, keywords of the step besides the time limit and the interpreter)
TOOLS = {
    "docker": [
        ({}, {"container": "web", "docker_path": ["docker"]}),
        (
            {
                "remote_user": "ann",
                "docker_extra_args": "--host 'tcp://a b'",
                "docker_path": "/opt/docker",
                "container_timeout": 7,
                "extra_env": {"A": "x y", "B": "1"},
                "working_dir": "/srv",
                "privileged": True,
            },
            {
                "container": "web",
                "username": "ann",
                "docker_path": ["/opt/docker", "--host", "tcp://a b"],
                "docker_args": ["--env", "A=x y", "--env", "B=1", "--workdir", "/srv"]
                + ["--privileged"],
                "connect_timeout": 7.0 + START_TIMEOUT,
            },
        ),
    ],
    "podman": [
        ({}, {"container": "web", "podman_path": ["podman"]}),
        (
            {
                "remote_user": "ann",
                "podman_executable": "/p",
                "podman_extra_args": "--log-level debug",
                "timeout": 3,
            },
            {
                "container": "web",
                "username": "ann",
                "podman_path": ["/p", "--log-level", "debug"],
                "connect_timeout": 3.0 + START_TIMEOUT,
            },
        ),
    ],
    "buildah": [
        ({}, {"container": "web", "buildah_path": "buildah"}),
        (
            {"remote_user": "ann", "buildah_path": "/b", "timeout": "4"},
            {
                "container": "web",
                "username": "ann",
                "buildah_path": "/b",
                "connect_timeout": 4.0 + START_TIMEOUT,
            },
        ),
    ],
    "kubectl": [
        ({}, {"pod": "web", "kubectl_path": ["kubectl"]}),
        (
            {
                "kubectl_pod": "p",
                "kubectl_container": "c",
                "kubectl_namespace": "n",
                "kubectl_extra_args": "--v 2",
                "kubectl_local_env_vars": {"A": "1"},
                "kubectl_kubeconfig": "/k",
                "kubectl_context": "x",
                "kubectl_host": "https://h",
                "kubectl_username": "ann",
                "kubectl_password": "secret",
                "kubectl_token": "token",
                "client_cert": "/c",
                "client_key": "/ck",
                "ca_cert": "/ca",
                "validate_certs": "no",
                "kubectl_path": "/kubectl",
                "timeout": 5,
            },
            {
                "pod": "p",
                "container": "c",
                "kubectl_path": ["env", "A=1", "/kubectl", "--namespace", "n"]
                + ["--kubeconfig", "/k", "--context", "x", "--server", "https://h"]
                + ["--username", "ann", "--password", "secret", "--token", "token"]
                + ["--client-certificate", "/c", "--client-key", "/ck"]
                + ["--certificate-authority", "/ca", "--insecure-skip-tls-verify=true"]
                + ["--v", "2"],
                "connect_timeout": 5.0 + START_TIMEOUT,
            },
        ),
        (
            {"validate_certs": True},
            {"pod": "web", "kubectl_path": ["kubectl", "--insecure-skip-tls-verify=false"]},
        ),
    ],
    "lxc": [
        ({}, {"container": "web", "lxc_attach_path": "lxc-attach"}),
        (
            {"lxc_attach_path": "/l", "timeout": 2},
            {"container": "web", "lxc_attach_path": "/l", "connect_timeout": 2.0 + START_TIMEOUT},
        ),
    ],
    "lxd": [
        ({}, {"container": "local:web", "lxc_path": ["lxc"]}),
        (
            {
                "remote_addr": "web.example.org",
                "remote": "far",
                "project": "x",
                "lxc_path": "/l",
                "timeout": 2,
            },
            {
                "container": "far:web",
                "lxc_path": ["/l", "--project", "x"],
                "connect_timeout": 2.0 + START_TIMEOUT,
            },
        ),
    ],
    "incus": [
        ({}, {"container": "local:web", "incus_path": ["incus", "--project", "default"]}),
        (
            {
                "remote_addr": "web.example.org",
                "remote": "far",
                "project": "x",
                "incus_path": "/i",
                "timeout": 2,
            },
            {
                "container": "far:web",
                "incus_path": ["/i", "--project", "x"],
                "connect_timeout": 2.0 + START_TIMEOUT,
            },
        ),
    ],
    "jail": [
        ({}, {"container": "web", "jexec_path": "/usr/sbin/jexec"}),
        (
            {"remote_user": "ann", "jexec_path": "/j", "timeout": 2},
            {
                "container": "web",
                "username": "ann",
                "jexec_path": "/j",
                "connect_timeout": 2.0 + START_TIMEOUT,
            },
        ),
    ],
    "setns": [
        (
            {
                "kind": "lxc",
                "remote_user": "ann",
                "docker_path": "/d",
                "lxc_path": "/l",
                "lxc_info_path": "/li",
                "machinectl_path": "/m",
                "nsenter_path": "/n",
                "timeout": 2,
            },
            {
                "kind": "lxc",
                "container": "web",
                "username": "ann",
                "docker_path": "/d",
                "lxc_path": "/l",
                "lxc_info_path": "/li",
                "machinectl_path": "/m",
                "nsenter_path": "/n",
                "connect_timeout": 2.0 + START_TIMEOUT,
            },
        ),
    ],
    "machinectl": [
        (
            {"remote_user": "ann", "machinectl_path": "/m", "nsenter_path": "/n", "timeout": 2},
            {
                "kind": "machinectl",
                "container": "web",
                "username": "ann",
                "machinectl_path": "/m",
                "nsenter_path": "/n",
                "connect_timeout": 2.0 + START_TIMEOUT,
            },
        ),
    ],
}
ROWS = [(kind, *row) for kind, rows in TOOLS.items() for row in rows]


@pytest.mark.parametrize(("kind", "given", "wanted"), ROWS)
def test_options_of_a_tool_become_keywords(kind, given, wanted):
    method, keywords = option_translation.tool_step(connection(kind, **{**WEB, **given}), kind)
    assert method == ("setns" if kind in ("setns", "machinectl") else kind)
    assert keywords == {"connect_timeout": 10.0 + START_TIMEOUT, "python_path": PYTHON, **wanted}
    # The method accepts it, too.
    cls = parent.get_connection_class(method)
    cls(cls.options_class(**keywords), None)


def test_every_option_of_a_tool_is_tried():
    for kind in option_translation.KINDS:
        tried = set().union({"remote_addr"}, *(given for name, given, _ in ROWS if name == kind))
        assert tried == set(own_options.KINDS[kind]), kind


def test_a_missing_kind_of_namespace_is_an_error_of_the_method():
    _, keywords = option_translation.tool_step(connection("setns", **WEB), "setns")
    with pytest.raises(ValueError, match="mitogen_kind is not set.* docker, lxc, lxd, machinectl"):
        parent.get_connection_class("setns").options_class(**keywords)


# ---- names


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("ssh", "ssh"),
        ("smart", "ssh"),
        ("ansible.builtin.ssh", "ssh"),
        ("ansible.legacy.local", "local"),
        ("mitogen.ansible.ssh", "ssh"),
        ("mitogen_ssh", "ssh"),
        ("mitogen_sudo", "sudo"),
        ("mitogen.ansible.doas", "doas"),
        ("docker", "docker"),
        ("community.docker.docker", "docker"),
        ("containers.podman.podman", "podman"),
        ("kubernetes.core.kubectl", "kubectl"),
        ("community.general.lxd", "lxd"),
        ("mitogen_machinectl", "machinectl"),
        # These are become plugins, not connections.
        ("sudo", None),
        ("su", None),
        ("winrm", None),
        ("", None),
    ],
)
def test_connection_names_have_a_kind(name, kind):
    assert option_translation.kind_of(name) == kind


def test_every_kind_has_a_plugin_and_options():
    files = os.listdir(str(ROOT / "ansible_plugins" / "connection"))
    plugins = {name[len("mitogen_") : -3] for name in files if name.endswith(".py")}
    assert plugins == set(option_translation.NAMES.values())
    assert (
        set(own_options.KINDS)
        == plugins - {"ssh", "local"}
        == {*option_translation.KINDS, *ACCOUNTS}
    )


@pytest.mark.parametrize("kind", own_options.KINDS)
def test_the_documentation_is_a_line_of_json_for_each_option(kind):
    text = own_options.documentation(kind)
    lines = dict(line.strip().split(": ", 1) for line in text.splitlines() if ': {"' in line)
    for name, option in own_options.KINDS[kind].items():
        entry = json.loads(lines[name])
        assert [each["name"] for each in entry["vars"]] == list(option.vars)
        assert entry.get("default") == option.default and entry["type"] == option.type
    assert "\n  mitogen_via:\n" in text and "\n  pipelining:\n" in text


@pytest.mark.parametrize(
    ("spec", "wanted"),
    [
        ("bastion", ("", "", "bastion")),
        ("root@bastion", ("", "root", "bastion")),
        ("sudo:root@bastion", ("sudo", "root", "bastion")),
        ("community.general.doas:a:b@c", ("community.general.doas:a", "b", "c")),
    ],
)
def test_via_is_parsed(spec, wanted):
    assert option_translation.parse_via(spec) == wanted


@pytest.mark.parametrize("spec", ["", "@bastion", "root@", ":root@bastion", "sudo:@bastion"])
def test_a_malformed_via_is_refused(spec):
    with pytest.raises(ValueError, match="mitogen_via=.* is not "):
        option_translation.parse_via(spec)


# ---- accounts

ACCOUNTS = ["sudo", "su", "doas"]


def become(name, **given):
    known = {"become_user": None, "become_pass": None, "become_exe": None, "become_flags": None}
    return option_translation.become_step(Plugin(name, **{**known, **given}))


@pytest.mark.parametrize(
    ("name", "given", "step"),
    [
        ("sudo", {}, ["sudo", {"username": "root", "sudo_path": "sudo"}]),
        (
            "ansible.builtin.sudo",
            {"become_user": "ann", "become_pass": "p", "become_flags": "-H -S -n"},
            ["sudo", {"username": "ann", "password": "p", "sudo_path": "sudo", "set_home": True}],
        ),
        (
            "sudo",
            {"become_exe": "/opt/sudo -n", "become_flags": "-HE -g 'a b' -P -k -C 5 -r r -t t"},
            [
                "sudo",
                {
                    "username": "root",
                    "sudo_path": "/opt/sudo",
                    "set_home": True,
                    "preserve_env": True,
                    "selinux_role": "r",
                    "selinux_type": "t",
                    "sudo_args": ["-C", "5", "-g", "a b", "-k", "-P"],
                },
            ],
        ),
        (
            "sudo",
            {"become_flags": "--login"},
            ["sudo", {"username": "root", "sudo_path": "sudo", "login": True}, "login"],
        ),
        ("su", {}, ["su", {"username": "root", "su_path": "su"}]),
        (
            "su",
            {"become_user": "ann", "become_pass": "p", "become_exe": "/bin/su"},
            ["su", {"username": "ann", "password": "p", "su_path": "/bin/su"}],
        ),
        (
            "su",
            {"become_exe": "sudo su -", "become_user": "a{b"},
            ["command", {"argv": ["sudo", "su", "-", "a{{b", "-c", "{shell}"]}, "login"],
        ),
        (
            "su",
            {"become_exe": "sudo -n /bin/su"},
            ["command", {"argv": ["sudo", "-n", "/bin/su", "root", "-c", "{shell}"]}],
        ),
        (
            "community.general.sudosu",
            {"become_flags": "-H -S -n"},
            [
                "command",
                {"argv": ["sudo", "-H", "-S", "-n", "su", "-l", "root", "-c", "{shell}"]},
                "login",
            ],
        ),
        ("doas", {}, ["doas", {"username": "root", "doas_path": "doas"}]),
        (
            "community.general.doas",
            {"become_user": "ann", "become_pass": "p", "become_exe": "/d", "become_flags": "-n"},
            ["doas", {"username": "ann", "password": "p", "doas_path": "/d"}],
        ),
    ],
)
def test_become(name, given, step):
    assert become(name, **given) == step
    method, keywords, *_ = step
    cls = parent.get_connection_class(method)
    cls(cls.options_class(**keywords), None).argv()


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("pbrun", {}),
        ("community.general.run0", {}),
        ("", {}),
        ("sudo", {"become_flags": "--preserve-env=A"}),
        ("sudo", {"become_flags": "-s"}),
        ("sudo", {"become_flags": "-u ann"}),
        ("sudo", {"become_flags": "-D /tmp"}),
        ("sudo", {"become_flags": "-R /srv"}),
        ("sudo", {"become_flags": "-h other"}),
        ("sudo", {"become_flags": "env"}),
        ("sudo", {"become_exe": "/usr/bin/env sudo"}),
        ("sudo", {"sudo_chdir": "/tmp"}),
        ("su", {"become_flags": "-l"}),
        ("su", {"become_exe": "sudo su -", "become_pass": "p"}),
        ("su", {"become_exe": "sudo bash -c"}),
        ("su", {"prompt_l10n": ["Passwort"]}),
        ("community.general.sudosu", {"become_pass": "p"}),
        ("community.general.sudosu", {"alt_method": True}),
        ("doas", {"become_flags": "-s"}),
        ("doas", {"become_exe": "env doas"}),
    ],
)
def test_options_without_a_step(name, given):
    assert become(name, **given) is None


@pytest.mark.parametrize("kind", ACCOUNTS)
def test_an_account_as_a_host(kind):
    step = option_translation.account_step(connection(kind), kind)
    assert step == [
        kind,
        {"username": "root", kind + "_path": kind, "connect_timeout": 10.0 + START_TIMEOUT},
    ]
    given = {"remote_user": "ann", "password": "p", kind + "_exe": "/x", "timeout": 3}
    method, keywords = option_translation.account_step(connection(kind, **given), kind)
    wanted = {
        "username": "ann",
        "password": "p",
        kind + "_path": "/x",
        "connect_timeout": 3.0 + START_TIMEOUT,
    }
    assert (method, keywords) == (kind, wanted)
    assert (
        option_translation.account_step(connection(kind, **{kind + "_flags": "-Z"}), kind) is None
    )


# ---- which interpreter


def found(tmp_path, interpreters, usr=()):
    """Return the output of the shell: name and arguments of an interpreter, or an error."""
    for number, names in enumerate((interpreters, usr)):
        place = tmp_path / str(number)
        place.mkdir()
        for name in names:
            path = place / name
            path.write_text('#!/bin/sh\necho "${0##*/} $1 $2 $3"\n')
            path.chmod(0o755)
    text = option_translation.PYTHON[2]
    assert text.count("/usr/bin/") == 2
    text = text.replace("/usr/bin/", "%s/1/" % tmp_path).replace("/usr/libexec", "/nonexistent")
    argv = ["/bin/sh", "-c", text, "-c", "STAGE", "NAME"]
    done = subprocess.run(argv, env={"PATH": str(tmp_path / "0")}, stdout=subprocess.PIPE)
    return done.stdout.decode().strip()


@pytest.mark.parametrize(
    ("interpreters", "usr", "wanted"),
    [
        (["python3"], ["python3", "python3.11"], "python3.11"),
        (["python3"], ["python3.9", "python3.11-config"], "python3.9"),
        # Too old, by its name.
        (["python3"], ["python3.5", "python3", "python2.7"], "python3"),
        (["python3.12"], [], "python3.12"),
        (["python"], [], "python"),
        (["python3", "python"], [], "python3"),
    ],
)
def test_the_interpreter_found_is_chosen(tmp_path, interpreters, usr, wanted):
    assert found(tmp_path, interpreters, usr) == "%s -c STAGE NAME" % wanted


def test_a_missing_interpreter_is_an_error(tmp_path):
    assert found(tmp_path, []) == "MITO:NONE"


def test_an_error_describes_the_searched_interpreters_briefly():
    text = "looked for %s; found none" % " ".join(PYTHON)
    assert (
        option_translation.readable(text)
        == "looked for %s; found none" % option_translation.PYTHON_TEXT
    )


# ---- without a context


@pytest.mark.parametrize(
    ("method", "keywords", "argv"),
    [
        (
            "docker",
            {"container": "web", "docker_path": ["docker", "-H", "x"], "python_path": PYTHON},
            ["docker", "-H", "x", "exec", "--interactive", "web", "/bin/sh", "-c", "echo 'a b'"],
        ),
        (
            "lxd",
            {"container": "local:web"},
            ["lxc", "exec", "--mode=non-interactive", "local:web", "--", "/bin/sh", "-c"]
            + ["echo 'a b'"],
        ),
    ],
)
def test_a_command_by_the_program_itself(method, keywords, argv):
    assert hops.command_line(method, keywords, "echo 'a b'") == argv


def test_a_command_by_ssh_is_quoted_for_the_shell_there():
    argv = hops.command_line("ssh", {"hostname": "h"}, "echo 'a b'")
    assert argv[-5:] == ["--", "h", "/bin/sh", "-c", "'echo '\"'\"'a b'\"'\"''"]


def test_a_command_in_namespaces():
    keywords = {"kind": "pid", "container": os.getpid(), "username": "ann"}
    argv = hops.command_line("setns", keywords, "id")
    assert argv[0] == "nsenter" and argv[-6:] == ["su", "-s", "/bin/sh", "ann", "-c", "id"]
    argv = hops.command_line("setns", dict(keywords, username=None), "id")
    assert argv[-4:] == ["--", "/bin/sh", "-c", "id"]


# ---- ssh's compression


STOCK_SSH = {
    "host": "web",
    "ssh_args": " ".join(option_translation.STOCK_SSH_ARGS),
    "ssh_common_args": "",
    "ssh_extra_args": "",
}


def test_with_default_ssh_args_mitogen_compresses_files_and_modules():
    method, keywords, *particular = option_translation.ssh_step(Plugin(**STOCK_SSH))
    assert (method, keywords["compression"], particular) == ("ssh", False, ["compress"])
    assert "-C" not in keywords["ssh_args"]


@pytest.mark.parametrize(
    ("given", "compression"),
    [
        ({"ssh_args": "-o ControlPersist=60s"}, False),
        ({"ssh_args": "-C"}, True),
        ({"ssh_extra_args": "-C"}, True),
        ({"ssh_args": ""}, False),
    ],
)
def test_with_other_ssh_args_ssh_compresses_as_configured(given, compression):
    _, keywords, *particular = option_translation.ssh_step(Plugin(**{**STOCK_SSH, **given}))
    assert keywords["compression"] == compression
    assert ("-C" in keywords["ssh_args"]) == compression
    assert not particular


# ---- ssh's time limit


def test_ansibles_timeout_applies_to_the_ssh_connection():
    """The start of a session and an interpreter has another minute, for fifty hosts at once."""
    _, keywords, *_ = option_translation.ssh_step(Plugin(**STOCK_SSH, timeout=7))
    assert keywords["ssh_args"][-2:] == ["-o", "ConnectTimeout=7"]
    assert keywords["connect_timeout"] == 7 + START_TIMEOUT


def test_a_users_connecttimeout_takes_precedence():
    given = {**STOCK_SSH, "ssh_extra_args": "-o ConnectTimeout=3"}
    words = option_translation.ssh_step(Plugin(**given))[1]["ssh_args"]
    # Of several, ssh takes the first.
    assert words.index("ConnectTimeout=3") < words.index("ConnectTimeout=10")
