"""The cost of a context, counted rather than timed: bytes sent, modules imported, bytes of a call.

The sizes are printed, so `pytest -s` shows their parts.
"""

import subprocess
import sys
import zlib
from types import SimpleNamespace

import pytest

from mitogen import master, ssh
from mitogen.bootstrap import handshake, preamble as preamble_file
from mitogen.calls import first_call
from mitogen.importing import module_server
from mitogen.methods.connection import LocalOptions
from tests.checkout import ROOT
from tests.unit import nodes

PREAMBLE_LIMIT = 12288
COMMAND_LIMIT = 700
CALL_LIMIT = 100
#: Each costs a child milliseconds, and none is needed before its first call.
HEAVY = {"socket", "logging", "threading", "pickle", "subprocess", "re", "struct", "_pickle"}


@pytest.fixture(scope="module")
def router():
    with nodes.network() as net:
        found = master.Router(nodes.Broker(net))
    yield found
    found.broker.end()


def typical(router):
    """Return the preamble for router.ssh() to a host, with a user name and long host names."""
    options = ssh.Options(
        hostname="database-17.example.com",
        username="deployment",
        remote_name="administrator@controller-3.example.com:1234567",
    )
    conn = ssh.Connection(options, router)
    stream = SimpleNamespace(name=conn.default_name())
    return router.preamble_for(SimpleNamespace(conn=conn, context_id=1, stream=stream))


def sizes_by_file():
    """Yield (bytes that a core file adds to the compressed source, its name)."""
    names, *files = preamble_file.core_source().split(b"\0")
    text, before = b"", 0
    for name, body in zip(names.decode().split(), files):
        text += body
        size = len(zlib.compress(text, 9))
        yield size - before, name
        before = size


def test_preamble_is_within_its_limit(router):
    data = typical(router)
    shrunk = len(zlib.compress(preamble_file.core_source(), 9))
    for size, name in [
        *sizes_by_file(),
        (shrunk, "all of the core"),
        (len(data) - shrunk, "second stage and configuration"),
        (len(data), "preamble, at most %d" % PREAMBLE_LIMIT),
    ]:
        print("%6d %s" % (size, name))
    assert len(data) <= PREAMBLE_LIMIT


def test_command_line_is_within_its_limit():
    command = " ".join(handshake.remote_command(None, "user@host:12345"))
    print("%6d bytes of remote command line, at most %d" % (len(command), COMMAND_LIMIT))
    assert len(command) <= COMMAND_LIMIT


def noop():
    """Do nothing: the minimal call."""


def test_bytes_of_a_call_are_within_their_limit(net):
    root, one = net.line(2)
    one.dispatcher(serve=True)
    there = root.context(one)
    ends = root.down[1], one.up
    for _ in range(2):
        before = [sum(len(data) for data, _ in end.sent) for end in ends]
        assert there.call(noop) is None
        after = [sum(len(data) for data, _ in end.sent) for end in ends]
    down, up = (now - then for now, then in zip(after, before))
    print("%6d + %d bytes of a call, at most %d" % (down, up, CALL_LIMIT))
    assert down + up <= CALL_LIMIT


# ---- modules that a child imports

SPY = b"""
def spy(fd, data, write=os.write):
    if data[:5] == b"MITO:":
        write(2, " ".join(sys.modules).encode())
        os.write = write
    return write(fd, data)
os.write = spy
"""
PYTHON = sys._base_executable


def with_spy(source):
    """Return the core with SPY appended to its last file."""
    return source + SPY


ALL_MODULES = "__import__('sys').modules"


@pytest.fixture(scope="module")
def bare():
    """Return the names of the modules that a bare interpreter imports."""
    program = "print(*{})".format(ALL_MODULES)
    done = subprocess.run([PYTHON, "-c", program], capture_output=True, text=True, timeout=30)
    return set(done.stdout.split())


def test_modules_at_ready(router, bare):
    """Feed a child its preamble; it reports the modules it has imported when ready."""
    conn = SimpleNamespace(
        options=LocalOptions(), err=True, environ={}, keepalive_interval=0, keepalive_count=0
    )
    stream = SimpleNamespace(name="local")
    preamble = router.branch.preamble
    try:
        router.branch.preamble = handshake.preamble(with_spy(preamble_file.core_source()))
        data = router.preamble_for(SimpleNamespace(conn=conn, context_id=1, stream=stream))
    finally:
        router.branch.preamble = preamble
    # The input ends after the preamble: the child loses its parent as soon as it is ready.
    argv = [PYTHON, "-c", handshake.first_stage(), "x"]
    done = subprocess.run(argv, input=data, capture_output=True, timeout=30)
    assert done.stdout.split(b"\n")[1] == b"MITO:READY", done.stderr
    more = set(done.stderr.decode().split()) - bare
    print("at READY beside a bare interpreter's:", *sorted(more))
    # None of these is pushed, nor is the package itself, which a child makes a little later.
    ours = {name for name in more if name.startswith("mitogen")}
    assert ours == module_server.ALWAYS_THERE - {"mitogen"}
    assert not HEAVY & more and len(more - ours) <= 12


def test_modules_after_the_first_call(bare):
    """Call only built-in functions in a local child."""
    with master.Router() as router:
        child = router.local(python_path=PYTHON)
        first, second = (set(child.call(eval, "sorted(%s)" % ALL_MODULES)) for _ in range(2))
    more = first - bare
    print("after the first call:", *sorted(more))
    assert first == second
    ours = {name for name in more if name.startswith("mitogen")}
    assert ours == {*module_server.ALWAYS_THERE, *first_call.FIRST_CALL}
    assert not HEAVY & more


def test_import_of_master_loads_few_modules():
    """A master imports `logging` and what it needs (traceback, string) when it has to log."""
    program = "import mitogen.master; print(*{})".format(ALL_MODULES)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT)
    assert not set(done.stdout.split()) & (HEAVY | {"traceback"}) - {"re", "threading"}, done.stderr


FAULTS_OF_CALLS = """
from mitogen import master
def faults():
    return eval(count), child.call(eval, count)
count = "__import__('resource').getrusage(0).ru_minflt"
with master.Router() as router:
    child = router.local()
    for _ in range(100):
        before = faults()
    for _ in range(500):
        child.call(int)
    print(*(after - count for after, count in zip(faults(), before)))
"""


def test_a_call_maps_no_memory():
    """Else each read costs mmap(), mremap(), munmap() and a page fault: a third of its time."""
    program = [sys.executable, "-c", FAULTS_OF_CALLS]
    done = subprocess.run(program, capture_output=True, text=True, cwd=ROOT, timeout=30)
    print("page faults of 500 calls, master and child:", done.stdout)
    assert all(int(count) < 250 for count in done.stdout.split()), done.stdout
    assert done.stdout, done.stderr
