"""handshake.py: transcripts of logins, whole and byte by byte; the first stage in real Pythons.

A transcript is a list of steps: bytes received on a channel, and the events that must follow. The
texts are those that OpenSSH 9.2, sudo 1.9.13, su of util-linux 2.38 and opendoas 6.8.2 print; the
programs themselves are run in tests/integration.
"""

import os
import pickle
import re
import shutil
import subprocess
import sys
import zlib

import pytest

from mitogen import core, doas, ssh, su, sudo
from mitogen.bootstrap import handshake
from mitogen.bootstrap.handshake import (
    EofError,
    Handshake,
    Rule,
    UnsupportedPythonError,
    first_stage,
    preamble,
    remote_command,
)
from tests import hosts, processes

HELLO = b"MITO:HELLO 3.9.2 /usr/bin/python3\n"
READY = b"MITO:READY\n"
WHOLE, BYTES = None, 1


def handshake_of(module, **kwargs):
    """Return the Handshake of a connection method with options `kwargs`."""
    if module is ssh:
        kwargs.setdefault("hostname", "h")
    conn = module.Connection(module.Options(**kwargs), None)
    if module is sudo:
        conn.prompt = "[mitogen 0123] password: "
    return Handshake(conn.rules(), conn.answers(), conn.lookup())


def feed(shake, channel, data, size=WHOLE):
    """Return the events up to the one that ends the conversation."""
    events = []
    for at in range(0, len(data), size or len(data) or 1):
        events += shake.receive(channel, data[at : at + (size or len(data))])
        if events and events[-1][0] in ("failed", "eaten", "ready"):
            break
    return events


def shown(events):
    """Return events without the parts that differ from run to run."""
    return [
        (name, type(args[0]).__name__) if name == "failed" else (name, *args)
        for name, *args in events
    ]


MOTD = b"Welcome to the noisy host.\r\nAll use is $ logged. password: none\r\n"
HOST_KEY = (
    b"The authenticity of host '[127.0.0.1]:2222 ([127.0.0.1]:2222)' can't be established.\r\n"
    b"ED25519 key fingerprint is SHA256:7jx3nXIvBHBUF2Cy0fM2vWdQ.\r\n"
    b"This key is not known by any other names.\r\n"
    b"Are you sure you want to continue connecting (yes/no/[fingerprint])? "
)
CHANGED = (
    b"@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@\r\n"
    b"@    WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED!     @\r\n"
    b"Host key for h has changed and you have requested strict checking.\r\n"
    b"Host key verification failed.\r\n"
)
ACCEPT = {"check_host_keys": "accept"}
PW = {"password": "secret"}
SENT = [("send", "tty", b"secret\n")]
SENT_ON_PIPE = [("send", "pipe", b"secret\n")]
SUDO_PROMPT = b"[mitogen 0123] password: "
IN = [("pipe", HELLO, [("hello",)]), ("pipe", READY, [("ready", b"")])]


def failed(name):
    return [("failed", name)]


NO_ROUTE = b"ssh: connect to host h port 22: Connection refused\r\n"
DENIED = b"u@h: Permission denied (publickey,password).\r\n"
DENIED_KEY = b"u@h: Permission denied (publickey).\r\n"
MANY = (
    b"Received disconnect from 127.0.0.1 port 2222:2: Too many authentication failures\r\n"
    b"Disconnected from 127.0.0.1 port 2222\r\n"
)
NO_KEY = b"No ED25519 host key is known for h and you have requested strict checking.\r\n"
PHRASE = b"Enter passphrase for key '/home/u/.ssh/id_ed25519': "
FAILED = failed("PasswordError")

