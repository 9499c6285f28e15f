"""Scripts in a warm interpreter find the state of a newly started Python."""

import io
import os
import signal
import subprocess
import sys
import textwrap
import zipfile
from base64 import b64encode

import pytest

from mitogen import process
from mitogen.ansible.agent import warm
from mitogen.ansible.broker import scripts
from mitogen.bootstrap import spawn
from tests import hosts, processes

SOON = 30.0
PYTHONS = {v: p for v, p in hosts.find_pythons().items() if v >= (3, 6)}


@pytest.fixture(scope="module")
def context(router):
    return router.local(python_path="/usr/bin/python3")


def text_of(script):
    return textwrap.dedent(script).encode() if isinstance(script, str) else script


def run(context, script, interpreter=sys.executable, environment=None, **options):
    """Run a script in the zygote; return (status, output, error output)."""
    parts = [[digest, data] for digest, data in scripts.Divider().parts(text_of(script))]
    program = process.Custom(
        "mitogen.ansible.agent.runner.start_script", [interpreter, parts, environment or {}]
    )
    with context.popen(program, stdin=process.DEVNULL, **options) as popen:
        out, err = popen.communicate(timeout=SOON)
        return popen.returncode, out, err


def run_plain(script, interpreter=sys.executable, environment=None):
    done = subprocess.run(
        [interpreter],
        input=text_of(script),
        capture_output=True,
        # Without the variable that this process's Python has added for lack of a locale (PEP 538).
        env=dict(spawn.own_environment(), **(environment or {})),
        cwd=os.path.expanduser("~"),
    )
    return done.returncode, done.stdout, done.stderr


SCRIPTS = {
    "nothing": "",
    "output": "import sys; print('out'); print('err', file=sys.stderr)",
    "status": "import sys; sys.exit(3)",
    "no status": "import sys; sys.exit(None)",
    "text as exit status": "import sys; sys.exit('words')",
    "a large status": "import sys; sys.exit(259)",
    "an error": "def f():\n    raise KeyError('x')\nf()",
    "a syntax error": "def f(:\n",
    "a cause": "try:\n    1/0\nexcept Exception as e:\n    raise ValueError('x') from e",
    "an interrupt": "print('x'); raise KeyboardInterrupt",
    "os._exit": "import os; print('lost'); os._exit(4)",
    "a signal": "import os, signal; os.kill(os.getpid(), signal.SIGTERM)",
    "its modules": "import sys; print(sorted(m for m in sys.modules if m[:7] == 'ansible'))",
    "main": "import __main__; print(sorted(n for n in vars(__main__) if n[:2] != '__'), __name__)",
    "arguments": "import sys; print(sys.argv, sys.path[0] == '')",
    "directory": "import os; print(os.getcwd())",
    "input": "import sys; print(repr(sys.stdin.read()))",
    "signals": """
        import signal
        print([signal.getsignal(n) for n in (1, 2, 3, 13, 15, 17)])
        print(signal.pthread_sigmask(0, []))
        """,
    "descriptors": "import os; print(len(os.listdir('/proc/self/fd')))",
    "leads": """
        import os
        print(os.getsid(0) == os.getpid(), os.getpgid(0) == os.getpid())
        os.setsid()
        """,
    "atexit": "import atexit; atexit.register(print, 'at exit')",
    "a file left open": """
        import os, tempfile
        path = tempfile.mktemp()
        f = open(path, 'w')
        f.write('x' * 10)
        if not os.fork():
            os._exit(0)
        os.wait()
        f = None
        print(os.path.getsize(path))
        os.unlink(path)
        """,
    "a thread that continues": """
        import threading, time
        def late():
            time.sleep(0.2)
            print('late')
        threading.Thread(target=late).start()
        """,
    "a closed output": "import sys; sys.stdout.close()",
    "encodings": "import sys; print(sys.stdout.encoding, sys.getfilesystemencoding(), sys.flags)",
    "binary": "import sys; sys.stdout.buffer.write(bytes(range(256)) * 1000)",
    "pickled by name": "import pickle\nclass C: pass\nprint(type(pickle.loads(pickle.dumps(C()))))",
    "forks": "import os\npid = os.fork()\nif pid: print(os.waitpid(pid, 0)[1])\nelse: os._exit(5)",
    "a program": "import subprocess; print(subprocess.check_output(['echo', 'x']))",
    "deep": "def f(): f()\ntry: f()\nexcept RecursionError: print('deep')",
    "umask": "import os; m = os.umask(0); print(m)",
}


@pytest.mark.parametrize("script", SCRIPTS.values(), ids=SCRIPTS)
def test_a_script_behaves_as_in_a_new_python(script, context):
    assert run(context, script) == run_plain(script)


