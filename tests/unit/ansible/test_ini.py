"""mitogen/ansible/setup/ini.py: edits lists in an ansible.cfg, and keeps every other byte."""

import configparser

import pytest
from hypothesis import example, given, strategies as st

from mitogen.ansible.setup import ini

KEY, OURS = "callbacks_enabled", "mitogen.ansible.mitogen"
NEW = ini.MARK + "\n[defaults]\ncallbacks_enabled = mitogen.ansible.mitogen\n"

CASES = {
    "new": ("", NEW),
    "other sections": ("[a]\nb=1\n", "[a]\nb=1\n\n" + NEW),
    "no newline at the end": ("[a]\nb=1", "[a]\nb=1\n\n" + NEW[:-1]),
    "section": ("[defaults]\nforks = 5\n", "[defaults]\ncallbacks_enabled = OURS\nforks = 5\n"),
    "section is all": ("[defaults]", "[defaults]\ncallbacks_enabled = OURS"),
    "section is empty": ("[defaults]\n\n[b]\n", "[defaults]\ncallbacks_enabled = OURS\n\n[b]\n"),
    "comments": (
        "# a\n[defaults] ; b\n# c\n\nforks = 5 ; d\n",
        "# a\n[defaults] ; b\ncallbacks_enabled = OURS\n# c\n\nforks = 5 ; d\n",
    ),
    "indented": ("[defaults]\n  a = 1\n", "[defaults]\n  callbacks_enabled = OURS\n  a = 1\n"),
    "one": ("[defaults]\ncallbacks_enabled=timer\n", "[defaults]\ncallbacks_enabled=timer, OURS\n"),
    "any case, a colon": (
        "[defaults]\nCallbacks_Enabled: a,b ; why\n[b]\nc=1\n",
        "[defaults]\nCallbacks_Enabled: a,b, OURS ; why\n[b]\nc=1\n",
    ),
    "many lines": (
        "[defaults]\ncallbacks_enabled =\n  a,\n  # not b\n\n  c\nforks = 5\n",
        "[defaults]\ncallbacks_enabled =\n  a,\n  # not b\n\n  c, OURS\nforks = 5\n",
    ),
    "semicolon in a value": (
        "[defaults]\ncallbacks_enabled = a;b\n",
        "[defaults]\ncallbacks_enabled = a;b, OURS\n",
    ),
    "carriage returns": (
        "[defaults]\r\nforks = 5\r\n",
        "[defaults]\r\ncallbacks_enabled = OURS\r\nforks = 5\r\n",
    ),
    "carriage returns, a list": (
        "[defaults]\r\ncallbacks_enabled = a\r\n",
        "[defaults]\r\ncallbacks_enabled = a, OURS\r\n",
    ),
    "another's list": (
        "[a]\ncallbacks_enabled = x\n[defaults]\n",
        "[a]\ncallbacks_enabled = x\n[defaults]\ncallbacks_enabled = OURS\n",
    ),
    "commented out": (
        "[defaults]\n#callbacks_enabled = x\n;callbacks_enabled = y\n",
        "[defaults]\ncallbacks_enabled = OURS\n#callbacks_enabled = x\n;callbacks_enabled = y\n",
    ),
    "not ASCII": ("[defaults]\n# \u00e4\u2028\nforks=5\n", None),
}


@pytest.mark.parametrize("name", CASES)
def test_remove_restores_the_text(name):
    old, new = CASES[name]
    found = ini.add(old, KEY, OURS)
    assert new is None or found == new.replace("OURS", OURS)
    assert OURS in ini.entries(found, KEY)
    assert ini.add(found, KEY, OURS) == found, "added twice"
    assert ini.remove(found, KEY, OURS) == old
    assert ini.remove(old, KEY, OURS) == old, "removed twice"


