"""ssh_options.parse() compared with the real ssh: `ssh -G` prints its interpretation.

Intended differences are left out here; they are in tests/unit/fakessh/test_ssh_options.py.
"""

import re
import shlex
import subprocess

import pytest
from hypothesis import example, given, settings, strategies as st

from mitogen.fakessh import ssh_options
from tests import hosts

pytestmark = pytest.mark.skipif(
    not hosts.program("ssh"), reason="needs openssh-client (`ssh` is not installed)"
)

LEVELS = ["SILENT", "FATAL", "ERROR", "INFO", "VERBOSE", "DEBUG", "DEBUG2", "DEBUG3"]
#: A keyword of `-o` that this ssh rejects and a newer one may accept: accepted here.
UNKNOWN = {"unknown": []}
TTYS = {"true": "yes", "false": "no", "force": "force", "auto": "auto"}
KINDS = {"default": "session", "none": "none", "subsystem": "subsystem"}


def understood_by_ssh(argv):
    """Return the values of each keyword in the output of `ssh -G` for *argv*; None: an error."""
    done = subprocess.run(
        ["ssh", "-F", "/dev/null", "-G", *argv],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=20,
    )
    if done.returncode:
        assert done.returncode == 255
        return UNKNOWN if b"Bad configuration option" in done.stderr else None
    found = {}
    for line in done.stdout.decode("utf-8", "surrogateescape").splitlines():
        keyword, _, value = line.partition(" ")
        found.setdefault(keyword.lower(), []).append(value)
    return found


def shown(escape):
    """Return an escape character in the form of `ssh -G`: vis(3)."""
    if escape is None:
        return "none"
    return "\\^" + chr(escape | 64) if escape < 32 else chr(escape)


def ours(argv):
    """Return the interpretation by parse() in the same form."""
    try:
        found = ssh_options.parse(argv)
    except ssh_options.Answer as answer:
        assert answer.status == 255 and answer.text
        return None
    return {
        "host": found.host,
        "port": str(found.port or 22),
        "tty": found.tty,
        "kind": "none" if found.kind == "forward" else found.kind,
        "background": found.background,
        "stdin_null": found.stdin_null,
        "level": LEVELS[found.log_level],
        "send_env": found.send_env,
        "set_env": ["%s=%s" % pair for pair in found.set_env.items()],
        "escape": shown(found.escape),
        "user": found.user,
    }


def theirs(found, user):
    """Return ssh's interpretation in our terms."""
    background = found["forkafterauthentication"] == ["yes"]
    return {
        "host": found["host"][0],
        "port": found["port"][0],
        "tty": TTYS[found["requesttty"][0]],
        "kind": KINDS[found["sessiontype"][0]],
        "background": background,
        "stdin_null": background or found["stdinnull"] == ["yes"],
        "level": found["loglevel"][0].replace("QUIET", "SILENT"),
        "send_env": found.get("sendenv", []),
        "set_env": found.get("setenv", []),
        "escape": found["escapechar"][0],
        "user": None if user is None else found["user"][0],
    }


def check(argv):
    real, mine = understood_by_ssh(argv), ours(argv)
    if real is UNKNOWN:
        return
    if real is None or mine is None:
        assert (real is None) == (mine is None), shlex.join(argv)
    else:
        assert mine == theirs(real, mine["user"]), shlex.join(argv)


