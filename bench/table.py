"""The benchmark rows and their bounds, as data.

Rules: this module measures nothing and imports nothing of mitogen; at import it only builds the
tables. A *group* is one function of the subjects (bench/subject_*.py), run in its own process per
subject and round; it returns {key: number}. A *row* is one of its keys with a unit and a bound.
`params` are the arguments of that function: the `full` ones, and those that `--quick` replaces.
"""

from typing import Any, NamedTuple, Optional

__all__ = ["BASIC", "GROUPS", "ROWS", "SUBJECTS", "Bound", "Group", "Row", "select"]

SUBJECTS = ("ours", "peer", "execnet")
BASIC = ("ours", "peer")
PINNED, FREE = "1cpu", "free"


class Bound(NamedTuple):
    """A limit for ours divided by the peer's (`of` "ratio") or for ours itself (`of` "ours")."""

    of: str
    sign: str
    limit: float

    def __str__(self) -> str:
        return "{} {:g}{}".format(self.sign, self.limit, "x" if self.of == "ratio" else "")

    def met(self, ours: Optional[float], ratio: Optional[float]) -> Optional[bool]:
        """Return whether the number is within the limit, None if there is no number."""
        value = ratio if self.of == "ratio" else ours
        if value is None:
            return None
        return value <= self.limit if self.sign == "<=" else value >= self.limit


def at_most(limit: float) -> Bound:
    """Return a bound: ours / peer <= limit."""
    return Bound("ratio", "<=", limit)


def at_least(limit: float) -> Bound:
    """Return a bound: ours / peer >= limit."""
    return Bound("ratio", ">=", limit)


def ours(limit: float) -> Bound:
    """Return a bound: ours <= limit, in the row's unit."""
    return Bound("ours", "<=", limit)


class Group(NamedTuple):
    """One function of the subjects and how to run it.

    :param subjects: the subjects that have it.
    :param pins: "1cpu": all its processes on one processor; "free": as the kernel chooses.
    :param full: its arguments.
    :param quick: arguments that `--quick` replaces.
    :param needs: "sshd", "sudo", "tree": required resources of the hosts.
    :param rounds: maximum number of rounds, for functions that take long.
    :param timeout: seconds for one process.
    :param file: file of the function, if not that of the subject's others.
    """

    name: str
    function: str
    subjects: tuple[str, ...] = BASIC
    pins: tuple[str, ...] = (FREE,)
    full: dict[str, Any] = {}  # noqa: RUF012 - never changed
    quick: dict[str, Any] = {}  # noqa: RUF012
    needs: tuple[str, ...] = ()
    rounds: int = 100
    timeout: float = 60.0
    file: str = ""

    def params(self, quick: bool) -> dict[str, Any]:
        """Return the arguments of the function."""
        return {**self.full, **(self.quick if quick else {})}


class Row(NamedTuple):
    """One line of the table.

    :param group: name of the Group.
    :param key: the key of its number.
    :param pin: one of the group's pins.
    :param bound: None: for information only.
    """

    group: str
    pin: str
    key: str
    unit: str
    what: str
    bound: Optional[Bound] = None

    @property
    def name(self) -> str:
        """The unique name, by which `bench/run` selects: group.key@pin."""
        return "{}.{}@{}".format(self.group, self.key, self.pin)


BOTH = (PINNED, FREE)
#: File of the functions that run programs, over a context and over OpenSSH.
PROGRAMS = "subject_programs.py"