@pytest.mark.parametrize(
    "value, left",
    [
        ("OURS, a", "a"),
        ("OURS,a", "a"),
        ("a,OURS,b", "a,b"),
        ("a, OURS , b ; OURS", "a , b ; OURS"),
        ("'OURS', a", "a"),
        ('a, "OURS"', "a"),
        ("OURS, OURS, a", "a"),
        ("a, xOURS, OURS", "a, xOURS"),
        ("OURSx, OURS, OURS.y", "OURSx, OURS.y"),
        ("a,\n  OURS", "a"),
        ("OURS,\n  a", "\n  a"),
        ("\n  OURS,\n  a", "\n  a"),
        ("\n  a,\n  OURS,\n  b", "\n  a,\n  b"),
    ],
)
def test_remove_keeps_other_entries(value, left):
    text = "[defaults]\nx = 1\ncallbacks_enabled = {}\ny = 2\n"
    found = ini.remove(text.format(value).replace("OURS", OURS), KEY, OURS)
    assert ini.entries(found, KEY) == ini.entries(text.format(left).replace("OURS", OURS), KEY)
    assert [line.rstrip() for line in found.splitlines()] == [
        line.rstrip() for line in text.format(left).replace("OURS", OURS).splitlines()
    ]


def test_removing_the_only_entry_removes_the_line():
    text = "[defaults]\na = 1\ncallbacks_enabled = %s ; fast\nb = 2\n" % OURS
    assert ini.remove(text, KEY, OURS) == "[defaults]\na = 1\nb = 2\n"
    text = "[defaults]\ncallbacks_enabled =\n  %s\n" % OURS
    assert ini.remove(text, KEY, OURS) == "[defaults]\n"


def test_lists_of_paths():
    first = "~/.ansible/plugins/callback:/usr/share/ansible/plugins/callback"
    for old in ("", "[defaults]\n", "[defaults]\ncallback_plugins = /a b:/c\n"):
        new = ini.add(old, "callback_plugins", "/x", ":", first)
        assert ini.entries(new, "callback_plugins", ":")[-1] == "/x"
        assert len(ini.entries(new, "callback_plugins", ":")) == 3
        assert ini.remove(new, "callback_plugins", "/x", ":", first) == old


@pytest.mark.parametrize(
    "text, why",
    [
        ("no ini\n", "Ansible can't read it: File contains no section headers"),
        ("[defaults]\na=1\na=2\n", "already exists"),
        ("\ufeff[defaults]\n", "no section headers"),
    ],
)
def test_invalid_texts_are_refused(text, why):
    with pytest.raises(ini.Refused, match=why):
        ini.add(text, KEY, OURS)


def test_an_unrepresentable_entry_is_refused():
    with pytest.raises(ini.Refused, match="by hand"):
        ini.add("", "callback_plugins", "/a ;b", ":")


def test_the_section_default_is_inherited():
    new = ini.add("[DEFAULT]\ncallbacks_enabled = a\n[defaults]\n", KEY, OURS)
    assert new == "[DEFAULT]\ncallbacks_enabled = a\n[defaults]\ncallbacks_enabled = a, %s\n" % OURS
    assert ini.entries(ini.remove(new, KEY, OURS), KEY) == ["a"]


LINES = st.sampled_from(
    ["[defaults]", "[a]", "forks = 5", "  forks = 6", "callbacks_enabled = a", "callbacks_enabled:"]
    + ["  b, c", "# x", "  ; y", "", "   ", "d=1 ; e", "callbacks_enabled = a,\tb ;c", "\t[x]", ","]
)


@given(st.lists(LINES, max_size=8), st.sampled_from(["\n", "\r\n"]), st.booleans())
@example(["[defaults]", "callbacks_enabled:", "", "# x", "  b, c"], "\n", True)
def test_add_and_remove_with_any_text(lines, newline, ends):
    """A text is refused, or only the list changes; remove() then restores a well-formed list."""
    text = newline.join(lines) + newline * ends
    try:
        new = ini.add(text, KEY, OURS)
    except ini.Refused:
        return
    old_entries = ini.entries(text, KEY)
    assert ini.entries(new, KEY) == [*old_entries, OURS]
    back = ini.remove(new, KEY, OURS)
    assert ini.entries(back, KEY) == old_entries
    parsed = configparser.ConfigParser(inline_comment_prefixes=(";",))
    parsed.read_string(text)
    value = parsed.get("defaults", KEY, raw=True, fallback=None)
    if value is None or value.strip() and not value.rstrip().endswith(","):
        assert back == text