#: One per line, in shell syntax.
LINES = r"""
x
x cmd
u@x
a@b@c
@x
u@
''
-- x -p 3
x -p 3
x -p 3 -- -l u
x -p 3 cmd -l u
-p 3 x -p 4
-l -- x -p 3
-l u v@x
-p
-p ''
-p 0 x
-p 65535 x
-p 65536 x
-p 99999999999999999999 x
-p 022 x
-p -1 x
-p3 x
-4tTp 3 x
-tt x
-ttt x
-t -T x
-T -t x
-T -o RequestTTY=yes x
-o RequestTTY=no -t x
-o RequestTTY=yes -t x
-o RequestTTY=force -t x
-N x
-t -N x
-N -t x
-N -s x sub
-s -N x sub
-s x
-s x sub
-s -- x sub
-o SessionType=none x
-o SessionType=subsystem x
-o SessionType=subsystem x sub
-o SessionType=none -s x sub
-s -o SessionType=none x sub
-o sessiontype=none -N x
-W a:1 x
-W a x
-W '[::1]:22' x
-W a:b:1 x
-W :1 x
-W a:0 x
-W a: x
-W 7 x
-W 7 -W a:1 x
-W 7: x
-W +07 x
-W ' 7' x
-W '7 ' x
-W ssh x
-W a:ssh x
-W a:nosuchservice x
-W a/7 x
-W /a x
-W /a:7 x
-W /a:/b x
-W 7:/b x
-W a:/b x
-W '[a]:7' x
-W '[a' x
-W '[a]b:7' x
-W '[]:7' x
-W 'a\:7' x
-W 'a\:b:7' x
-W 'a:7\' x
-W a:-7 x
-W : x
-W :: x
-W '' x
-p ssh x
-p +07 x
-p '7 ' x
-o Port=ssh x
-W a:1 -W b:2 x
-W a:1 -O check x
-O check -W a:1 x
-O check -O check x
-O what x
-f x
-f x cmd
-fN x
-n x
-f -o StdinNull=no x cmd
-o ForkAfterAuthentication=yes x cmd
-o ForkAfterAuthentication=yes x
-o StdinNull=maybe x
-q x
-v x
-vvv x
-qv x
-vq x
-vqv x
-vqvvvvvvv x
-vvvvvvv x
-o LogLevel=debug3 x
-o LogLevel= x
-o 'User ""' x
-q -o LogLevel=DEBUG x
-o LogLevel=ERROR x
-o LogLevel=error -v x
-o LogLevel=what x
-e ^c x
-e none x
-e ^ x
-e '' x
-e ab x
-o EscapeChar=^] x
-o EscapeChar=none x
-o EscapeChar=ab x
-e % -o EscapeChar=# x
ssh://x
ssh://u@x:22
ssh://u@x:22/
ssh://u;a=b@x
ssh://u@x/path
ssh://@x
ssh://
ssh://x:0
ssh://x:
ssh://x:y
ssh://u%41@x
SSH://x
[::1]
u@[::1]
::1
-l u ssh://v@x:23
-p 3 ssh://x:23
-o Port=5 ssh://x:23
-o Port=5 -p 6 x
-p 6 -o Port=x x
-o 'Port 7' x
-o User=u -l v w@x
-o 'user u' x
-o Hostname=y x
-o '' x
-o ' ' x
-o '#x' x
-o RequestTTY x
-o RequestTTY= x
-o 'RequestTTY =' x
-o ' requesttty = no' x
-o 'requesttty==no' x
-o 'REQUESTTTY	no' x
-o '"requesttty" no' x
-o '"requesttty no' x
-o 'requesttty "force"' x
-o "requesttty 'force'" x
-o 'requesttty="force' x
-o 'requesttty=yes no' x
-o 'requesttty=yes # why' x
-o 'requesttty=what' x
-o ControlPersist x
-o ControlPersist=yes x
-o SetEnv=A x
-o 'SetEnv A=1 B=2' x
-o 'SetEnv A=1' -o 'SetEnv B=2' x
-o 'SetEnv A=1 A=2' x
-o SetEnv=A=b=c x
-o 'SetEnv=A=b\ c D="e\"f" G=h # i' x
-o 'SetEnv "A=b'"'"'c"' x
-o "SetEnv 'A=b\"c' D=\\\\" x
-o 'SendEnv=A=1' x
-o 'SendEnv A B*' x
-o 'SendEnv A LC_X' -o 'SendEnv -LC_*' x
-o 'RemoteCommand a b' x
-o RemoteCommand=a x b
-o RemoteCommand=none x b
-o 'RemoteCommand "a' x
-z x
-
-4 - x
--help
-x-y
'a b'
'a;b'
-l 'a;b' x
-l 'a -b' x
x -z
x -p
-i
-F /dev/null x
-J a@b:22 -S /tmp/x -A -a -C -X -x -K -k -g -y x
-c aes128-ctr -m hmac-sha2-256 -b 127.0.0.1 -B lo -E /dev/null -I none -i /none x
-L 1:a:2 -R 1:a:2 -D 1 x
""".strip().splitlines()


@pytest.mark.parametrize("line", LINES)
def test_options_are_read_like_openssh(line):
    check(shlex.split(line))


WORDS = st.sampled_from(
    ["x", "u@x", "ssh://u@y:9", "--", "-", "what", "word", "-t", "-T", "-N", "-n", "-q", "-s", "-f"]
    + ["-tt", "-4A", "-p", "7", "-p8", "-l", "w", "-e", "none", "-W", "a:1", "-Op", "-qtt", "-nTp"]
    + ["-o", "requesttty=force", "-oRequestTTY no", "-oPort 5", "-oUser=o", "-oStdinNull yes"]
    + ["-osessiontype=none", "-oLogLevel=ERROR", "-oSetEnv A=1", "-oSendEnv B C", "-v", "-i", "-C"]
)


@settings(max_examples=300, deadline=None)
@example(["x", "--", "-t"])
@given(st.lists(WORDS, max_size=7))
def test_options_may_have_any_order(argv):
    check(argv)


QUOTED = st.text(alphabet="ab =\"'\\#\t", max_size=12)


@settings(max_examples=300, deadline=None)
@given(QUOTED)
def test_quotes_in_options_are_read_like_openssh(text):
    # ssh -G prints a tab and the like in another form, and refuses a value without a name.
    line = "SetEnv X=1 Y=" + text
    real = understood_by_ssh(["-o", line, "x"])
    mine = ours(["-o", line, "x"])
    assert (real is None) == (mine is None)
    if mine is not None:
        expected = [re.sub(r"[\t]", "?", value) for value in real.get("setenv", [])]
        assert [value.replace("\t", "?") for value in mine["set_env"]] == expected
