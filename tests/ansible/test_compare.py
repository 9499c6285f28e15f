"""compare.py: what may differ doesn't count, and nothing else gets past it."""

import copy

import pytest

from tests.ansible import bed, compare


def record(host="one", event="ok", task="a task", action="command", item="None", **result):
    return {
        "event": event,
        "host": host,
        "task": task,
        "action": action,
        "item": item,
        "result": result,
        "types": {},
    }


def command(**changes):
    result = {
        "changed": True,
        "rc": 0,
        "stdout": "a\nb",
        "stdout_lines": ["a", "b"],
        "start": "2026-01-02 03:04:05.000001",
        "end": "2026-01-02 03:04:05.100001",
        "delta": "0:00:00.100000",
        "cmd": ["echo", "x"],
    }
    result.update(changes)
    return record(**result)


def test_equal():
    assert compare.compare([command()], [command()]) == []
    assert compare.compare([], []) == []


@pytest.mark.parametrize(
    "changes",
    [
        {"rc": 1},
        {"rc": "0"},
        {"rc": 0.0},
        {"rc": False},
        {"rc": None},
        {"stdout": "a\nb\n"},
        {"stdout": "a\r\nb"},
        {"stdout_lines": ["a", "c"]},
        {"stdout_lines": ["a"]},
        {"stdout_lines": []},
        {"stdout_lines": {"a": "b"}},
        {"cmd": "echo x"},
        {"more": None},
        {"warnings": []},
        {"changed": 1},
        {"start": None},
        {"delta": 0.1},
    ],
)
def test_a_difference(changes):
    """A value, a type, a key more or less: each is found, and said where."""
    (name,) = changes
    found = compare.compare([command()], [command(**changes)])
    assert len(found) == 1 and ".{}".format(name) in found[0] and found[0].startswith("one:")


def test_a_key_that_is_missing():
    for name in command()["result"]:
        less = command()
        del less["result"][name]
        found = compare.compare([command()], [less])
        assert len(found) == 1 and "missing" in found[0]
        found = compare.compare([less], [command()])
        assert len(found) == 1 and "missing" in found[0]


def test_times_may_differ():
    later = {
        "start": "2027-11-12 13:14:15.999999",
        "end": "2027-11-12 13:14:16.000001",
        "delta": "0:00:00.000002",
    }
    assert compare.compare([command()], [command(**later)]) == []


def test_in_a_loop():
    loops = [record(results=[command(rc=n)["result"] for n in (0, rc)]) for rc in (1, 2)]
    assert compare.compare(*[[each] for each in loops]) == [
        "one: ok 'a task'.result.results[1].rc: 1 / 2"
    ]


@pytest.mark.parametrize(
    "other",
    [
        {"event": "failed"},
        {"event": "skipped"},
        {"task": "another task"},
        {"item": "'b'"},
        {"host": "two"},
    ],
)
def test_another_record(other):
    """Another status, task, item or host."""
    second = command()
    second.update(other)
    assert compare.compare([command()], [second])


def test_a_record_more():
    assert compare.compare([command()], [command(), command()])
    assert compare.compare([command()], [])
    assert compare.compare([], [record(host="two")])


def test_order():
    """Within a host it counts, between hosts it doesn't."""
    first, second = record(task="first"), record(task="second")
    other = record(host="two")
    assert compare.compare([first, other, second], [other, first, second]) == []
    assert compare.compare([first, second], [second, first])


def test_polls_do_not_count():
    assert compare.compare([record(event="poll"), command()], [command()]) == []


def test_retries():
    """They count, but for who waits for a job's end."""
    assert compare.compare([record(event="retry"), command()], [command()])
    retry = record(event="retry", action="async_status")
    assert compare.compare([retry, command()], [command()]) == []
    often = [record(action=action, attempts=n) for action in ("async_status", "x") for n in (2, 3)]
    assert compare.compare(often[:1], often[1:2]) == []
    assert compare.compare(often[2:3], often[3:])


def test_stats():
    one, other = record(event="stats", ok=3), record(event="stats", ok=4)
    assert compare.compare([one], [other])


def test_types():
    """A lost mark of distrust is a difference, though the text is equal."""
    marked = command()
    marked["types"] = {"stdout": "AnsibleUnsafeText"}
    assert compare.compare([marked], [command()])
    assert compare.compare([marked], [copy.deepcopy(marked)]) == []


