"""mitogen.fakessh.ssh_options: the meaning of ssh's command lines. It is compared with the real ssh
in tests/integration/test_ssh_options.py; here are the differences, and values that ssh does not
print."""

import shlex

import pytest
from hypothesis import given, strategies as st

from mitogen.fakessh import ssh_options
from mitogen.fakessh.ssh_options import Answer, parse


def line(text):
    return parse(shlex.split(text))


def answer(text):
    with pytest.raises(Answer) as caught:
        line(text)
    return caught.value.status, caught.value.text


# command line -> attributes
GOOD = {
    "x": {"kind": "session", "host": "x", "command": None, "tty": "auto", "user": None},
    "u@x -p 22 echo  a 'b  c' '$d'": {"port": 22, "user": "u", "command": "echo a b  c $d"},
    "x ''": {"command": ""},
    "x -- -t": {"command": "-t", "tty": "auto"},
    "-- x -t": {"command": "-t"},
    "x echo -t": {"command": "echo -t"},
    "ssh://u%20v;p=1@x:2222/ id": {"user": "u v", "host": "x", "port": 2222, "command": "id"},
    # OpenSSH rejects this one.
    "ssh://u@[fe80::1%eth0]:22": {"host": "fe80::1%eth0", "port": 22},
    "-s x sftp": {"kind": "subsystem", "command": "sftp"},
    "-s -oClearAllForwardings=yes -L 1:a:1 -- x sftp": {"kind": "subsystem", "forwardings": []},
    "-W [::1]:22 x": {"kind": "forward", "forward": ("::1", 22), "tty": "no"},
    "-W db:5432 x ignored": {"kind": "forward", "forward": ("db", 5432)},
    "-N x": {"kind": "none", "command": None},
    "-fN x": {"kind": "none", "background": True, "stdin_null": True},
    "-f x cmd": {"kind": "session", "background": True, "stdin_null": True},
    "-O check x": {"kind": "control", "control": "check"},
    "-O exit -S none x": {"kind": "control", "control": "exit"},
    "-G u@x": {"kind": "config", "user": "u"},
    "-L 1:a:2 -R3:b:4 -D 5 -w any x": {
        "forwardings": [
            ("local", "1:a:2"),
            ("remote", "3:b:4"),
            ("dynamic", "5"),
            ("tunnel", "any"),
        ]
    },
    "-o 'LocalForward 1 a:2' -oDynamicForward=5 -oremoteforward='6 b:7' x": {
        "forwardings": [("local", "1 a:2"), ("dynamic", "5"), ("remote", "6 b:7")]
    },
    "-o ClearAllForwardings=no -D 5 x": {"forwardings": [("dynamic", "5")]},
    "-o ExitOnForwardFailure=yes x": {"exit_on_forward_failure": True},
    "-o 'RemoteCommand=echo %h %n %p %r %% %z' -o Hostname=y -p 3 u@x": {
        "command": "echo y x 3 u % %z",
        "hostname": "y",
    },
    "-o RemoteCommand=first -o RemoteCommand=second x": {"command": "first"},
    "-o RemoteCommand=none x": {"command": None},
    "-q x": {"log_level": 0, "shows_errors": False, "shows_warnings": False},
    "-o LogLevel=ERROR x": {"shows_errors": True, "shows_warnings": False},
    "-v x": {"shows_errors": True, "shows_warnings": True},
    "-e ^b x": {"escape": 2},
    "-e none x": {"escape": None},
    "x id": {"escape": ord("~"), "log_level": 3},
    "-vv -o LogLevel=quiet x": {"log_level": 6},
    "-o EscapeChar=^] -e a x": {"escape": ord("a")},
    "-o EscapeChar=% -o EscapeChar=none x": {"escape": ord("%")},
    "-o Port=5 -p 6 -o User=a -l b c@x": {"port": 5, "user": "a"},
    "-o '\"RequestTTY\" no' -o '' -o '#x' -o '\"x' x": {"tty": "no"},
    r"""-o 'SetEnv A=\"\ b\c "D=e\"f\g" H=i # j' x""": {
        "set_env": {"A": '" b\\c', "D": 'e"f\\g', "H": "i"}
    },
    # Options and keywords without a use here, and unknown keywords, are accepted.
    "-M -S /x -o ControlMaster=auto -o ControlPersist=60 -A -a -x -X -C -i k -J j -F f x": {},
    "-4 -6 -c a -m b -b c -B d -E e -I f -P g -K -k -g -y -Y -Z -1 -2 x": {"host": "x"},
    "-o Nobody=knows -o 'TheseWords at all' x": {"host": "x"},
    "-o HostKeyAlgorithms=+a,b -o ProxyCommand='nc %h %p' x": {"host": "x", "command": None},
}


@pytest.mark.parametrize("text", GOOD)
def test_the_meaning_of_command_lines(text):
    found = line(text)
    assert {name: getattr(found, name) for name in GOOD[text]} == GOOD[text]


