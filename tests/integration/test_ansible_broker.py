"""The run's broker process, with requests like those of Ansible's workers, without Ansible."""

import os
import subprocess
import sys
import tempfile

import pytest

from mitogen import core
from mitogen.ansible.broker import client, rpc, scripts
from tests import processes

SOON = 30.0
STEPS = [["local", {"python_path": sys.executable}]]
#: A script with a long line, as a module has.
LONG = "data = '{}'\nprint(len(data), data[-1], {})\n"


@pytest.fixture
def run(tmp_path):
    """Return clients of one run, whose main process lives until the test is over."""
    made = []
    directory = tempfile.mkdtemp(dir=str(tmp_path))
    main = subprocess.Popen(["sleep", "1000"])
    broker = client.Client(directory, main.pid).start()

    def worker():
        made.append(client.Client(directory, main.pid))
        return made[-1]

    yield worker
    for each in made:
        each.close()
    main.kill()
    main.wait()
    assert broker.wait(SOON) == 0
    assert not os.path.exists(directory)


@pytest.fixture
def sizes(monkeypatch):
    """Record the size of each request, in bytes."""
    found = []
    real = rpc.Connection.send
    monkeypatch.setattr(
        rpc.Connection,
        "send",
        lambda self, value: (found.append(len(core.encode(value))), real(self, value))[1],
    )
    return found


def ask(worker, letter, number, size=100000):
    """Run a script; return the words of its output."""
    script = LONG.format(letter * size, number).encode()
    status, output, error = worker.script(STEPS, sys.executable, {}, script, {})
    assert status == 0, error
    return output.decode().split()


def test_a_connection_carries_a_long_part_once(run, sizes):
    worker = run()
    assert ask(worker, "a", 1) == ["100000", "a", "1"]
    assert ask(worker, "a", 2) == ["100000", "a", "2"]
    assert ask(worker, "b", 3) == ["100000", "b", "3"], "of the same length"
    assert ask(worker, "a", 4) == ["100000", "a", "4"]
    assert [size > 100000 for size in sizes] == [True, False, True, False]
    # The cache belongs to one connection: another worker or connection sends the part again.
    assert ask(run(), "a", 5) == ["100000", "a", "5"]
    worker.close()
    assert ask(worker, "b", 6) == ["100000", "b", "6"]
    assert [size > 100000 for size in sizes[4:]] == [True, True]


def test_parts_of_a_failed_request_are_sent_again(run, sizes):
    worker = run()
    script = LONG.format("a" * 100000, 1).encode()
    with pytest.raises(client.Failed):
        worker.script(STEPS, "/no/such/python", {}, script, {})
    assert ask(worker, "a", 2) == ["100000", "a", "2"]
    assert ask(worker, "a", 3) == ["100000", "a", "3"]
    assert [size > 100000 for size in sizes] == [True, True, False]


def test_digests_are_right_with_more_parts_than_the_cache_holds():
    """Digests are right even with more long parts than the cache holds."""
    divider = scripts.Divider()
    texts = [LONG.format(chr(97 + n % 26) * (65536 + n // 2), n).encode() for n in range(60)]
    for text in texts + texts[::-1]:
        assert divider.parts(text) == scripts.Divider().parts(text)


def test_output_may_have_any_size(run):
    worker = run()
    command = "head -c 3000000 /dev/zero; echo no >&2; exit 7"
    status, output, error = worker.request("run", STEPS, command, None, {}, None)
    assert (status, len(output), error) == (7, 3000000, b"no\n")
    status, output, _ = worker.request("run", STEPS, "wc -c", bytes(3000000), {}, None)
    assert (status, output.split()) == (0, [b"3000000"])


def test_an_account_is_connected_ahead(run, tmp_path):
    """A command for another account starts the connection, without waiting for it."""
    worker, gate, seen = run(), tmp_path / "gate", tmp_path / "seen"
    os.mkfifo(str(gate))
    python = tmp_path / "python"
    text = '#!/bin/sh\necho x >>{}\nread x <{}\nexec {} "$@"\n'
    python.write_text(text.format(seen, gate, sys.executable))
    python.chmod(0o755)
    ahead = [*STEPS, ["local", {"python_path": str(python)}, "become"]]
    assert worker.request("run", STEPS, "echo a", None, {}, None, ahead)[:2] == [0, b"a\n"]
    processes.wait_until(seen.exists, SOON)
    # Neither another command nor a request that needs and awaits it connects again.
    assert worker.request("run", STEPS, "echo b", None, {}, None, ahead)[:2] == [0, b"b\n"]
    gate.write_text("go\n")
    assert worker.script(ahead, sys.executable, {}, b"print(3)", {})[:2] == [0, b"3\n"]
    assert seen.read_text() == "x\n"


def test_a_failed_early_connection_is_reported_when_needed(run):
    worker = run()
    ahead = [*STEPS, ["local", {"python_path": "/no/such/python"}, "become"]]
    assert worker.request("run", STEPS, "echo a", None, {}, None, ahead)[:2] == [0, b"a\n"]
    with pytest.raises(client.Failed) as caught:
        worker.script(ahead, sys.executable, {}, b"print(3)", {})
    assert caught.value.kind == "NoAccount"