TRANSCRIPTS = {
    "ssh key": (ssh, {}, IN),
    "ssh banner": (ssh, {}, [("err", b"** private **\r\n", []), ("pipe", MOTD, []), *IN]),
    "ssh password": (ssh, PW, [("tty", b"u@h's password: ", SENT), ("tty", b"\r\n", []), *IN]),
    "ssh keyboard-interactive": (ssh, PW, [("tty", b"(u@h) Password: ", SENT), *IN]),
    "ssh verification code": (ssh, PW, [("tty", b"(u@h) Verification code: ", SENT), *IN]),
    "ssh passphrase": (ssh, PW, [("tty", PHRASE, SENT), *IN]),
    "ssh wrong password": (ssh, PW, [("tty", b"u@h's password: ", SENT), ("err", DENIED, FAILED)]),
    "ssh asks again": (
        ssh,
        PW,
        [
            ("tty", b"u@h's password: ", SENT),
            ("tty", b"\r\nPermission denied, please try again.\r\n", []),
            ("tty", b"u@h's password: ", FAILED),
        ],
    ),
    "ssh no password": (ssh, ACCEPT, [("tty", b"u@h's password: ", FAILED)]),
    "ssh password needed": (ssh, {}, [("err", DENIED, FAILED)]),
    "ssh no key": (ssh, {}, [("err", DENIED_KEY, FAILED)]),
    "ssh too many": (ssh, {}, [("err", MANY, FAILED)]),
    "ssh host key": (
        ssh,
        dict(PW, **ACCEPT),
        [
            ("tty", HOST_KEY, [("send", "tty", b"yes\n")]),
            ("tty", b"\r\n", []),
            ("err", b"Warning: Permanently added 'h' (ED25519) to the list.\r\n", []),
            ("tty", b"u@h's password: ", SENT),
            *IN,
        ],
    ),
    "ssh host key refused": (ssh, PW, [("tty", HOST_KEY, failed("HostKeyError"))]),
    "ssh host key changed": (ssh, {}, [("err", CHANGED, failed("HostKeyError"))]),
    "ssh host key unknown": (
        ssh,
        {},
        [("err", NO_KEY + b"Host key verification failed.\r\n", failed("HostKeyError"))],
    ),
    "ssh no server": (ssh, {}, [("err", NO_ROUTE, [])]),
    "sudo free": (sudo, {}, IN),
    "sudo password": (sudo, PW, [("tty", SUDO_PROMPT, SENT), ("tty", b"\r\n", []), *IN]),
    "sudo lecture": (
        sudo,
        PW,
        [
            ("tty", b"\r\nWe trust you have received the usual\r\n\r\n", []),
            ("tty", SUDO_PROMPT, SENT),
        ],
    ),
    "sudo on stdin": (sudo, PW, [("pipe", SUDO_PROMPT, SENT_ON_PIPE), *IN]),
    "sudo wrong": (
        sudo,
        PW,
        [
            ("tty", SUDO_PROMPT, SENT),
            ("tty", b"\r\nSorry, try again.\r\n", []),
            ("tty", SUDO_PROMPT, FAILED),
        ],
    ),
    "sudo no password": (sudo, {}, [("tty", SUDO_PROMPT, FAILED)]),
    "sudo other prompt": (sudo, PW, [("tty", b"[sudo] password for u: ", SENT)]),
    "sudo after authentication": (
        sudo,
        PW,
        [("pipe", b"MITO:PASSED\n", []), ("tty", SUDO_PROMPT, []), *IN],
    ),
    "sudo after hello": (sudo, PW, [IN[0], ("tty", SUDO_PROMPT, []), IN[1]]),
    "su as root": (su, {}, IN),
    "su password": (su, PW, [("pipe", b"Password: ", SENT_ON_PIPE), ("pipe", b"\r\n", []), *IN]),
    "su wrong": (
        su,
        PW,
        [
            ("pipe", b"Password: ", SENT_ON_PIPE),
            ("pipe", b"\r\nsu: Authentication failure\r\n", FAILED),
        ],
    ),
    "su no password": (su, {}, [("pipe", b"Password: ", FAILED)]),
    "su own prompt": (
        su,
        dict(PW, password_prompt="Passwort:"),
        [("pipe", b"Password: ", []), ("pipe", b"\nPasswort: ", SENT_ON_PIPE)],
    ),
    "doas password": (doas, PW, [("tty", b"doas (u@h) password: ", SENT), *IN]),
    "doas wrong": (
        doas,
        PW,
        [
            ("tty", b"doas (u@h) password: ", SENT),
            ("pipe", b"doas: Authentication failed\n", FAILED),
        ],
    ),
    "doas wrong, on the tty": (
        doas,
        PW,
        [("tty", b"Password: ", SENT), ("tty", b"\r\ndoas: Authorization failed\r\n", FAILED)],
    ),
    "doas no password": (doas, {}, [("tty", b"doas (u@h) password: ", FAILED)]),
}