# command line -> part of the error
WRONG = {
    "": "usage: ssh",
    "-z x": "unknown option -- z",
    "-: x": "unknown option -- :",
    "-p": "option requires an argument -- p",
    "x -o": "option requires an argument -- o",
    "@x": "usage",
    "ssh://@x": "usage",
    "ssh://x/path": "usage",
    "ssh://x:port": "usage",
    "ssh://[z!]": "usage",
    "-s x": "You must specify a subsystem to invoke.\nusage",
    "-o ControlPersist x": 'no argument after keyword "controlpersist"',
    "-o RequestTTY= x": 'no argument after keyword "requesttty"',
    "-o 'RequestTTY \"\"' x": "missing argument",
    "-o RequestTTY=maybe x": 'unsupported option "maybe"',
    "-o 'RequestTTY=yes no' x": "keyword requesttty extra arguments at end of line",
    "-o 'SetEnv A=\"' x": "invalid quotes",
    "-o SetEnv=A x": "Invalid SetEnv",
    "-o SendEnv=A=1 x": "Invalid environment name",
    "-o LogLevel=loud x": "unsupported log level 'loud'",
    "-o Port=0 x": "Bad port '0'",
    "-o EscapeChar=ab x": "Bad escape character",
    "-p 65536 x": "Bad port '65536'",
    "-p nosuchservice x": "Bad port 'nosuchservice'",
    "-e ab x": "Bad escape character 'ab'",
    "-W x y": "Bad stdio forwarding specification 'x'",
    "-W a:1 -W b:2 x": "stdio forward already specified",
    "-W a:1 -O check x": "multiplexing command with -W",
    "-O check -W a:1 x": "stdio forward with -O",
    "-O check -O exit x": "Multiplexing command already specified",
    "-O wait x": "Invalid multiplex command",
    "-N -s x y": "Cannot specify -s",
    "-s -N x y": "Cannot specify -N",
    "-f x": "Cannot fork into background without a command",
    "-o RemoteCommand=a x b": "Cannot execute command-line and remote command",
    "-- -oProxyCommand=x": "hostname contains invalid characters",
    "'a b'": "hostname contains invalid characters",
    "-l -x y": "remote username contains invalid characters",
}


@pytest.mark.parametrize("text", WRONG)
def test_errors_have_status_255(text):
    status, message = answer(text)
    assert status == 255
    assert WRONG[text] in message
    assert message.endswith("\n")


def test_version():
    assert answer("-V -z") == (0, ssh_options.VERSION)
    assert ssh_options.VERSION.startswith("OpenSSH_9.9p2 mitogen-fakessh")
    assert answer("-tV -p") == (0, ssh_options.VERSION)


def test_query():
    assert answer("-Q cipher") == (0, "")


@pytest.mark.parametrize(
    "text, is_tty, wanted, warned",
    [
        ("x", True, True, False),
        ("x", False, False, True),
        ("x cmd", True, False, False),
        ("-t x cmd", True, True, False),
        ("-t x cmd", False, False, True),
        ("-tt x cmd", False, True, False),
        ("-ttt x cmd", False, False, True),
        ("-tt -n x cmd", False, True, False),
        ("-t -n x cmd", True, False, True),
        ("-T x", True, False, False),
        ("-T x", False, False, False),
        ("-T -t x cmd", True, True, False),
        ("-N x", True, False, False),
        ("-W a:1 x", True, False, False),
        ("-s x sftp", True, False, False),
        ("-o RequestTTY=force x cmd", False, True, False),
        ("-o RequestTTY=auto x", True, True, False),
        ("-o RemoteCommand=cmd x", True, False, False),
    ],
)
def test_terminal(text, is_tty, wanted, warned):
    pty, warning = line(text).wants_pty(is_tty)
    assert (pty, "Pseudo-terminal will not be" in warning) == (wanted, warned)


def test_config():
    assert line("-G x").config("me") == "host x\nuser me\nhostname x\nport 22\n"
    found = line("-G -o Hostname=y -p 3 u@x")
    assert found.config("me") == "host x\nuser u\nhostname y\nport 3\n"


def test_environment():
    found = line("-o 'SendEnv LANG LC_* Q?' -o 'SetEnv A=1 LC_X=2' -o SetEnv=B=3 x")
    local = {"LANG": "C", "LC_ALL": "d", "LC_X": "e", "lc_y": "f", "Q": "g", "Q1": "h", "A": "i"}
    wanted = {"LANG": "C", "LC_ALL": "d", "LC_X": "2", "Q1": "h", "A": "1"}
    assert found.environment(local) == wanted
    assert line("x").environment(local) == {}
    assert line("-o 'SendEnv A LC_X' -o 'SendEnv -LC_*' x").environment(local) == {"A": "i"}


WORD = st.one_of(
    st.text(max_size=6),
    st.sampled_from(sorted("-" + letter for letter in ssh_options.GETOPT)),
    st.sampled_from(["-o", "--", "-", "ssh://", "u@", "-oSetEnv=", '-oUser "', "[::1]"]),
)


@given(st.lists(WORD, max_size=6))
def test_any_words_give_an_invocation_or_an_answer(argv):
    try:
        found = parse(argv)
    except Answer as answer:
        assert answer.status in (0, 255)
    else:
        assert found.host is not None
        assert found.kind in ("session", "subsystem", "forward", "none", "control", "config")