GROUPS = {
    group.name: group
    for group in [
        Group(
            "call_local",
            "call",
            SUBJECTS,
            BOTH,
            {"where": "local", "count": 10000},
            {"count": 1000},
        ),
        Group(
            "call_hops", "call", SUBJECTS, BOTH, {"where": "hops", "count": 5000}, {"count": 500}
        ),
        Group(
            "call_ssh",
            "call",
            SUBJECTS,
            BOTH,
            {"where": "ssh", "count": 5000},
            {"count": 500},
            needs=("sshd",),
        ),
        Group(
            "outstanding_1",
            "outstanding",
            SUBJECTS,
            (PINNED, FREE),
            {"children": 1, "count": 1000, "times": 20},
            {"times": 3},
        ),
        Group(
            "outstanding_8",
            "outstanding",
            SUBJECTS,
            (PINNED, FREE),
            {"children": 8, "count": 1000, "times": 20},
            {"times": 3},
        ),
        Group("cpu", "cpu", SUBJECTS, (PINNED, FREE), {"count": 10000}, {"count": 2000}),
        Group(
            "connect_local",
            "connect",
            SUBJECTS,
            BOTH,
            {"where": "local", "count": 20},
            {"count": 5},
        ),
        Group(
            "connect_ssh",
            "connect",
            SUBJECTS,
            BOTH,
            {"where": "ssh", "count": 10},
            {"count": 1},
            needs=("sshd",),
        ),
        Group(
            "connect_sudo",
            "connect",
            BASIC,
            BOTH,
            {"where": "sudo", "count": 20},
            {"count": 5},
            needs=("sshd", "sudo"),
        ),
        Group(
            "connect_50",
            "connect_many",
            SUBJECTS,
            (FREE,),
            {"count": 50, "threads": 1},
            {"count": 10},
            rounds=3,
        ),
        Group(
            "connect_50_16",
            "connect_many",
            SUBJECTS,
            (FREE,),
            {"count": 50, "threads": 16},
            {"count": 16},
            rounds=3,
        ),
        Group(
            "connect_200_16",
            "connect_many",
            SUBJECTS,
            (FREE,),
            {"count": 200, "threads": 16},
            {"count": 32},
            rounds=3,
            timeout=120,
        ),
        Group("script", "script", SUBJECTS, BOTH, {"count": 10}, {"count": 3}),
        Group("import", "import_time", BASIC, (PINNED,), {"count": 20}, {"count": 5}),
        Group(
            "link",
            "link",
            SUBJECTS,
            (FREE,),
            # milliseconds; the slope between the two cancels out processor time
            {"delays": (50, 250), "repeat": 3},
            {"delays": (25, 75), "repeat": 1},
            needs=("sshd", "sudo", "tree"),
            rounds=3,
            timeout=180,
        ),
        Group("bytes", "count_bytes", BASIC, (FREE,), {}, needs=("tree",), rounds=1),
        Group("bulk", "bulk", SUBJECTS, BOTH, {"count": 200}, {"count": 30}, rounds=5, timeout=120),
        Group("files", "files", BASIC, (FREE,), {"megabytes": 200}, {"megabytes": 30}, rounds=5),
        Group(
            "fileservice",
            "fileservice",
            BASIC,
            (FREE,),
            {"megabytes": 1000},
            {"megabytes": 50},
            rounds=3,
        ),
        # The peer has none of these.
        Group(
            "put_get",
            "put_get",
            ("ours",),
            (FREE,),
            {"megabytes": 1000},
            {"megabytes": 50},
            rounds=3,
        ),
        Group(
            "rsync_large",
            "rsync_large",
            ("ours",),
            (FREE,),
            {"megabytes": 500, "depths": [0, 1, 3], "times": 3},
            {"megabytes": 20, "times": 1},
            needs=("sshd",),
            rounds=3,
            timeout=300,
            file=PROGRAMS,
        ),
        Group(
            "rsync_small",
            "rsync_small",
            ("ours",),
            (FREE,),
            {"count": 5000, "size": 2000, "depths": [0, 1, 3], "times": 3},
            {"count": 200, "times": 1},
            needs=("sshd",),
            rounds=3,
            timeout=300,
            file=PROGRAMS,
        ),
        Group(
            "ssh_true",
            "start",
            ("ours",),
            (FREE,),
            {"count": 20},
            {"count": 3},
            needs=("sshd",),
            rounds=3,
            file=PROGRAMS,
        ),
        Group(
            "run_busy",
            "busy_call",
            ("ours",),
            BOTH,
            {"megabytes": 1000},
            {"megabytes": 100},
            rounds=5,
            file=PROGRAMS,
        ),
        Group(
            "slow_reader",
            "slow_reader",
            BASIC,
            (FREE,),
            # seconds without growth after which growth counts as finished
            {"megabytes": 200, "quiet": 1.5},
            {"megabytes": 40, "quiet": 0.5},
            rounds=1,
        ),
        Group("busy", "busy", BASIC, BOTH, {"megabytes": 200}, {"megabytes": 50}, rounds=5),
        Group("codec", "codec", ("ours",), (PINNED,), {"seconds": 1.0}, {"seconds": 0.1}, rounds=3),
        Group("child", "child_memory", SUBJECTS, (FREE,), {}, rounds=1),
        Group(
            "master",
            "master_memory",
            BASIC,
            (FREE,),
            {"count": 200},
            {"count": 30},
            rounds=1,
            timeout=120,
        ),
    ]
}