@pytest.mark.parametrize("size", [WHOLE, BYTES])
@pytest.mark.parametrize("name", TRANSCRIPTS)
def test_transcripts(name, size):
    module, kwargs, steps = TRANSCRIPTS[name]
    shake = handshake_of(module, **kwargs)
    for channel, data, events in steps:
        assert shown(feed(shake, channel, data, size)) == events, data


@pytest.mark.parametrize("name", [n for n, (_, _, steps) in TRANSCRIPTS.items() if steps[-1][2]])
def test_errors_include_the_last_output(name):
    module, kwargs, steps = TRANSCRIPTS[name]
    shake = handshake_of(module, **kwargs)
    events = [event for channel, data, _ in steps for event in shake.receive(channel, data)]
    if events[-1][0] == "failed":
        error = events[-1][1]
        assert isinstance(error, core.StreamError)
        last = steps[-1][1].decode().strip().split("\r\n")[-1]
        assert last in str(error), error


# ---- markers


@pytest.mark.parametrize("size", [WHOLE, 1, 2, 3, 5, 7, 11, 26, 27, 50])
def test_markers_are_found_after_noise(size):
    shake = Handshake()
    data = MOTD + HELLO + b"more noise\n" + READY
    assert feed(shake, "pipe", data, size) == [("hello",), ("ready", b"")]
    assert (shake.version, shake.executable, shake.state) == (
        (3, 9, 2),
        "/usr/bin/python3",
        "ready",
    )
    assert "password: none" in shake.output() and "more noise" in shake.output()


def test_following_frames_are_passed_on():
    assert Handshake().receive("pipe", HELLO + READY + b"MG\0MITO:READY\n") == [
        ("hello",),
        ("ready", b"MG\0MITO:READY\n"),
    ]


def test_markers_may_be_split_anywhere():
    data = b"x" + HELLO + READY
    for cut in range(1, len(data)):
        shake = Handshake()
        events = shake.receive("pipe", data[:cut])
        if not events or events[-1][0] != "ready":
            events += shake.receive("pipe", data[cut:])
        assert [event[0] for event in events] == ["hello", "ready"]


@pytest.mark.parametrize(
    "noise", [b"MITO", b"MITO:\n", b"MITO:OTHER x\n", b"MIMITO", b"M", b"\n\n"]
)
@pytest.mark.parametrize("size", [WHOLE, BYTES])
def test_a_near_marker_is_ordinary_output(noise, size):
    events = feed(Handshake(), "pipe", noise + HELLO + noise + READY, size)
    assert [event[0] for event in events] == ["hello", "ready"]


def test_markers_are_found_after_a_prompt_and_on_a_terminal():
    events = feed(Handshake(), "pipe", b"Password: \r\n" + HELLO.replace(b"\n", b"\r\n") + READY)
    assert events == [("hello",), ("ready", b"")]


def test_markers_count_on_the_pipe_only():
    assert feed(Handshake(), "err", HELLO + READY) == feed(Handshake(), "tty", READY) == []


@pytest.mark.parametrize("size", [WHOLE, BYTES])
def test_a_consumed_opening_is_reported(size):
    assert feed(Handshake(), "pipe", HELLO + b"MITO:EATEN\n", size) == [("hello",), ("eaten",)]


def test_a_program_may_contain_spaces():
    shake = Handshake()
    shake.receive("pipe", b"MITO:HELLO 3.13.0rc1+ /opt/my python/bin/python3\n")
    assert (shake.version, shake.executable) == ((3, 13, 0), "/opt/my python/bin/python3")


@pytest.mark.parametrize(
    "version, good",
    [("3.6.0", True), ("3.6", True), ("3.14.0a1", True), ("4.0.0", True), ("3.5.9", False),
     ("2.7.18", False), ("", False), ("x", False)],
)  # fmt: skip
def test_old_versions_are_refused(version, good):
    shake = Handshake(lookup="python3, python")
    (event,) = shake.receive("pipe", b"MITO:HELLO %s /usr/bin/python\n" % version.encode())
    if good:
        return
    name, error = event
    assert name == "failed" and isinstance(error, UnsupportedPythonError)
    text = str(error)
    assert "looked for python3, python; found /usr/bin/python, which is " + version in text
    assert "Python 3.6 or later is required" in text and "python_path=" in text


def test_a_missing_interpreter_is_an_error():
    shake = Handshake(lookup="python3")
    ((name, error),) = shake.receive("pipe", b"MITO:NONE\n")
    assert isinstance(error, UnsupportedPythonError) and "found none" in str(error)


