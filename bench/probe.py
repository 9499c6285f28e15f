"""Tools for every subject: clocks, /proc, configuration of the slow link, return of results.

Rules: standard library only, nothing of mitogen or execnet. The subjects import it as `probe`
(their directory is on sys.path); code measured in a child never does.
"""

import json
import os
import pathlib
import statistics
import subprocess
import sys
import time
import traceback

__all__ = [
    "Setting",
    "Task",
    "cpu_seconds",
    "descendants",
    "descriptor_count",
    "main",
    "memory",
    "reset_peak",
    "run_threads",
    "slope",
    "thread_count",
    "timed",
]

MIB = 1024.0 * 1024.0


class Setting:
    """The setup by bench/suite.py, as attributes: python, ssh_config, tree, scratch, port, ..."""

    def __init__(self, values):
        self.__dict__.update(values)

    def script(self, name):
        """Return the path of a program in this directory."""
        names = {"tee": "tee.py", "mitogen": "script_mitogen.py", "execnet": "script_execnet.py"}
        return os.path.join(self.scripts, names[name])

    def config_for_link(self, delay, count):
        """Write an ssh configuration whose link takes *delay* ms; return its path.

        :param count: file to which the proxy writes its counts; the configuration is next to it.
        """
        proxy = [sys.executable, "-S", "-E", self.delay_proxy, "127.0.0.1", str(self.port)]
        line = "  ProxyCommand {} {} --count {}\n".format(" ".join(proxy), delay, count)
        path = count + ".ssh_config"
        text = pathlib.Path(self.ssh_config).read_text()
        pathlib.Path(path).write_text(text + line)
        return path

    def ssh_command(self, *command, config=None):
        """Return the argv of a plain ssh with the options that mitogen's ssh() also uses."""
        options = ["-F", config or self.ssh_config, "-o", "Compression=yes"]
        return ["ssh", *options, self.host, *command]


def timed(function, *args, **kwargs):
    """Call a function; return (seconds, result)."""
    start = time.perf_counter()
    result = function(*args, **kwargs)
    return time.perf_counter() - start, result


def descendants(pid=None):
    """Return the pids of all processes below *pid* (None: this one), nearest first."""
    below = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                stat = pathlib.Path("/proc", name, "stat").read_text(errors="replace")
            except OSError:
                continue
            below.setdefault(int(stat.rpartition(")")[2].split()[1]), []).append(int(name))
    found, queue = [], [pid or os.getpid()]
    while queue:
        children = below.get(queue.pop(0), [])
        found += children
        queue += children
    return found


def thread_seconds(pid):
    """Return the CPU time of each thread of *pid*: schedstat has ns, stat only 10 ms ticks."""
    total = 0.0
    for task in pathlib.Path("/proc", str(pid), "task").iterdir():
        try:
            total += int((task / "schedstat").read_text().split()[0]) / 1e9
        except (OSError, IndexError):
            fields = (task / "stat").read_text().rpartition(")")[2].split()
            total += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return total


def cpu_seconds():
    """Return the user and system seconds used so far by this process and its descendants."""
    return time.process_time() + sum(thread_seconds(pid) for pid in descendants())


def status(pid, field):
    """Return a field of /proc/PID/status, in MiB if it is in kB."""
    for line in pathlib.Path("/proc", str(pid), "status").read_text().splitlines():
        if line.startswith(field + ":"):
            words = line.split()
            return int(words[1]) / (1024.0 if words[-1] == "kB" else 1)
    raise KeyError(field)


def memory(pid=None, field="VmRSS"):
    """Return resident memory (private and shared) of a process in MiB; VmHWM is its peak."""
    return status(pid or os.getpid(), field)


def reset_peak(pid=None):
    """Reset VmHWM to the current resident memory."""
    pathlib.Path("/proc", str(pid or os.getpid()), "clear_refs").write_text("5")


def thread_count():
    """Return the number of threads of this process."""
    return status(os.getpid(), "Threads")


def descriptor_count():
    """Return the number of open descriptors of this process."""
    return len(os.listdir("/proc/self/fd")) - 1  # one belongs to the listing itself


def bare_memory(python):
    """Return the resident memory of a Python without imports, in MiB."""
    process = subprocess.Popen(
        [python, "-c", "import sys; print(1, flush=True); sys.stdin.read()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        process.stdout.readline()
        return memory(process.pid)
    finally:
        process.stdin.close()
        process.wait(10)
        process.stdout.close()


def run_threads(function, count, threads):
    """Call function(i) for each i below *count*, on that many threads; return the results.

    :raises Exception: the first error of any of them.
    """
    from concurrent.futures import ThreadPoolExecutor

    if threads == 1:
        return [function(index) for index in range(count)]
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(function, range(count)))


def slope(times):
    """Return round trips: the slope of the seconds over the delay.

    :param times: {delay in seconds: [seconds, ...]}; the minimum of each is used, as the value
        that is disturbed least.
    """
    (short, first), (long, second) = sorted((delay, min(each)) for delay, each in times.items())
    return (second - first) / (long - short)


def read_counts(path):
    """Return the delay proxy's counts, which are written a moment after the bytes have passed."""
    time.sleep(0.03)
    try:
        return json.loads(pathlib.Path(path).read_text())
    except FileNotFoundError:
        return {"up_flights": 0, "down_flights": 0, "up_bytes": 0, "down_bytes": 0}


def script_times(argv, count):
    """Return the median duration of a process in seconds, over *count* runs."""
    return statistics.median(
        timed(subprocess.run, argv, check=True, stdin=subprocess.DEVNULL, timeout=30)[0]
        for _ in range(count)
    )


class Task:
    """A task from bench/suite.py: a function, its arguments, and a file for the numbers."""

    def __init__(self, path):
        values = json.loads(pathlib.Path(path).read_text())
        self.library = values["library"]
        self.function = values["function"]
        self.params = values["params"]
        self.setting = Setting(values["setting"])
        self.answer = values["answer"]

    def finish(self, numbers=None, error=None, notes=()):
        """Write the answer as a whole."""
        draft = self.answer + ".draft"
        values = {"numbers": numbers, "error": error, "notes": list(notes)}
        pathlib.Path(draft).write_text(json.dumps(values))
        os.rename(draft, self.answer)


def main(functions, prepare):
    """Run the task given on the command line.

    :param functions: {name: function(setting, **params) -> {key: number}}.
    :param prepare: called first, with the Task; puts the library on sys.path.
    """
    task = Task(sys.argv[1])
    prepare(task)
    try:
        numbers = functions[task.function](task.setting, **task.params)
        task.finish(numbers, notes=numbers.pop("notes", ()))
    except BaseException as error:  # including errors of a child and the timeout's SIGTERM
        lines = traceback.format_exc().strip().splitlines()
        where = [text.strip() for text in lines if text.lstrip().startswith("File ")][-1:]
        text = "{}: {}".format(type(error).__name__, str(error).strip()[:300] or "(no text)")
        task.finish(error=" | ".join([text.replace("\n", " | "), *where]))
