"""Comparison of two runs of a playbook: task by task, key by key.

Rules: pure; no file, no process. Everything not listed in `KEYS` or `STRINGS` must be equal, in
value and in type. A rule states why two correct runs differ in a key, and never hides the key: it
must exist on both sides, with a value of the same type.
"""

import itertools
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Callable, NamedTuple

__all__ = [
    "KEYS",
    "NEEDLESS",
    "STRINGS",
    "Key",
    "compare",
    "compare_output",
    "paragraphs",
    "reduced",
    "without_needless",
]

Record = dict[str, Any]

#: Maximum number of characters of a value in a difference.
SHOWN = 200


class Key(NamedTuple):
    """A key that may differ.

    :param pattern: regular expression for the end of its path: `stat.atime` in
        `results[].stat.atime`.
    :param why: why two correct runs differ here.
    :param action: regular expression for the task's action; any if empty.
    :param keep: a function of the value; its result must still be equal.
    """

    pattern: str
    why: str
    action: str = ""
    keep: Callable[[Any], Any] = lambda value: "<" + type(value).__name__ + ">"

    def matches(self, path: str, action: str) -> bool:
        """Return whether this rule applies to the key at *path* of a task with *action*."""
        if self.action and not re.fullmatch(
            r"(ansible\.(builtin|legacy)\.)?" + self.action, action
        ):
            return False
        return bool(re.search(r"(?:\A|\.)(?:" + self.pattern + r")\Z", path))


def frameless(text: Any) -> Any:
    """Return *text* without the frames of tracebacks, but with the exceptions."""
    if not isinstance(text, str) or "Traceback (most recent call last)" not in text:
        return text
    return "\n".join(line.rstrip() for line in text.splitlines() if not line.startswith("  "))


CLOCK = "the time of the run"
FACTS = "(setup|gather_facts)"

KEYS = (
    Key(r"attempts", "how often a job was asked for its state", "async_status"),
    Key(r"start|end|delta", CLOCK),
    Key(r"elapsed", "elapsed whole seconds: a run on the border has one more"),
    Key(r"(stat|status|files\[\])\.(atime|mtime|ctime|inode|version)", "made again by each run"),
    Key(r"diff(\[\])?\.(before|after)\.(atime|mtime)", CLOCK),
    Key(r"ansible_job_id|results_file", "a random number and a pid"),
    Key(r"child_pid", "a pid", "(command|async_status)"),
    Key(
        r"exception", "the frames between core and the module differ, the error not", "", frameless
    ),
    Key(r"module_stdout|module_stderr|msg", "may contain a traceback, as above", "", frameless),
    Key(r"(uid|group|gid)", "the next free number", "(user|group)"),
    Key(r"ssh_key_fingerprint|ssh_public_key", "a key pair of its own", "user"),
    # Facts that vary over time or describe the connection.
    Key(r"ansible_date_time(\..*)?", CLOCK, FACTS),
    Key(r"ansible_(uptime_seconds|loadavg\..*|mem\w+_mb|swap\w+_mb|memory_mb\..*)", "load", FACTS),
    Key(r"ansible_mounts(\[\]\..*|.*)?", "blocks and inodes in use, other runs' mounts", FACTS),
    Key(r"ansible_devices(\..*)?|ansible_device_links(\..*)?", "sectors in use", FACTS),
    Key(
        r"ansible_interfaces|\w+_tech_(guest|host)",
        "no defined order",
        FACTS,
        lambda value: sorted(map(str, value)),
    ),
    Key(r"ansible_env\.(SSH_\w+|XDG_\w+|SHLVL|_|MAIL)", "ports of this login", FACTS),
)

