"""Rules for files that other accounts can reach, checked in the source of the whole package.

1. Mode and owner are changed by descriptor, since another account may exchange a name at any time.
2. Files are opened for writing with O_EXCL or O_NOFOLLOW, or by descriptor.
"""

import ast

import pytest

from tests.checkout import ROOT

#: (file, function): the reason why it changes a file by name.
ALLOWED = {
    ("mitogen/sftp/requests.py", "_change"): "the client names the file, and links are followed",
    ("mitogen/sftp/requests.py", "_chmod_link"): "through /proc/self/fd, or never a link's target",
    ("mitogen/transfer/chunks.py", "chmod_unfollowed"): "through /proc/self/fd",
    ("mitogen/ansible/plugins/connection.py", "_fetch_by_command"): "the user named the file",
}
BY_NAME = {"chmod", "chown", "lchmod", "lchown", "utime"}
DEVICES = ("/dev/", "/proc/self/")


def functions(tree):
    """Yield (name of the innermost function, node) for each call and each set of flags."""
    stack = [("<module>", tree)]
    while stack:
        name, node = stack.pop()
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            name = node.name
        if isinstance(node, ast.Call):
            yield name, node
        elif isinstance(node, ast.BinOp):
            yield name, node
            continue
        stack += [(name, child) for child in ast.iter_child_nodes(node)]


def is_os(call, names):
    func = call.func
    return (
        isinstance(func, ast.Attribute)
        and func.attr in names
        and isinstance(func.value, ast.Name)
        and func.value.id in ("os", "shutil")
    )


def is_unfollowed(call):
    return any(
        each.arg == "follow_symlinks" and getattr(each.value, "value", True) is False
        for each in call.keywords
    )


def writes(call):
    """Return whether it is open() by name for writing."""
    if not (isinstance(call.func, ast.Name) and call.func.id == "open"):
        return False
    words = [*call.args[1:2], *(each.value for each in call.keywords if each.arg == "mode")]
    mode = getattr(words[0], "value", "r") if words else "r"
    first = call.args[0]
    if isinstance(first, ast.Constant) and not isinstance(first.value, str):
        return False
    if isinstance(first, ast.Constant) and first.value.startswith(DEVICES):
        return False
    by_descriptor = isinstance(first, ast.Name) and first.id.endswith("fd")
    return not by_descriptor and bool(set(mode) & set("wax+"))


def offences(text):
    """Return [(function, line, source)] of the calls that break a rule."""
    found = []
    for name, call in functions(ast.parse(text)):
        if isinstance(call, ast.BinOp):
            flags = {each.attr for each in ast.walk(call) if isinstance(each, ast.Attribute)}
            if "O_CREAT" in flags and not flags & {"O_EXCL", "O_NOFOLLOW"}:
                found.append((name, call.lineno, ast.unparse(call)))
            continue
        changes = is_os(call, BY_NAME) and not is_unfollowed(call)
        if call.args and isinstance(call.args[0], ast.Name) and call.args[0].id.endswith("fd"):
            changes = False
        if changes or writes(call):
            found.append((name, call.lineno, ast.unparse(call)))
    return found


def sources():
    for path in sorted((ROOT / "mitogen").rglob("*.py")):
        yield path.relative_to(ROOT).as_posix(), path.read_text(encoding="utf-8")


def test_modes_owners_and_content_are_changed_by_descriptor():
    found = [
        "%s:%d: %s: %s" % (path, line, name, source)
        for path, text in sources()
        for name, line, source in offences(text)
        if (path, name) not in ALLOWED
    ]
    assert not found, "\n".join(found)


def test_each_exception_is_needed():
    used = {(path, name) for path, text in sources() for name, _, _ in offences(text)}
    assert set(ALLOWED) - used == set()


@pytest.mark.parametrize(
    "source, bad",
    [
        ("os.chmod(path, 0o600)", True),
        ("os.chown(path, 0, 0)", True),
        ("os.fchmod(fd, 0o600)", False),
        ("os.chmod(path, 0o600, follow_symlinks=False)", False),
        ("open(path, 'wb')", True),
        ("open(path, mode='a')", True),
        ("os.open(path, os.O_CREAT | os.O_WRONLY)", True),
        ("os.open(path, os.O_CREAT | os.O_WRONLY | os.O_NOFOLLOW)", False),
        ("open(path)", False),
        ("open(fd, 'wb')", False),
        ("open(os.path.join(a, b), 'w')", True),
    ],
)
def test_the_rule_finds(source, bad):
    assert bool(offences("def f():\n if os.path.isdir(path): %s\n" % source)) is bad
