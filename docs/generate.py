"""
Generates the reference pages whose tables come from the code: `python3 docs/generate.py`.

The pages are docs/design/wire.rst (handles, values), docs/design/house.txt and house.svg (the map of the
package), docs/reference/compatibility.rst (names of
mitogen 0.3, from tests/unit/api_names.py) and docs/ansible/settings.rst (options of the Ansible
plugins). tests/unit/test_docs.py fails while a page is out of date.
"""

from __future__ import annotations

import ast
import glob
import os
import re
import sys
from typing import Any

import yaml

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.dirname(HERE))

from bench import side_by_side  # noqa: E402
from docs import house  # noqa: E402
from mitogen import core  # noqa: E402 (the checkout's)
from mitogen.ansible.plugins import own_options as connections  # noqa: E402
from mitogen.compat import core_names  # noqa: E402
from mitogen.core import value_types  # noqa: E402 (the checkout's)
from mitogen.programs import grants  # noqa: E402
from tests.unit import api_check, api_names  # noqa: E402

WIRE = os.path.join(HERE, "design", "wire.rst")
COMPATIBILITY = os.path.join(HERE, "reference", "compatibility.rst")
SETTINGS = os.path.join(HERE, "ansible", "settings.rst")
HOUSE = os.path.join(HERE, "design", "house.txt")
PICTURE = os.path.join(HERE, "design", "house.svg")

#: Handle, direction, data, answer. Raw payloads are in the notation of the struct module.
HANDLES = (
    ("GET_MODULE", "child to parent", "raw: full name, UTF-8", "LOAD_MODULE"),
    ("CALL_FUNCTION", "ancestor to descendant", "[name, arguments, keyword arguments]", "result"),
    ("FORWARD_LOG", "any to master", "[logger, level, text, file, line, function]", ""),
    ("ADD_ROUTE", "child to parent", "raw: >L context id, name in UTF-8", ""),
    ("DEL_ROUTE", "neighbour to neighbour", "raw: >L context id", ""),
    ("ALLOCATE_ID", "child to parent", "empty", "raw: >LL first id, end"),
    ("ALLOCATE_ID", "parent to child", "raw: >LLL target, first id, end", ""),
    ("SHUTDOWN", "ancestor to descendant", "empty", ""),
    ("LOAD_MODULE", "parent to child", "[entries, zlib stream, own names]", ""),
    ("FORWARD_MODULE", "parent to child", "[target, full names]", ""),
    ("DETACHING", "child to parent", "empty; sent again, without an answer, on leaving", "None"),
    ("CALL_SERVICE", "any to any", "[service, method, keyword arguments]", "result"),
    ("STUB_CALL_SERVICE", "", "not used yet", ""),
    ("GET_RESOURCE", "any to master", "[package, name or None]", "bytes, or names"),
    ("LOAD_RESOURCE", "", "not used yet", ""),
    ("CREDIT", "receiver to sender", "raw: >LLL handle, message number, bytes", ""),
    ("PING", "parent to child", "empty", "empty"),
    (
        "AWAIT_END",
        "ancestor to descendant",
        "raw: >L id of one of its children",
        "None, once reaped",
    ),
    ("CANCEL", "ancestor to descendant", "raw: >L handle of the answer", ""),
    (
        "START_PROGRAM",
        "descendant to ancestor",
        "[target, program, mailboxes]",
        "as for programs.start(); dead if not granted",
    ),
)

TEXT = """\
The wire
========

.. This page is written by docs/generate.py.

Frames
------

The header is big-endian, {header} bytes, ``{fmt}``: magic ({magic:#06x}), flags, dst_id, src_id, auth_id, handle,
reply_to, length of the data. The flags are MORE ({more}), CONT ({cont}) and RAW ({raw}: the data is plain bytes,
not an encoded value). With MORE or CONT, a message number, ``>L``, follows; the destination, and only the
destination, reassembles messages by the key (src_id, number). A frame carries at most {frame:,} bytes of data.

In a dead message, ``reply_to`` is {dead} and the data is the reason in UTF-8.

Handles
-------

{handles}

Handles from {first:,} upward are mailboxes created by a context. Handles below {unwindowed:#x} are flows with a
window. Handles from that number upward (answers, and ``Receiver(window=None)``) have no window. Both ends can
therefore tell from the number alone.

Flow control
------------

A flow is the messages from one sender to one persistent mailbox. Its window is {window:,} bytes, or {log:,} for log
records. A message costs the size of its data plus {cost} bytes. When a message is consumed or dropped, the receiver
returns its credit, in halves of the window, with CREDIT and message number 0; a CREDIT of 0 bytes ends the flow. A
message of more than {long:,} bytes has its own window of {long_window:,} bytes. The receiving broker returns this credit,
with the message's number, as it reassembles the frames. A CREDIT of 0 bytes with a message's number ends that
message: it answers each frame that has no route, and a message that was refused. While {high:,} bytes are queued on a
stream, threads of the program that send on it block.

Values
------

Values are encoded as CBOR (RFC 8949), with definite lengths only, nested at most {depth} levels deep. Simple value 23,
"undefined", is ``Ellipsis``. These tags are sent, or accepted:

{tags}
"""