#: (pattern, replacement, why), applied in this order to every string, also inside long texts.
STRINGS = (
    (r"ansible-tmp-[\d.]+-\d+-\d+", "ansible-tmp-N", "time, pid and a random number"),
    (
        r"ansible-local-\d+\w*(/\.?\w{8}\b)?",
        "ansible-local-N",
        "pid of the controller and random letters",
    ),
    (r"ansible_[\w.]*payload_\w+", "ansible_payload_N", "random letters"),
    (r"ansible-moduletmp-[\d.]+-\w+", "ansible-moduletmp-N", "time and random letters"),
    (r"(ansible\.|\.ansible_tmp|ansible_file_)[a-z0-9_]{8}\b", r"\1N", "random letters"),
    (r"\.ansible_tmp\w{8}", ".ansible_tmpN", "random letters"),
    (r"\A\.[a-z0-9_]{8}\Z", ".N", "the name of the file with copy's content"),
    (r"\btmp[a-z0-9_]{8}\b", "tmpN", "tempfile's random letters"),
    (r"ControlSocket \S+ already exists, disabling multiplexing\r?\n", "", "two logins at once"),
    (r"\bj?\d{6,}\.\d+(?=\b)", "JOB", "a job's random number and pid"),
    (r"\.\d+\.\d{4}-\d\d-\d\d@\d\d:\d\d:\d\d~", ".BACKUP~", "a backup's pid and time"),
    (r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d+)?", "TIME", CLOCK),
    (r"\b0:00:0\d\.\d{6}", "DELTA", CLOCK),
    (r"Paused for [\d.]+ seconds", "Paused for N seconds", CLOCK),
    (
        r'Failed to connect to the host via ssh: |Data could not be sent to remote host \\*"'
        r'[^"]*"\. Make sure this host can be reached over ssh: ',
        "",
        "depends on whether ssh had read the module yet",
    ),
    (
        r'(ssh: connect to host [^\r\n"\\]*)(?:\r\n|\\r\\n)',
        r"\1",
        "likewise: ssh's line has its end in one of them, up to ansible-core 2.18",
    ),
    (r" at 0x[0-9a-f]{6,}", " at 0xN", "an address"),
    (r"\b(port|localhost|127\.0\.0\.\d+)([: ]+)\d{4,5}\b", r"\1\2PORT", "a port that was free"),
)

#: The same for printed text.
PRINTED = (
    (r"(UNREACHABLE! => ).*", r"\1", "the reason for an unreachable host is worded differently"),
    (
        r"(\[ERROR\]: Task failed: )(Failed to (connect|authenticate)|Data could not be sent).*",
        r"\1",
        "likewise",
    ),
    (r'\\n  (?:\\[^n]|[^\\"])*?(?=(?:\\r)?\\n|")', "", "a traceback's frames within a result"),
    (r'("child_pid": )\d+', r"\1N", "a pid"),
    (r" \*{3,}\Z", "", "as many as fit beside a name"),
    (r"\A(ASYNC POLL|FAILED - RETRYING).*", "", "the number depends on timing"),
)

#: Warnings about actions that only plain Ansible needs, or that one of many runs at once
#: gets: (pattern, why). They are left out of both runs if one of them is ours.
NEEDLESS = (
    (
        r"Using world-readable permissions for temporary files Ansible needs to create when",
        "another account's modules arrive by standard input, not in a file it must read",
    ),
    (
        r"(sftp|scp|piped) transfer mechanism failed on \[",
        "files go through the context, however noisy the login is",
    ),
    (
        r"Module remote_tmp \S+ did not exist and was created with a mode of 0700",
        "concurrent runs share the accounts' homes, and any of their modules may come first",
    ),
)

#: Messages printed once or more: a heading, whenever hosts with separate progress take turns; a
#: message of several hosts with its origin, unless Ansible has just printed it.
ONCE = re.compile(r"(TASK|RUNNING HANDLER) \[|\[|Origin: |<<< caused by|\d+ |\s+\^ column")
COMPILED = [(re.compile(pattern), new) for pattern, new, _ in STRINGS]


def reduced_text(text: str, replace: Sequence[tuple[str, str]]) -> str:
    for old, new in replace:
        text = text.replace(old, new)
    for pattern, new in COMPILED:
        text = pattern.sub(new, text)
    return text


