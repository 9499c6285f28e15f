"""The Ansible benchmark rows and their bounds, as data.

A *case* is a playbook, run once per subject and round. A *row* is one number of a case: `wall` and
`cpu` (in seconds; for the controller and all processes it starts, including the ssh clients),
`sent` (bytes from the controller's side of the link), `logins`, `trips` (round trips per task over
a slow link). Bounds are ratios to plain Ansible and to the peer, or absolute numbers for ours.
"""

from typing import NamedTuple, Optional

__all__ = ["CASES", "ROWS", "SUBJECTS", "Case", "Row"]

SUBJECTS = ("plain", "peer", "ours")

HEAD = "- hosts: {hosts}\n  gather_facts: {facts}\n"


class Case(NamedTuple):
    """One playbook.

    :param text: the playbook.
    :param hosts: number of hosts in its inventory.
    :param forks: for ansible-playbook.
    :param link: connection to the hosts: "" direct, "count" through a proxy that counts, "slow"
        through one that also adds a round trip of 20 ms.
    :param rounds: maximum number of rounds.
    """

    text: str
    hosts: int = 1
    forks: int = 10
    link: str = ""
    rounds: int = 99


class Row(NamedTuple):
    """One number of a case, with its bounds.

    :param per: divisor, applied after the value of the case in `less` was subtracted.
    """

    case: str
    key: str
    what: str
    plain: Optional[float] = None
    peer: Optional[float] = None
    ours: Optional[float] = None
    less: str = ""
    per: float = 1


def play(tasks: str, hosts: str = "all", facts: bool = False, more: str = "") -> str:
    """Return a playbook of one play."""
    head = HEAD.format(hosts=hosts, facts="true" if facts else "false")
    return head + more + "  tasks:\n" + tasks


def commands(count: int) -> str:
    """Return a playbook of that many commands."""
    return play("".join("  - command: echo {}\n".format(n) for n in range(count)))


COPIES = "".join(
    "  - copy: {{src: '{{{{ big }}}}/{n}', dest: '{{{{ there }}}}/copy{n}'}}\n".format(n=n)
    for n in range(20)
)
REMOVE = "  - file: {path: '{{ there }}', state: absent}\n"
MAKE = "  - file: {path: '{{ there }}', state: directory}\n"
MIXED = (
    MAKE
    + """\
  - command: echo one
  - shell: echo two | tr a-z A-Z
  - stat: {path: /etc/passwd}
  - copy: {content: "three\\n", dest: '{{ there }}/three'}
  - template: {src: '{{ playbook_dir }}/template.j2', dest: '{{ there }}/four'}
  - lineinfile: {path: '{{ there }}/four', line: five}
  - file: {path: '{{ there }}/six', state: touch}
  - slurp: {src: /etc/hostname}
  - set_fact: {seven: 7}
  - blockinfile: {path: '{{ there }}/four', block: eight}
  - debug: {var: seven}
  - find: {paths: '{{ there }}'}
  - replace: {path: '{{ there }}/four', regexp: five, replace: nine}
  - assert: {that: seven == 7}
  - raw: echo ten
  - ping:
  - command: echo eleven
  - copy: {src: '{{ playbook_dir }}/template.j2', dest: '{{ there }}/twelve'}
"""
    + REMOVE
)
BECOME = """\
  - command: id -un
    become: true
    become_user: '{{ other }}'
  - copy: {content: x, dest: '{{ there }}', mode: '0644'}
    become: true
  - file: {path: '{{ there }}', state: absent}
    become: true
  - command: id -un
  - shell: id -un
    become: true
    become_user: '{{ other }}'
  - stat: {path: /etc/shadow}
    become: true
  - setup: {gather_subset: '!all'}
    become: true
"""
DELEGATED = "  - command: sleep 1\n    delegate_to: '{{ groups.all[0] }}'\n"
TWENTY = "".join("  - command: echo {}\n".format(n) for n in range(20))

CASES = {
    "ping": Case(play("  - ping:\n")),
    "commands": Case(commands(100)),
    "loop": Case(play("  - command: echo {{ item }}\n    loop: '{{ range(100) | list }}'\n")),
    "copies": Case(play(MAKE + COPIES + REMOVE)),
    "mixed": Case(play(MIXED), hosts=10),
    "become": Case(play(BECOME)),
    "delegated": Case(play(DELEGATED), hosts=10),
    "link_1": Case(commands(1), link="slow"),
    "link_21": Case(commands(21), link="slow"),
    "bytes": Case(commands(100), link="count", rounds=1),
    "logins": Case(play("  - ping:\n", facts=True), link="count", rounds=1),
    "hosts_50": Case(play(TWENTY), hosts=50, forks=50, rounds=3),
}

ROWS = [
    Row("ping", "wall", "one ping, one host: wall s", 1.0, 0.5),
    Row("commands", "wall", "100 commands, one host: wall s", 0.22, 0.8),
    Row("commands", "cpu", "100 commands, one host: controller CPU s", 0.6, 0.75),
    Row("loop", "wall", "loop of 100 items: wall s", 0.15, 0.7),
    Row("loop", "cpu", "loop of 100 items: controller CPU s", 0.45, 0.65),
    Row("copies", "wall", "20 x 1 MiB copy: wall s", 0.28, 0.75),
    Row("copies", "cpu", "20 x 1 MiB copy: controller CPU s", 0.5, 0.6),
    Row("mixed", "wall", "20 mixed tasks x 10 hosts: wall s", 0.3, 0.65),
    Row("mixed", "cpu", "20 mixed tasks x 10 hosts: controller CPU s", 0.6, 0.6),
    Row("become", "wall", "become, small: wall s", 0.45, 0.65),
    Row("delegated", "wall", "10 hosts delegating `sleep 1` to one: wall s", 0.7, 0.2),
    Row(
        "link_21",
        "trips",
        "round trips per task over a 20 ms link",
        ours=1.1,
        less="link_1",
        per=20,
    ),
    Row("bytes", "sent", "100 commands: bytes to the host", ours=350000),
    Row("logins", "logins", "ssh connections per host, discovery included", ours=1),
    Row("hosts_50", "wall", "50 hosts x 20 tasks, forks=50: wall s", 1.0, 1.0),
    Row("hosts_50", "cpu", "50 hosts x 20 tasks, forks=50: controller CPU s", 1.0, 1.0),
]