def test_a_marker_without_an_end_is_bounded():
    shake = Handshake()
    shake.receive("pipe", b"MITO:HELLO ")
    for _ in range(20):
        shake.receive("pipe", b"x" * 65536)
    assert sum(len(v) for v in vars(shake).values() if isinstance(v, bytes)) < 200000


@pytest.mark.parametrize("marker", [b"MITO:", b"MITO:\n", b"MITO:OTHER\n", HELLO, b"MITO:PASSED\n"])
def test_thousands_of_markers_are_read_one_after_the_other(marker):
    events = Handshake().receive("pipe", marker * 30000 + b"\n" + HELLO + READY + b"rest")
    assert events == [("hello",), ("ready", b"rest")]


@pytest.mark.parametrize(
    "version", [b"9" * 5000, b"9." * 5000, b"\xff" * 5000, "\u0663.\u0669".encode(), b"3.9\0"]
)
def test_an_absurd_version_is_no_exception(version):
    ((name, *_),) = Handshake().receive("pipe", b"MITO:HELLO %s /p\n" % version)
    assert name in ("hello", "failed")


def test_an_exception_of_a_parser_is_an_error_of_the_connection():
    class Broken(Handshake):
        _MARKERS = dict(Handshake._MARKERS, HELLO=None)
        _MARKERS[b"HELLO"] = lambda self, text: 1 // 0

    ((name, error),) = Broken().receive("pipe", b"motd\n" + HELLO)
    assert name == "failed" and isinstance(error, core.StreamError)
    assert "can't be parsed: ZeroDivisionError" in str(error) and "motd" in str(error)


# ---- prompts and output


@pytest.mark.parametrize("end", [b"MITO:PASSED\n", HELLO])
def test_answers_are_dropped_with_the_end_of_authentication(end):
    shake = handshake_of(sudo, password="secret")
    shake.receive("pipe", end)
    assert not shake.answers and shake.receive("tty", SUDO_PROMPT) == []


def test_a_guard_reports_before_it_runs_the_command():
    words = ["sh", "-c", 'echo $0 "it\'s"', "a b"]
    assert subprocess.check_output(handshake.guarded(words)) == b"MITO:PASSED\na b it's\n"


def test_an_undecodable_password_is_sent_as_it_was_given():
    for password in ("p\udcff\u00e9", b"p\xff\xc3\xa9"):
        ((*_, data),) = handshake_of(su, password=password).receive("pipe", b"Password: ")
        assert data == b"p\xff\xc3\xa9\n"


def test_a_prompt_has_its_line_and_its_asker():
    shake = handshake_of(ssh, password="secret")
    text = b"Warning\r\n(u@jump) Sign in.\r\nu@h's password: "
    assert shown(feed(shake, "tty", text, BYTES)) == SENT
    (prompt,) = shake.prompts
    assert (prompt.line, prompt.asker) == ("u@h's password:", "u@jump")


def test_a_prompt_is_answered_once_per_name():
    rules = {
        "tty": [Rule(b"a\\?", "a", missing=(core.StreamError, "no a"), again=(EofError, "twice"))]
    }
    shake = Handshake(rules, {"a": "1"})
    assert shake.receive("tty", b"a? ") == [("send", "tty", b"1\n")]
    ((name, error),) = shake.receive("tty", b"\r\na? ")
    assert type(error) is EofError and str(error) == "twice\na?"
    ((_, error),) = Handshake(rules).receive("tty", b"A?")
    assert str(error) == "no a\nA?"


def test_several_prompts_in_one_piece():
    rules = {"tty": [Rule(b"one:", "1", (EofError, "")), Rule(b"two:", "2", (EofError, ""))]}
    shake = Handshake(rules, {"1": "a", "2": "b"})
    assert shake.receive("tty", b"two: one: ") == [("send", "tty", b"b\n"), ("send", "tty", b"a\n")]


def test_prompts_count_before_the_first_stage_only():
    shake = handshake_of(su, password="x")
    shake.receive("pipe", HELLO)
    assert shake.receive("pipe", b"Password: ") == []


def test_answers_to_standard_error_go_to_the_terminal():
    rules = {"err": [Rule(b"code:", "code", (EofError, ""))]}
    shake = Handshake(rules, {"code": "7"})
    assert shake.receive("err", b"code:") == [("send", "tty", b"7\n")]