def each_pin(
    group: str, key: str, unit: str, what: str, bound: Optional[Bound], free: Optional[Bound] = None
) -> list[Row]:
    """Return a pinned and an unpinned row; *bound* is for the first, *free* for the other."""
    pinned = Row(group, PINNED, key, unit, what, bound)
    return [pinned, Row(group, FREE, key, unit, what, free)]


ROWS = [
    *each_pin("call_local", "us", "us", "call, local child", at_most(0.35), at_most(0.35)),
    *each_pin("call_hops", "us", "us", "call through three hops", at_most(0.45)),
    *each_pin("call_ssh", "us", "us", "call over loopback ssh", at_most(0.6)),
    *each_pin("outstanding_1", "rate", "calls/s", "1,000 outstanding, 1 child", at_least(3)),
    *each_pin("outstanding_8", "rate", "calls/s", "1,000 outstanding, 8 children", at_least(3)),
    *each_pin("cpu", "single", "s", "CPU of 10,000 calls, one by one", at_most(0.4)),
    *each_pin("cpu", "pipelined", "s", "CPU of 10,000 calls, pipelined", at_most(0.4)),
    *each_pin("connect_local", "ms", "ms", "connect, local child", at_most(0.4), at_most(0.4)),
    Row("connect_local", FREE, "first", "ms", "... the first of a process"),
    *each_pin(
        "connect_ssh",
        "over",
        "ms",
        "connect over ssh, less `ssh host python3 -c pass`",
        ours(15),
        ours(15),
    ),
    Row("connect_ssh", FREE, "ms", "ms", "... in all"),
    Row("connect_ssh", FREE, "plain", "ms", "... `ssh host python3 -c pass`"),
    *each_pin(
        "connect_sudo",
        "ms",
        "ms",
        "connect sudo through an open ssh context",
        at_most(0.45),
        at_most(0.45),
    ),
    Row("connect_50", FREE, "s", "s", "connect 50 local, one by one", at_most(0.4)),
    Row("connect_50_16", FREE, "s", "s", "connect 50 local, 16 threads", at_most(0.4)),
    Row("connect_200_16", FREE, "s", "s", "connect 200 local, 16 threads", at_most(0.4)),
    *each_pin("script", "ms", "ms", "script: connect, one call, end", at_most(0.4), at_most(0.4)),
    Row("import", PINNED, "ms", "ms", "import mitogen.master", ours(20)),
    Row("link", FREE, "true", "RTT", "`ssh host true`"),
    Row("link", FREE, "connect", "RTT", "connect + first call, over that", ours(1.05)),
    Row("link", FREE, "connect_slope", "RTT", "... by the slope from 50 to 250 ms"),
    Row("link", FREE, "warm", "RTT", "a warm call"),
    Row("link", FREE, "tree", "RTT", "first call, imports 30 modules", ours(1.05)),
    Row("link", FREE, "tree_inside", "RTT", "... 10 of them inside functions", ours(2.1)),
    Row("link", FREE, "sudo", "RTT", "sudo through it + first call", ours(2.1)),
    Row("link", FREE, "connect_flights", "flights", "connect + first call, flights up"),
    Row("link", FREE, "true_flights", "flights", "`ssh host true`, flights up"),
    Row("link", FREE, "tree_flights", "flights", "first call, 30 modules, flights up"),
    Row("link", FREE, "tree_inside_flights", "flights", "... 10 inside functions, flights up"),
    Row("link", FREE, "sudo_flights", "flights", "sudo + first call, flights up"),
    Row("link", FREE, "connect_elapsed", "x RTT", "connect + first call, elapsed"),
    Row("link", FREE, "tree_elapsed", "x RTT", "first call, 30 modules, elapsed"),
    Row("bytes", FREE, "preamble", "B", "preamble", ours(12288)),
    Row("bytes", FREE, "command", "B", "remote command line, python3 named", ours(700)),
    Row("bytes", FREE, "command_search", "B", "remote command line, none named", ours(700)),
    Row("bytes", FREE, "tree", "B", "tree of 30 modules, 66 kB of source", at_most(0.85)),
    Row("bytes", FREE, "call_down", "B", "no-op call, there"),
    Row("bytes", FREE, "call_up", "B", "no-op call, back"),
    Row("bytes", FREE, "call", "B", "no-op call, there and back", at_most(0.8)),
    *each_pin("bulk", "down", "MB/s", "1 MB messages down, as values", at_least(2)),
    *each_pin("bulk", "up", "MB/s", "1 MB messages up, as values", at_least(2)),
    *each_pin("bulk", "raw_down", "MB/s", "1 MB messages down, raw", at_least(1)),
    *each_pin("bulk", "raw_up", "MB/s", "1 MB messages up, raw", at_least(1)),
    Row("files", FREE, "rate", "MB/s", "FileService, one hop", at_least(1.2)),
    Row("fileservice", FREE, "rate", "MB/s", "FileService, three hops, 1 GB"),
    Row("fileservice", FREE, "growth", "MiB", "... growth of any process", ours(32)),
    Row("put_get", FREE, "put", "MB/s", "put(), one hop, 1 GB with SHA-256"),
    Row("put_get", FREE, "get", "MB/s", "get(), the same"),
    Row("put_get", FREE, "deep_put", "MB/s", "put(), three hops"),
    Row("put_get", FREE, "deep_get", "MB/s", "get(), three hops"),
    Row("put_get", FREE, "growth", "MiB", "... growth of any process", ours(32)),
    Row("rsync_large", FREE, "ssh", "s", "rsync of 500 MB over loopback ssh"),
    Row("rsync_large", FREE, "ratio_0", "x ssh", "... through fakessh, this process", ours(1)),
    Row("rsync_large", FREE, "ratio_1", "x ssh", "... one hop", ours(1)),
    Row("rsync_large", FREE, "ratio_3", "x ssh", "... three hops", ours(1.2)),
    Row("rsync_small", FREE, "ssh", "s", "rsync of 5,000 small files over loopback ssh"),
    Row("rsync_small", FREE, "ratio_0", "x ssh", "... through fakessh, this process", ours(1)),
    Row("rsync_small", FREE, "ratio_1", "x ssh", "... one hop", ours(1)),
    Row("rsync_small", FREE, "ratio_3", "x ssh", "... three hops", ours(1)),
    Row("ssh_true", FREE, "ssh", "ms", "ssh x true, with a login"),
    Row("ssh_true", FREE, "ours", "ms", "... through an open context"),
    Row("ssh_true", FREE, "ratio", "x ssh", "... of ssh's", ours(0.5)),
    *each_pin("run_busy", "median", "ms", "call beside 1 GB of a program's output", None),
    *each_pin("run_busy", "p99", "ms", "... 99th percentile", ours(5)),
    *each_pin("run_busy", "rate", "MB/s", "... that output", None),
    Row("slow_reader", FREE, "down", "MiB", "growth: child's mailbox is not read", ours(8)),
    Row("slow_reader", FREE, "up", "MiB", "growth: master's mailbox is not read", ours(8)),
    Row("slow_reader", FREE, "stopped", "MiB", "growth: child is stopped (SIGSTOP)", ours(8)),
    *each_pin("busy", "ms", "ms", "call beside 200 MB on another context", None, ours(0.25)),
    *each_pin("busy", "worst", "ms", "... the worst", None, ours(20)),
    Row("codec", PINNED, "call", "x pickle", "codec: a call's tuple", ours(8)),
    Row("codec", PINNED, "facts", "x pickle", "codec: 100 KB dict of facts", ours(10)),
    Row("codec", PINNED, "floats", "x pickle", "codec: 1,000,000 floats", ours(1)),
    Row("codec", PINNED, "bytes", "x pickle", "codec: 1 MB of bytes", ours(1.2)),
    Row("child", FREE, "ready", "MiB", "child's memory at READY, over a bare Python", ours(5)),
    Row("child", FREE, "logging", "MiB", "... with logging and threading", ours(7)),
    Row("child", FREE, "bare", "MiB", "... that bare Python"),
    Row("master", FREE, "memory", "MiB", "master with 200 children: memory", at_most(1)),
    Row("master", FREE, "descriptors", "", "... descriptors per child", at_most(1)),
    Row("master", FREE, "threads", "", "... threads", at_most(1)),
]


def select(names: list[str]) -> list[Row]:
    """Return the rows whose name starts with one of *names*; all if *names* is empty.

    :raises KeyError: no row starts with one of them.
    """
    for name in names:
        if not any(row.name.startswith(name) for row in ROWS):
            raise KeyError(name)
    return [row for row in ROWS if not names or row.name.startswith(tuple(names))]