@pytest.mark.parametrize(
    "texts",
    [
        (
            "/home/x/.ansible/tmp/ansible-tmp-1.5-22-333/y",
            "/home/x/.ansible/tmp/ansible-tmp-2-3-4/y",
        ),
        ("/tmp/ansible_ping_payload_abcd_123/x", "/tmp/ansible_ping_payload_z8901234/x"),
        ("backup: t.12.2026-01-02@03:04:05~", "backup: t.9.2026-02-03@04:05:06~"),
        ("connect to 127.0.0.1 port 40001: no", "connect to 127.0.0.1 port 5000: no"),
        ("/tmp/tmpab_d1234 is", "/tmp/tmp00000000 is"),
        ("<x object at 0x7f0123456789>", "<x object at 0x7fffffffffff>"),
        ("jid=j123456789012.345", "jid=j98765432109.1"),
    ],
)
def test_texts(texts):
    assert compare.compare(*[[command(msg=text)] for text in texts]) == []


@pytest.mark.parametrize(
    "texts",
    [
        ("/home/x/.ansible/tmp", "/home/y/.ansible/tmp"),
        ("ansible_pkg_mgr", "ansible_machine"),
        ("tmp", "tmpfiles.d"),
        ("port 22", "port 80"),
        ("took 5 s", "took 6 s"),
        ("1234567890", "1234567891"),
        ("3.11.2", "3.12.1"),
    ],
)
def test_texts_that_count(texts):
    assert compare.compare(*[[command(msg=text)] for text in texts])


def test_own_names():
    records = [[command(msg="in /run/{}/x".format(name))] for name in ("aaaa", "aaab")]
    assert compare.compare(*records)
    replace = [[("/run/{}".format(name), "RUN")] for name in ("aaaa", "aaab")]
    assert compare.compare(*records, replace) == []


@pytest.mark.parametrize("key", ["exception", "module_stderr", "msg"])
def test_exceptions(key):
    """Frames may differ, what was raised may not."""
    text = 'Traceback (most recent call last):\n  File "{}", line 5, in f\n    f()\n{}\n'
    one = command(**{key: text.format("/a", "ValueError: x")})
    assert compare.compare([one], [command(**{key: text.format("/b", "ValueError: x")})]) == []
    assert compare.compare([one], [command(**{key: text.format("/a", "ValueError: y")})])
    assert compare.compare([one], [command(**{key: "ValueError: x"})])


def test_why_unreachable_may_differ():
    one, other = record(unreachable=True, msg="no"), record(unreachable=True, msg="nay")
    assert compare.compare([one], [other]) == []
    assert compare.compare([one], [record(unreachable=True, msg=None)])
    assert compare.compare([one], [record(unreachable=True)])
    assert compare.compare([record(msg="no")], [record(msg="nay")])


def test_only_for_certain_modules():
    """A user's uid may differ where it is made, not elsewhere."""
    pairs = [
        [record(action=action, uid=uid) for uid in (1001, 1002)] for action in ("user", "stat")
    ]
    assert compare.compare([pairs[0][0]], [pairs[0][1]]) == []
    assert compare.compare([pairs[1][0]], [pairs[1][1]])
    full = [record(action="ansible.builtin.user", uid=uid) for uid in (1001, 1002)]
    assert compare.compare(full[:1], full[1:]) == []


def test_left_out():
    first, second = [command(), record(task="better", rc=1)], [command(), record(task="better")]
    assert compare.compare(first, second)
    assert compare.compare(first, second, but=["better"]) == []
    assert compare.compare(first, [command(rc=1), second[1]], but=["better"])


def test_long_texts_show_where():
    texts = ["x" * 100000, "x" * 99999 + "y"]
    (found,) = compare.compare(*[[command(stdout=text)] for text in texts])
    assert "at character 99999" in found and len(found) < 1000


def test_not_a_number():
    nan = float("nan")
    assert compare.compare([record(value=nan)], [record(value=nan)]) == []
    assert compare.compare([record(value=nan)], [record(value=1.0)])


def test_every_rule_says_why():
    assert all(key.why for key in compare.KEYS)
    assert all(len(rule) == 3 and rule[2] for rule in compare.STRINGS + compare.PRINTED)