def test_the_last_hundred_lines_are_kept():
    shake = Handshake()
    for number in range(250):
        shake.receive("err", b"line %d\r\n\r\n" % number)
    shake.receive("pipe", b"\xff no text")
    lines = shake.output().split("\n")
    assert lines == ["line %d" % n for n in range(150, 250)] + ["\ufffd no text"]


def test_a_line_without_end_is_bounded():
    shake = handshake_of(ssh)
    for _ in range(10):
        shake.receive("err", b"x" * 60000)
    assert len(shake.output()) <= handshake.KEPT_BYTES


def test_eof_and_timeout_errors_contain_the_output():
    shake = Handshake()
    shake.receive("pipe", b"some text\nhalf a line")
    error = shake.eof("process exited with status 255")
    assert isinstance(error, EofError) and isinstance(error, core.StreamError)
    assert str(error) == (
        "EOF on stream; last 100 lines received:\nsome text\nhalf a line\n"
        "process exited with status 255"
    )
    error = shake.timeout(1.5)
    assert isinstance(error, core.TimeoutError)
    assert str(error).startswith("Failed to setup connection after 1.50 seconds; last 100 lines")
    assert str(Handshake().eof()) == "EOF on stream; last 100 lines received:\n"


def test_percent_signs_in_output_are_kept():
    shake = handshake_of(ssh, password="x")
    ((_, error),) = shake.receive("err", b"100%s u@h: Permission denied (password).\r\n")
    assert "100%s" in str(error)
    assert "100%s" in str(error)
    shake.receive("err", b"100%s\n")
    assert "100%s\n50%" in str(shake.eof("50%"))


# ---- the first stage, in real interpreters

PYTHONS = hosts.find_pythons()
FAKE_CORE = b"""one two\0
def write(data):
    import os
    os.write(1, repr(data).encode())
\0
def child_main(config, source, rest):
    import sys
    same = sys.modules["mitogen.core.one"] is sys.modules["mitogen.core.two"]
    write((config, source, same, rest))
"""
CONFIG = b"configuration \0 with zero bytes \xff"


def python(version):
    if version not in PYTHONS:
        pytest.skip("needs Python {}.{}".format(*version))
    return PYTHONS[version]


def run(argv, stdin=b"", **kwargs):
    done = subprocess.run(argv, input=stdin, capture_output=True, timeout=30, **kwargs)
    return done.returncode, done.stdout, done.stderr


def run_first_stage(version, stdin, **kwargs):
    argv = [python(version), "-S", "-c", first_stage(), "user@host:1"]
    return run(argv, stdin, **kwargs)


@pytest.mark.parametrize("version", [(3, 6), (3, 13), (3, 15)])
def test_the_first_stage_runs_the_source_it_is_sent(version):
    data = preamble(FAKE_CORE)(CONFIG)
    status, out, err = run_first_stage(version, data + b"first frames")
    hello, _, rest = out.partition(b"\n")
    assert re.match(rb"MITO:HELLO 3\.%d\.\d+ /" % version[1], hello) and err == b""
    assert eval(rest) == (CONFIG, FAKE_CORE, True, b"first frames")


def test_a_python_too_old_reports_its_version_and_exits():
    status, out, err = run_first_stage((2, 7), preamble(FAKE_CORE)(b""))
    assert re.match(rb"MITO:HELLO 2\.7\.\d+ /\S+\n$", out) and status == 1 and err == b""


@pytest.mark.parametrize("missing", [1, 6, 13, 14, 2000])
def test_a_damaged_opening_is_detected(missing):
    data = preamble(FAKE_CORE + os.urandom(3000).hex().encode())(CONFIG)
    status, out, err = run_first_stage((3, 6), data[missing:])
    assert out.split(b"\n")[1:] == [b"MITO:EATEN", b""] and status != 0


@pytest.mark.parametrize("keep", [0, 5, 14, 200, -1])
def test_a_truncated_preamble_ends_the_first_stage(keep):
    data = preamble(FAKE_CORE)(CONFIG)[:keep]
    status, out, err = run_first_stage((3, 13), data)
    assert out.count(b"\n") == 1 and status == 1