def reduced(
    value: Any, action: str, replace: Sequence[tuple[str, str]] = (), path: str = ""
) -> Any:
    """Return *value* with varying parts replaced by placeholders.

    :param value: a result, or a part of one.
    :param action: the task's action.
    :param replace: (text, replacement): the run's own directory, account and so on.
    :param path: position of *value* in the result: `results[].stat`.
    """
    for key in KEYS:
        if path and key.matches(path, action):
            value = key.keep(value)
            break
    if isinstance(value, str):
        return reduced_text(value, replace)
    if isinstance(value, list):
        return [reduced(item, action, replace, path + "[]") for item in value]
    if isinstance(value, dict):
        prefix = path + "." if path else ""
        if value.get("unreachable") is True and "msg" in value:
            # Each connection plugin words the reason for an unreachable host differently.
            value = {**value, "msg": "<{}>".format(type(value["msg"]).__name__)}
        return {
            reduced_text(name, replace): reduced(item, action, replace, prefix + name)
            for name, item in value.items()
        }
    return value


def shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= SHOWN else "{}... ({} characters)".format(text[:SHOWN], len(text))


def shown_pair(first: Any, second: Any) -> str:
    """Return both values; for two long strings the part where they begin to differ."""
    if isinstance(first, str) and isinstance(second, str) and max(len(first), len(second)) > SHOWN:
        pairs = itertools.zip_longest(first, second)
        at = next(number for number, (one, other) in enumerate(pairs) if one != other)
        start = max(0, at - 40)
        cut = [shown(text[start : start + SHOWN]) for text in (first, second)]
        return "at character {}: {} / {}".format(at, *cut)
    return "{} / {}".format(shown(first), shown(second))


def differences(first: Any, second: Any, path: str) -> Iterator[str]:
    """Yield a line for each leaf in which two reduced values differ."""
    if isinstance(first, dict) and isinstance(second, dict):
        for name in sorted(first.keys() | second.keys()):
            where = path + "." + name
            if name not in second:
                yield "{}: {} / missing".format(where, shown(first[name]))
            elif name not in first:
                yield "{}: missing / {}".format(where, shown(second[name]))
            else:
                yield from differences(first[name], second[name], where)
    elif isinstance(first, list) and isinstance(second, list) and len(first) == len(second):
        for number, (one, other) in enumerate(zip(first, second)):
            yield from differences(one, other, "{}[{}]".format(path, number))
    elif type(first) is not type(second) or first != second:
        # NaN is the only value that differs from itself.
        if not (first != first and second != second):
            yield "{}: {}".format(path, shown_pair(first, second))


def by_host(records: Iterable[Record]) -> dict[str, list[Record]]:
    """Return the records by host, in each host's order; there is no order between hosts.

    The number of polls of a job depends on timing, so they are left out.
    """
    found: dict[str, list[Record]] = {}
    for record in records:
        asked = record["event"] == "retry" and str(record.get("action")).endswith("async_status")
        if not asked and record["event"] != "poll":
            found.setdefault(record["host"], []).append(record)
    return found


def title(record: Record) -> str:
    item = "" if record.get("item", "None") == "None" else " item " + shown(record["item"])
    return "{} {!r}{}".format(record["event"], record.get("task", ""), item)


def compare(
    first: Sequence[Record],
    second: Sequence[Record],
    replace: Sequence[Sequence[tuple[str, str]]] = ((), ()),
    but: Sequence[str] = (),
) -> list[str]:
    """Return the differences between the results of two runs, as lines; [] if they are equal.

    :param first: a run's records, as written by the callback plugin.
    :param second: those of another run.
    :param replace: for each run, (text, replacement).
    :param but: names of tasks to leave out.
    """
    found: list[str] = []
    one, other = by_host(first), by_host(second)
    for host in sorted(one.keys() | other.keys()):
        ours, theirs = one.get(host, []), other.get(host, [])
        # A run that recovers from an error which the other run does not have has different counts.
        lists = [
            [each for each in records if not but or each["event"] != "stats"]
            for records in (ours, theirs)
        ]
        found += compare_host(host, lists, replace, but)
    return found


