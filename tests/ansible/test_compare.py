"""compare.py: permitted differences are ignored, all others are found."""

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


def test_equal_results_have_no_difference():
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
def test_a_changed_value_is_found(changes):
    """A different value or type, an added or missing key: each is found, with its position."""
    (name,) = changes
    found = compare.compare([command()], [command(**changes)])
    assert len(found) == 1 and ".{}".format(name) in found[0] and found[0].startswith("one:")


def test_a_missing_key_is_found():
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


def test_the_position_in_a_loop_is_shown():
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
def test_a_different_record_is_found(other):
    """A different status, task, item or host is found."""
    second = command()
    second.update(other)
    assert compare.compare([command()], [second])


def test_an_additional_record_is_found():
    assert compare.compare([command()], [command(), command()])
    assert compare.compare([command()], [])
    assert compare.compare([], [record(host="two")])


def test_order_matters_within_a_host():
    """Order matters within a host, not between hosts."""
    first, second = record(task="first"), record(task="second")
    other = record(host="two")
    assert compare.compare([first, other, second], [other, first, second]) == []
    assert compare.compare([first, second], [second, first])


def test_polls_are_ignored():
    assert compare.compare([record(event="poll"), command()], [command()]) == []


def test_retries_matter():
    """Retries matter, except while waiting for the end of a job."""
    assert compare.compare([record(event="retry"), command()], [command()])
    retry = record(event="retry", action="async_status")
    assert compare.compare([retry, command()], [command()]) == []
    often = [record(action=action, attempts=n) for action in ("async_status", "x") for n in (2, 3)]
    assert compare.compare(often[:1], often[1:2]) == []
    assert compare.compare(often[2:3], often[3:])


def test_stats_matter():
    one, other = record(event="stats", ok=3), record(event="stats", ok=4)
    assert compare.compare([one], [other])


def test_types_matter():
    """A lost unsafe mark is a difference, even if the text is equal."""
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
def test_varying_texts_are_equal(texts):
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
def test_other_texts_differ(texts):
    assert compare.compare(*[[command(msg=text)] for text in texts])


def test_names_of_a_run_are_replaced():
    records = [[command(msg="in /run/{}/x".format(name))] for name in ("aaaa", "aaab")]
    assert compare.compare(*records)
    replace = [[("/run/{}".format(name), "RUN")] for name in ("aaaa", "aaab")]
    assert compare.compare(*records, replace) == []


@pytest.mark.parametrize("key", ["exception", "module_stderr", "msg"])
def test_frames_of_tracebacks_are_ignored(key):
    """Frames may differ, exceptions may not."""
    text = 'Traceback (most recent call last):\n  File "{}", line 5, in f\n    f()\n{}\n'
    one = command(**{key: text.format("/a", "ValueError: x")})
    assert compare.compare([one], [command(**{key: text.format("/b", "ValueError: x")})]) == []
    assert compare.compare([one], [command(**{key: text.format("/a", "ValueError: y")})])
    assert compare.compare([one], [command(**{key: "ValueError: x"})])


def test_reasons_for_unreachable_hosts_may_differ():
    one, other = record(unreachable=True, msg="no"), record(unreachable=True, msg="nay")
    assert compare.compare([one], [other]) == []
    assert compare.compare([one], [record(unreachable=True, msg=None)])
    assert compare.compare([one], [record(unreachable=True)])
    assert compare.compare([record(msg="no")], [record(msg="nay")])


def test_rules_apply_only_to_their_modules():
    """A user's uid may differ in the task that creates the user, not elsewhere."""
    pairs = [
        [record(action=action, uid=uid) for uid in (1001, 1002)] for action in ("user", "stat")
    ]
    assert compare.compare([pairs[0][0]], [pairs[0][1]]) == []
    assert compare.compare([pairs[1][0]], [pairs[1][1]])
    full = [record(action="ansible.builtin.user", uid=uid) for uid in (1001, 1002)]
    assert compare.compare(full[:1], full[1:]) == []


def test_tasks_can_be_left_out():
    first, second = [command(), record(task="better", rc=1)], [command(), record(task="better")]
    assert compare.compare(first, second)
    assert compare.compare(first, second, but=["better"]) == []
    assert compare.compare(first, [command(rc=1), second[1]], but=["better"])


def test_differences_of_long_texts_show_the_position():
    texts = ["x" * 100000, "x" * 99999 + "y"]
    (found,) = compare.compare(*[[command(stdout=text)] for text in texts])
    assert "at character 99999" in found and len(found) < 1000