class TestOutput:
    def test_order_does_not_count(self):
        assert compare.compare_output("ok: [one]\nok: [two]\n", "ok: [two]\nok: [one]\n") == []

    def test_more_or_less(self):
        assert compare.compare_output("a\n", "") == ["printed: 'a' / nothing"]
        assert compare.compare_output("a\n", "a\na\n") == ["printed: nothing / 'a'"]

    def test_a_warning_more(self):
        warning = "[WARNING]: something\nthat goes on\n\nok: [one]\n"
        found = compare.compare_output("ok: [one]\n", warning)
        assert found == ["printed: nothing / '[WARNING]: something that goes on'"]
        assert compare.compare_output("ok: [one]\n", warning, more="something") == []

    def test_what_may_be_printed_more_may_not_be_less(self):
        assert compare.compare_output("[WARNING]: x\n", "", more="x")

    def test_headings(self):
        once, twice = "TASK [x] ***\nok: [one]\n", "TASK [x] *****\nok: [one]\nTASK [x] ****\n"
        assert compare.compare_output(once, twice) == []
        assert compare.compare_output(once, "ok: [one]\n")

    def test_frames(self):
        text = 'Traceback (most recent call last):\n  File "{}", line 5, in f\n    f()\n{}: x\n'
        one, other = [text.format(path, "ValueError") for path in "ab"]
        assert compare.compare_output(one, other) == []
        assert compare.compare_output(one, text.format("a", "TypeError"))

    def test_not_reached(self):
        """In core's words for before and after something was sent; ssh's own words count."""
        first = (
            'fatal: {{"msg": "Data could not be sent to remote host \\"a\\". Make sure this host '
        )
        first += 'can be reached over ssh: {}"}}'
        second = 'fatal: {{"msg": "Failed to connect to the host via ssh: {}"}}'
        assert compare.compare_output(first.format("x"), second.format("x")) == []
        assert compare.compare_output(first.format("x"), second.format("y"))
        words = "ssh: connect to host 127.0.0.1 port 1: Connection {}"
        begun = first.format(words.format("refused\\r\\n"))
        assert compare.compare_output(begun, second.format(words.format("refused"))) == []
        assert compare.compare_output(begun, second.format(words.format("reset")))

    def test_hosts_of_an_included_file(self):
        """In any order, at once or not; which they are, and for what item, counts."""
        text = "included: /a.yml for {} => (item=a, b)"
        first = text.format("one, two")
        assert compare.compare_output(first, text.format("two, one")) == []
        assert compare.compare_output(first, text.format("two, three"))
        assert compare.compare_output(first, text.format("two, one").replace("a, b", "b, a"))
        parts = "included: /a for b\nincluded: /a for a"
        assert compare.compare_output("included: /a for a, b", parts) == []

    def test_frames_within_a_result(self):
        text = r'fatal: {{"stderr": "T:\r\n  File \"{}\", line 5\r\n    f()\r\n{}: x", "rc": {}}}'
        one, other = [text.format(path, "ValueError", 1) for path in "ab"]
        assert compare.compare_output(one, other) == []
        assert compare.compare_output(one, text.format("a", "TypeError", 1))
        assert compare.compare_output(one, text.format("a", "ValueError", 2))


class TestPlaybooks:
    def test_heads(self):
        """Each says what it is about; there are as many as were asked for."""
        found = bed.playbooks()
        assert len(found) >= 60
        for each in found:
            assert each.path.read_text(encoding="utf-8").startswith("# "), each.path
            assert each.releases

    def test_head(self, tmp_path):
        path = tmp_path / "some.yml"
        path.write_text(
            "# About: this\n#: arguments: --limit 'a b' -v\n#: ends: 4\n#: environment: A=b\n"
            "#: better: a task - why\n#: releases: 2.21\n- hosts: all\n#: ends: 5\n"
        )
        found = bed.read_playbook(path)
        assert found.arguments == ["--limit", "a b", "-v"] and found.ends == 4
        assert found.better == ["a task"] and found.releases == ["2.21"]
        assert found.environment == {"A": "b"}

    def test_wrong_head(self, tmp_path):
        path = tmp_path / "some.yml"
        path.write_text("#: argument: --limit x\n")
        with pytest.raises(ValueError, match="no such key: argument"):
            bed.read_playbook(path)


NEEDLESS = (
    "Using world-readable permissions for temporary files Ansible needs to create when becoming"
)


def test_needless_warnings():
    """They are left out, the other ones are not."""
    record = {"host": "a", "event": "ok", "task": "t", "result": {"x": 1}, "types": {}}
    warned = {**record, "result": {"x": 1, "warnings": [NEEDLESS + " an unprivileged user."]}}
    both = {**record, "result": {"x": 1, "warnings": [NEEDLESS, "other"]}}
    assert compare.without_needless([record, warned]) == [record, record]
    assert compare.without_needless([both])[0]["result"]["warnings"] == ["other"]
    assert compare.without_needless([{"host": "a", "event": "notify"}])
    printed = "[WARNING]: {} an\nunprivileged user.\n".format(NEEDLESS)
    assert compare.compare_output(printed, "") and not compare.compare_output(
        printed, "", needless=True
    )
    assert compare.compare_output("[WARNING]: other\n", "", needless=True)