def is_needless(text: Any) -> bool:
    return any(re.search(pattern, str(text)) for pattern, _ in NEEDLESS)


def without_needless(records: Iterable[Record]) -> list[Record]:
    """Return the records without the warnings in `NEEDLESS`."""
    found = []
    for record in records:
        notices = record["result"].get("warnings") if record.get("result") else None
        # Ansible leaves an empty list in the last answer of a job.
        if isinstance(notices, list) and (not notices or any(map(is_needless, notices))):
            kept = [each for each in notices if not is_needless(each)]
            result = {name: each for name, each in record["result"].items() if name != "warnings"}
            record = {**record, "result": {**result, "warnings": kept} if kept else result}
        found.append(record)
    return found


def compare_host(
    host: str,
    lists: Sequence[list[Record]],
    replace: Sequence[Sequence[tuple[str, str]]],
    but: Sequence[str],
) -> list[str]:
    lists = [[each for each in records if each.get("task") not in but] for records in lists]
    titles = [
        [reduced_text(title(record), texts) for record in records]
        for records, texts in zip(lists, replace)
    ]
    if titles[0] != titles[1]:
        pairs = itertools.zip_longest(*titles)
        number, pair = next((n, pair) for n, pair in enumerate(pairs) if pair[0] != pair[1])
        return ["{}: result {}: {} / {}".format(host, number + 1, *pair)]
    found = []
    for record, twin, name in zip(lists[0], lists[1], titles[0]):
        action = str(record.get("action", ""))
        values = [
            reduced({"result": each.get("result"), "types": each.get("types")}, action, texts)
            for each, texts in zip((record, twin), replace)
        ]
        found += differences(values[0], values[1], "{}: {}".format(host, name))
    return found


def paragraphs(output: str) -> list[str]:
    """Return the messages of *output*, each with its wrapped lines joined.

    Frames of tracebacks are left out.
    """
    found: list[str] = []
    in_frame = False
    for line in map(str.rstrip, output.splitlines()):
        in_frame = bool(re.match(r' +File ".*", line \d+', line)) or (
            in_frame and line[:4] == "    "
        )
        if in_frame:
            continue
        if found and found[-1].startswith("[") and line and not re.match(r"\[|[a-zA-Z]+: \[", line):
            found[-1] += " " + line.strip()
        else:
            found.append(line)
    for pattern, new, _ in PRINTED:
        found = [re.sub(pattern, new, each) for each in found]
    return [part for each in found if each for part in by_included_host(each)]


def by_included_host(message: str) -> list[str]:
    """Split a message about an included file by host: Ansible groups hosts by timing."""
    match = re.match(r"(included: \S+ for )(.+?)( =>.*|\Z)", message)
    if match is None:
        return [message]
    return [match[1] + host + match[3] for host in match[2].split(", ")]


def compare_output(
    first: str,
    second: str,
    replace: Sequence[Sequence[tuple[str, str]]] = ((), ()),
    more: str = "",
    needless: bool = False,
) -> list[str]:
    """Return the differences between the outputs of two runs, in any order; [] if equal.

    :param first: a run's output.
    :param second: another run's output.
    :param replace: as in `compare`.
    :param more: regular expression for messages that only the second run may print.
    :param needless: leave out messages in `NEEDLESS`.
    """
    counts = []
    for output, texts in zip((first, second), replace):
        notices = [each for each in paragraphs(output) if not (needless and is_needless(each))]
        count = Counter(reduced_text(each, texts) for each in notices)
        counts.append(Counter({key: 1 if ONCE.match(key) else n for key, n in count.items()}))
    found = ["printed: {} / nothing".format(shown(each)) for each in counts[0] - counts[1]]
    for each in counts[1] - counts[0]:
        if not (more and re.search(more, each)):
            found.append("printed: nothing / {}".format(shown(each)))
    return sorted(found)