@pytest.mark.parametrize("environment", [{"A": "1"}, {"LC_ALL": "C"}, {"PYTHONHASHSEED": "7"}])
def test_a_script_has_the_given_environment(environment, context):
    script = """
        import os, sys
        print(os.environ.get('A'), os.environ.get('LC_ALL'), sys.flags.hash_randomization)
        print(sys.getfilesystemencoding())
        """
    plain = run_plain(script, environment=environment)
    assert run(context, script, environment=environment) == plain


@pytest.mark.parametrize("version", sorted(PYTHONS), ids=str)
def test_every_interpreter_can_be_a_zygote(version, context):
    script = "import sys; print(sys.version_info[:2], 2 ** 70); sys.exit(9)"
    assert run(context, script, PYTHONS[version]) == (
        9,
        "{} {}\n".format(version, 2**70).encode(),
        b"",
    )


def test_an_unusable_interpreter_is_tried_once(context, tmp_path, caplog):
    """It is tried once, without a message."""
    pythons = hosts.find_pythons()
    if (2, 7) not in pythons:
        pytest.skip("needs a Python 2.7 (pyenv or PATH)")
    python, started = tmp_path / "python2", tmp_path / "started"
    text = '#!/bin/sh\necho "$*" >>{}\nexec {} "$@"\n'
    python.write_text(text.format(started, pythons[2, 7]))
    python.chmod(0o755)
    for _ in range(3):
        assert run(context, "print 'two'", str(python)) == (0, b"two\n", b"")
    assert started.read_text().count("mitogen.zygote") == 1
    assert "zygote" not in caplog.text


def test_a_missing_interpreter_is_an_error(context):
    with pytest.raises(FileNotFoundError):
        run(context, "1", "/no/such/python")


def test_an_interpreter_is_warm_before_it_is_needed(router):
    context = router.local(python_path="/usr/bin/python3")
    pid = context.call(os.getpid)

    def begun():
        return [each.pid for each in processes.process_tree(pid) if "mitogen.zygote" in str(each)]

    assert not begun()
    # A missing interpreter is reported when it is needed, not before.
    context.call(warm.prepare, "/no/such/python")
    context.call(warm.prepare, sys.executable)
    first = begun()
    assert len(first) == 1
    assert run(context, "print(1)") == (0, b"1\n", b"")
    assert begun() == first
    with pytest.raises(FileNotFoundError):
        run(context, "print(1)", interpreter="/no/such/python")
    # The context's own.
    context.call(warm.prepare, "")
    assert len(begun()) == 2
    context.shutdown(wait=True)


def test_nothing_leaks_from_one_script_to_the_next(context):
    run(context, "import sys, os, random, builtins; builtins.leak = 1; os.environ['LEAK'] = '1'")
    script = "import os, builtins; print(hasattr(builtins, 'leak'), os.environ.get('LEAK'))"
    assert run(context, script)[1] == b"False None\n"


def test_random_numbers_differ(context):
    script = "import random, uuid, tempfile; print(random.random(), tempfile.mktemp())"
    assert run(context, script)[1] != run(context, script)[1]


def archive(**modules):
    """Return the base64 of a zip with these modules of ansible.module_utils."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as fp:
        for name in ("ansible/__init__", "ansible/module_utils/__init__"):
            fp.writestr(name + ".py", "")
        for name, source in modules.items():
            fp.writestr("ansible/module_utils/%s.py" % name, source)
        fp.writestr("filler", os.urandom(3000))
    return b64encode(file.getvalue()).decode()


WITH_ZIP = """
import atexit, base64, os, shutil, sys, tempfile
directory = tempfile.mkdtemp()
atexit.register(shutil.rmtree, directory)
path = os.path.join(directory, "x.zip")
with open(path, "wb") as fp:
    fp.write(base64.b64decode({!r}))
sys.path.insert(0, path)
print("ansible" in sys.modules)
from ansible.module_utils import basic
print(basic.VALUE)
from ansible.module_utils import only_here
print(only_here.VALUE, only_here.__file__.startswith(path))
"""


def test_preloaded_modules_are_those_of_the_script(router):
    """Modules with the same bytes are preloaded; others are imported from the script's zip."""
    context = router.local(python_path="/usr/bin/python3")
    one = WITH_ZIP.format(archive(basic="VALUE = 1", only_here="VALUE = 'a'"))
    two = WITH_ZIP.format(archive(basic="VALUE = 2", only_here="VALUE = 'b'"))
    more = WITH_ZIP.format(archive(basic="VALUE = 1", only_here="VALUE = 'a'", third=""))
    for script, is_warm, value, name in [
        (one, True, 1, "a"),
        (two, False, 2, "b"),
        (one, True, 1, "a"),
        (more, True, 1, "a"),
    ]:
        status, out, err = run(context, script)
        assert (status, err) == (0, b"")
        lines = out.decode().split()
        assert lines[:3] == [str(is_warm), str(value), name]