def table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """Return a reST table."""
    lines = [".. list-table::", "   :header-rows: 1", ""]
    for row in [head, *rows]:
        for position, cell in enumerate(row):
            lines.append(f"   {'* -' if position == 0 else '  -'} {cell}".rstrip())
    return "\n".join(lines)


def number(name: str) -> int:
    """Return the number of a handle."""
    for module in (core, grants):
        if hasattr(module, name):
            return int(getattr(module, name))
    return int(getattr(core_names, name))


def wire() -> str:
    """Return the text of docs/design/wire.rst."""
    handles = [(f"{number(name)}", name, *rest) for name, *rest in HANDLES]
    return TEXT.format(
        header=core._HEADER.size,
        fmt=">HBLLLLLL",
        magic=core.MAGIC,
        more=core.MORE,
        cont=core.CONT,
        raw=core.RAW,
        frame=core.FRAME_SIZE,
        dead=core.IS_DEAD,
        first=core.FIRST_HANDLE,
        unwindowed=core.FIRST_UNWINDOWED,
        window=core.WINDOW,
        log=core.LOG_WINDOW,
        cost=core.MESSAGE_COST,
        long=core.LONG_SIZE,
        long_window=core.LONG_WINDOW,
        high=core.HIGH_WATER,
        depth=core.MAX_DEPTH,
        handles=table(("no.", "handle", "direction", "data", "answer"), handles),
        tags=table(
            ("tag", "name", "content", "Python type"),
            [tuple(map(str, t)) for t in value_types.TAGS],
        ),
    )


COMPATIBILITY_TEXT = """\
Names of mitogen 0.3
====================

.. This page is written by docs/generate.py from tests/unit/api_names.py.

Programs written for the 0.3 releases on PyPI run unchanged. This page lists the {count} names in the documentation of
those releases. {refused} of them are not provided; the table gives the reason for each. "And more" means that this
version accepts more parameters than 0.3 did. Parameters before a ``/`` have a different name here, so pass them by
position.

Intentional differences: values are encoded as CBOR, so handles, headers and encodings have different numbers
on the wire (:doc:`/design/wire`); a flow has a window (``Receiver(window=None)`` has none); a target needs
Python 3.6.
"""
YEARS = {"17": "2017", "18": "2018", None: "later"}


def status(row: api_names.Row) -> str:
    """Return the text of the last column for one name."""
    if row.why_not:
        return f"**no**: {row.why_not}"
    found = api_check.find(row)
    text = "present"
    if found is not api_check.MISSING and not row.why_other_signature:
        text += ", and more" if api_check.has_more(row, found) else ""
    for name, why in api_names.WITHOUT.get(row.dotted, {}).items():
        text += f", without ``{name}``: {why}"
    if row.why_other_signature:
        text += f", with different parameters: {row.why_other_signature}"
    note = api_names.NOTES.get(row.dotted)
    return f"{text}; {note}" if note else text


def compatibility() -> str:
    """Return the text of docs/reference/compatibility.rst."""
    refused = sum(1 for row in api_names.ROWS if row.why_not)
    parts = [COMPATIBILITY_TEXT.format(count=len(api_names.ROWS), refused=refused)]
    for module in api_names.TEXT:
        about = api_names.ABOUT.get(module, "")
        heading = f"{module}\n{'-' * len(module)}\n" + (f"\n{about}\n" if about else "")
        rows = [
            (f"``{row.signature}``", YEARS[row.mark], status(row).replace("`", "``"))
            for row in api_names.ROWS
            if row.module == module
        ]
        rows = [(name, year, text.replace("````", "``")) for name, year, text in rows]
        parts.append(f"{heading}\n{table(('name', 'since', 'status'), rows)}\n")
    differ = [(each.name, each.reason) for each in side_by_side.PROGRAMS if each.reason]
    parts.append(DIFFERENT_TEXT.format(count=len(side_by_side.PROGRAMS), differ=len(differ)))
    parts.append(table(("program", "difference"), differ) + "\n")
    return "\n".join(parts)


DIFFERENT_TEXT = """\
Behaviour that differs
----------------------

``python -m bench.side_by_side`` runs {count} small programs (``bench/side_by_side.txt``) on version 0.3.54 and on this
library. {differ} of them print different lines, for these reasons:
"""