def test_a_damaged_preamble_is_an_error():
    data = bytearray(preamble(FAKE_CORE)(CONFIG))
    data[-3] ^= 1  # in the checksum
    status, out, err = run_first_stage((3, 13), bytes(data))
    assert status != 0 and b"configuration" not in out


def test_modules_of_the_current_directory_are_not_run(tmp_path):
    for name in ("zlib", "os", "mitogen"):
        (tmp_path / (name + ".py")).write_text("open('evil', 'w')\n")
    argv = [python((3, 13)), "-c", first_stage(), "x"]
    status, out, err = run(argv, preamble(FAKE_CORE)(CONFIG), cwd=str(tmp_path))
    assert b"configuration" in out and not (tmp_path / "evil").exists()


def test_the_first_stage_is_the_same_text_to_every_shell():
    assert not set("'!$`\n") & set(first_stage())
    assert len(first_stage()) < 520


# ---- shells

SHELLS = ["sh", "bash", "dash", "csh", "fish"]


def shell(name):
    path = shutil.which(name)
    if not path:
        pytest.skip("needs " + name)
    return path


@pytest.mark.parametrize("name", SHELLS)
def test_a_shell_that_reads_the_preamble_runs_nothing_of_it(name, tmp_path):
    marker = tmp_path / "evil"
    head = preamble(b"")(b"")[:14]
    status, out, err = run([shell(name)], head + b"\ntouch %s\n" % os.fsencode(str(marker)) * 9)
    assert status == 78 and not marker.exists()


@pytest.mark.parametrize("name", SHELLS)
@pytest.mark.parametrize(
    "path", [None, sys._base_executable, ["env", "A=b c", sys._base_executable]]
)
def test_the_command_line_is_the_same_to_every_shell(name, path, tmp_path):
    command = " ".join(remote_command(path, "user@host:1"))
    (tmp_path / "python3").symlink_to(sys._base_executable)  # Its own name may have a version.
    env = {"PATH": str(tmp_path) + ":/usr/bin:/bin", "HOME": str(tmp_path)}
    env[processes.RUN_VARIABLE] = os.environ[processes.RUN_VARIABLE]
    status, out, err = run([shell(name), "-c", command], b"", env=env)
    assert out.startswith(b"MITO:HELLO %d.%d" % sys.version_info[:2]), err


def test_a_missing_python_is_reported():
    command = " ".join(remote_command(None, "x"))
    status, out, err = run([shell("sh"), "-c", command], env={"PATH": "/nonexistent"})
    assert (status, out) == (127, b"") or out == b"MITO:NONE\n"
    command = command.replace("exec sh", "exec /bin/sh").replace("/usr/libexec", "/nonexistent")
    status, out, err = run([shell("sh"), "-c", command], env={"PATH": "/nonexistent"})
    assert out == b"MITO:NONE\n"


def test_each_configuration_continues_the_same_stream():
    finish = preamble(FAKE_CORE)
    one, two = finish(b"one"), finish(b"two")
    for data, config in ((one, b"one"), (two, b"two")):
        text = zlib.decompress(data[14:])
        assert text.endswith(b"\0" + config) and FAKE_CORE in text


def test_an_interpreter_may_be_a_list():
    assert remote_command("/opt/my python", "n")[0] == "'/opt/my python'"
    assert remote_command(["sudo", "python3"], "n")[:3] == ["sudo", "python3", "-c"]


# ---- errors


def test_the_first_argument_of_a_login_error_is_the_text_of_its_module():
    """Programs compare it; the program's output follows it in str()."""
    for error in (
        ssh.PasswordError("%s", ssh.password_incorrect_msg + "\nPermission denied"),
        pickle.loads(pickle.dumps(ssh.PasswordError(ssh.password_incorrect_msg + "\n100%"))),
    ):
        assert error.args[0] == ssh.password_incorrect_msg
        assert str(error).startswith(ssh.password_incorrect_msg + "\n")
    assert ssh.HostKeyError("text").args == ("text",) and str(ssh.HostKeyError("text")) == "text"


def test_an_unknown_host_key_has_a_cure():
    handshake_ = handshake.Handshake(ssh.Connection(ssh.Options(hostname="h"), None).rules())
    ((kind, error),) = handshake_.receive("err", b"Host key verification failed.\n")
    assert kind == "failed" and error.args[0] == ssh.hostkey_failed_msg
    assert ssh.hostkey_hint in str(error) and "verification failed" in str(error)