def test_a_module_that_refuses_this_python_exits_each_time(router):
    """It prints a message and exits, once for each script, as ansible.module_utils.basic does."""
    context = router.local(python_path="/usr/bin/python3")
    script = WITH_ZIP.format(archive(basic="print('too old'); raise SystemExit(1)", only_here=""))
    for _ in range(3):
        assert run(context, script) == (1, b"True\ntoo old\n", b"")


def test_a_script_that_hangs_is_terminated_with_its_processes(context):
    script = """
        import os, subprocess, sys
        p = subprocess.Popen(['sleep', '1000'])
        print(os.getpid(), p.pid, flush=True)
        p.wait()
        """
    parts = [[digest, data] for digest, data in scripts.Divider().parts(text_of(script))]
    program = process.Custom(
        "mitogen.ansible.agent.runner.start_script", [sys.executable, parts, {}]
    )
    with context.popen(program, stdin=process.DEVNULL) as popen:
        pids = list(map(int, popen.stdout.readline().split()))
        popen.kill()
    processes.wait_until(lambda: not any(map(processes.alive, pids)), SOON)


TIDY = """
import os, subprocess, sys, tempfile
with tempfile.TemporaryDirectory() as directory:
    # In the background of a shell SIGINT is ignored.
    shell = subprocess.Popen(["sh", "-c", "sleep 98765 >/dev/null 2>&1 & wait"])
    print(directory, os.getpgrp(), flush=True)
    shell.wait()
"""


@pytest.mark.parametrize("kill_zygote", [False, True])
def test_an_abandoned_script_may_clean_up(kill_zygote, context):
    """It is interrupted first; a process that ignores that is killed soon after."""
    parts = [[digest, data] for digest, data in scripts.Divider().parts(TIDY.encode())]
    program = process.Custom(
        "mitogen.ansible.agent.runner.start_script", [sys.executable, parts, {}]
    )
    with context.popen(program, stdin=process.DEVNULL) as popen:
        directory, group = popen.stdout.readline().decode().split()
        assert os.path.isdir(directory)
        if kill_zygote:
            os.kill(processes.process(int(group)).ppid, signal.SIGKILL)
        else:
            popen.close(0)
        processes.wait_until(lambda: not os.path.exists(directory), 2)
        processes.wait_until(lambda: not in_group(int(group)), 2)


PATIENT = """
import os, signal, sys, time
at = []
def on_term(*_):
    with open({!r}, "w") as fp:
        fp.write(str(time.monotonic() - at[0]))
    os._exit(0)
signal.signal(signal.SIGINT, lambda *_: at.append(time.monotonic()))
signal.signal(signal.SIGTERM, on_term)
print("ready", flush=True)
while True:
    signal.pause()
"""


def test_a_script_may_clean_up_while_its_context_ends(router, tmp_path):
    """Half a second passes between the exception and the next signal, as in other cases."""
    context = router.local(python_path=sys.executable)
    report = tmp_path / "report"
    script = PATIENT.format(str(report)).encode()
    parts = [[digest, data] for digest, data in scripts.Divider().parts(script)]
    program = process.Custom(
        "mitogen.ansible.agent.runner.start_script", [sys.executable, parts, {}]
    )
    with context.popen(program, stdin=process.DEVNULL) as popen:
        assert popen.stdout.readline() == b"ready\n"
        context.shutdown(wait=True)
    assert 0.3 < float(report.read_text()) < 2


def in_group(number):
    found = [each for each in processes.processes().values() if each.state not in "ZX"]
    return [each for each in found if group_of(each.pid) == number]


def group_of(pid):
    try:
        return os.getpgid(pid)
    except ProcessLookupError:
        return 0


def test_a_killed_zygote_is_replaced(context):
    # A script's parent leads its session; the parent of that is the zygote.
    hang = "import os, time\nprint(os.getppid(), flush=True)\ntime.sleep(1000)"
    parts = [[digest, data] for digest, data in scripts.Divider().parts(hang.encode())]
    program = process.Custom(
        "mitogen.ansible.agent.runner.start_script", [sys.executable, parts, {}]
    )
    with context.popen(program, stdin=process.DEVNULL) as popen:
        leader = processes.process(int(popen.stdout.readline()))
        os.kill(leader.ppid, signal.SIGKILL)
        assert popen.wait(SOON) == -signal.SIGKILL
    assert run(context, "print('again')") == (0, b"again\n", b"")