def test_nan_equals_nan():
    nan = float("nan")
    assert compare.compare([record(value=nan)], [record(value=nan)]) == []
    assert compare.compare([record(value=nan)], [record(value=1.0)])


def test_every_rule_has_a_reason():
    assert all(key.why for key in compare.KEYS)
    assert all(len(rule) == 3 and rule[2] for rule in compare.STRINGS + compare.PRINTED)


class TestOutput:
    def test_order_of_output_is_ignored(self):
        assert compare.compare_output("ok: [one]\nok: [two]\n", "ok: [two]\nok: [one]\n") == []

    def test_additional_and_missing_messages_are_found(self):
        assert compare.compare_output("a\n", "") == ["printed: 'a' / nothing"]
        assert compare.compare_output("a\n", "a\na\n") == ["printed: nothing / 'a'"]

    def test_an_additional_warning_is_found(self):
        warning = "[WARNING]: something\nthat goes on\n\nok: [one]\n"
        found = compare.compare_output("ok: [one]\n", warning)
        assert found == ["printed: nothing / '[WARNING]: something that goes on'"]
        assert compare.compare_output("ok: [one]\n", warning, more="something") == []

    def test_additional_messages_are_permitted_only_in_the_second_run(self):
        assert compare.compare_output("[WARNING]: x\n", "", more="x")

    def test_repeated_headings_are_ignored(self):
        once, twice = "TASK [x] ***\nok: [one]\n", "TASK [x] *****\nok: [one]\nTASK [x] ****\n"
        assert compare.compare_output(once, twice) == []
        assert compare.compare_output(once, "ok: [one]\n")

    def test_frames_of_tracebacks_in_output_are_ignored(self):
        text = 'Traceback (most recent call last):\n  File "{}", line 5, in f\n    f()\n{}: x\n'
        one, other = [text.format(path, "ValueError") for path in "ab"]
        assert compare.compare_output(one, other) == []
        assert compare.compare_output(one, text.format("a", "TypeError"))

    def test_wording_of_unreachable_hosts_is_ignored(self):
        """ansible-core words it by whether data was sent before; ssh's own text must be equal."""
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

    def test_grouping_of_included_hosts_is_ignored(self):
        """Hosts may come in any order and grouping; hosts and items must be equal."""
        text = "included: /a.yml for {} => (item=a, b)"
        first = text.format("one, two")
        assert compare.compare_output(first, text.format("two, one")) == []
        assert compare.compare_output(first, text.format("two, three"))
        assert compare.compare_output(first, text.format("two, one").replace("a, b", "b, a"))
        parts = "included: /a for b\nincluded: /a for a"
        assert compare.compare_output("included: /a for a, b", parts) == []

    def test_frames_within_a_printed_result_are_ignored(self):
        text = r'fatal: {{"stderr": "T:\r\n  File \"{}\", line 5\r\n    f()\r\n{}: x", "rc": {}}}'
        one, other = [text.format(path, "ValueError", 1) for path in "ab"]
        assert compare.compare_output(one, other) == []
        assert compare.compare_output(one, text.format("a", "TypeError", 1))
        assert compare.compare_output(one, text.format("a", "ValueError", 2))


class TestPlaybooks:
    def test_every_playbook_states_its_purpose(self):
        """Each playbook states its purpose; there are as many playbooks as required."""
        found = bed.playbooks()
        assert len(found) >= 60
        for each in found:
            assert each.path.read_text(encoding="utf-8").startswith("# "), each.path
            assert each.releases

    def test_a_head_is_parsed(self, tmp_path):
        path = tmp_path / "some.yml"
        path.write_text(
            "# About: this\n#: arguments: --limit 'a b' -v\n#: ends: 4\n#: environment: A=b\n"
            "#: better: a task - why\n#: releases: 2.21\n- hosts: all\n#: ends: 5\n"
        )
        found = bed.read_playbook(path)
        assert found.arguments == ["--limit", "a b", "-v"] and found.ends == 4
        assert found.better == ["a task"] and found.releases == ["2.21"]
        assert found.environment == {"A": "b"}

    def test_an_unknown_key_in_a_head_is_an_error(self, tmp_path):
        path = tmp_path / "some.yml"
        path.write_text("#: argument: --limit x\n")
        with pytest.raises(ValueError, match="unknown key: argument"):
            bed.read_playbook(path)


NEEDLESS = (
    "Using world-readable permissions for temporary files Ansible needs to create when becoming"
)


def test_needless_warnings_are_left_out():
    """Needless warnings are left out, others are not."""
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