SETTINGS_TEXT = """\
Settings
========

.. This page is written by docs/generate.py from the plugins' options.

All settings are optional. If a setting is made in several places, the first of these applies: a variable of the host or
task, the environment, ``ansible.cfg``. A name like ``[mitogen] redirect`` means the key ``redirect`` in the section
``[mitogen]`` of ``ansible.cfg``.

The callback and the strategies
-------------------------------

{callback}

Connections
-----------

``mitogen.ansible.ssh`` and ``mitogen.ansible.local`` have the same options as Ansible's own plugins (``ansible-doc -t
connection ssh``), under the same names, so settings for those plugins apply here too. The following options are
additional or have a different default. All mitogen connection plugins have them, except that ``local`` ignores
``mitogen_via``:

{common}

The other connection plugins have the options of the corresponding plugins in Ansible collections. These collections
do not need to be installed.
"""
#: Markup of Ansible's documentation to reST's.
MARKUP = (
    (r"[PM]\(([^)#]+)(#\w+)?\)", r"``\1``"),
    (r"[COEV]\(([^)]*)\)", r"``\1``"),
    (r"[IB]\(([^)]*)\)", r"*\1*"),
)


def constants(path: str) -> dict[str, Any]:
    """Return a module's strings by name, without importing it: it may need Ansible."""
    with open(path, encoding="utf-8") as fp:
        body = ast.parse(fp.read()).body
    found = {}
    for node in body:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant):
            found[node.targets[0].id] = node.value.value  # type: ignore[attr-defined]
    return {name: value for name, value in found.items() if isinstance(value, str)}


def callback_options() -> dict[str, Any]:
    """Return the options of the callback plugin by name."""
    path = os.path.join(HERE, "..", "ansible_plugins", "callback", "mitogen.py")
    return dict(yaml.safe_load(constants(path)["DOCUMENTATION"])["options"])


def common_options() -> dict[str, Any]:
    """Return the options common to all connection plugins; their texts are in mitogen/ansible/."""
    found: dict[str, Any] = {}
    pattern = os.path.join(HERE, "..", "mitogen", "ansible", "**", "*.py")
    for path in sorted(glob.glob(pattern, recursive=True)):
        for value in constants(path).values():
            # The text of an option in a module begins with the option's name.
            if re.match(r"\n[a-z_]+:\n  description:", value):
                found.update(yaml.safe_load(value))
    return found


def kinds() -> dict[str, dict[str, Any]]:
    """Return, by kind, the options of connection plugins that have no counterpart in Ansible itself."""
    names = sorted(connections.KINDS)
    return {name: yaml.safe_load(connections.documentation(name))["options"] for name in names}


def _prose(text: Any) -> str:
    lines = [text] if isinstance(text, str) else text
    found = " ".join(" ".join(str(line).split()) for line in lines)
    for pattern, new in MARKUP:
        found = re.sub(pattern, new, found)
    return found


def _names(places: Any) -> str:
    return ", ".join(f"``{each['name']}``" for each in places or [])


def options_table(options: dict[str, Any]) -> str:
    """Return a table of options, given in the form of Ansible's DOCUMENTATION."""
    rows = []
    for name, option in options.items():
        default = option.get("default")
        if isinstance(default, list):
            default = ", ".join(map(str, default))
        elif isinstance(default, bool):
            default = str(default).lower()
        value = str(option.get("type", "str"))
        value += "" if default in (None, "") else f", ``{default}``"
        files = ", ".join(
            f"``[{each['section']}] {each['key']}``" for each in option.get("ini", [])
        )
        where = [_names(option.get("vars")), _names(option.get("env")), files]
        rows.append((f"``{name}``", _prose(option["description"]), value, *where))
    head = ("option", "description", "type, default", "variable", "environment", "ansible.cfg")
    return table(head, rows)


def settings() -> str:
    """Return the text of docs/ansible/settings.rst."""
    common = common_options()
    parts = [
        SETTINGS_TEXT.format(
            callback=options_table(callback_options()), common=options_table(common)
        )
    ]
    for kind, options in kinds().items():
        own = {name: option for name, option in options.items() if name not in common}
        heading = f"mitogen.ansible.{kind}"
        parts.append(f"{heading}\n{'.' * len(heading)}\n\n{options_table(own)}\n")
    return "\n".join(parts)


#: Path of a page to the function that returns its text.
def house_map() -> str:
    """Return the table of the package's folders, to be included by docs/design/index.rst."""
    head = ("folder", "contents", "imports")
    note = ".. This part is written by docs/generate.py from the docstrings and imports of mitogen/.\n\n"
    return note + table(head, house.rows())


PAGES = {
    WIRE: wire,
    COMPATIBILITY: compatibility,
    SETTINGS: settings,
    HOUSE: house_map,
    PICTURE: house.picture,
}


def main() -> None:
    """Write the pages."""
    for path, make in PAGES.items():
        with open(path, "w", encoding="utf-8") as fp:
            fp.write(make())


if __name__ == "__main__":
    main()
