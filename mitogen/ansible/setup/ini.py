"""
Add an entry to a list in the [defaults] section of an ansible.cfg, and remove it again, with every
other byte unchanged.

Rules
    1. Lines are interpreted as by configparser, with Ansible's settings for it.
    2. The result is parsed again by configparser: if anything but that list differs, Refused is
       raised, and nothing is changed.
    3. remove() restores the original text from the result of add().

Threads: any; pure.
"""

from __future__ import annotations

import configparser
import re

__all__ = ["MARK", "Refused", "add", "entries", "remove"]

SECTION = "defaults"
#: Comment before a section created by add(), so that remove() can remove the section.
MARK = "# made by: python -m mitogen.ansible enable"


class Refused(ValueError):
    """The text can't be edited; the message has the reason."""


def _parsed(text: str) -> configparser.ConfigParser:
    parser = configparser.ConfigParser(inline_comment_prefixes=(";",))
    try:
        parser.read_string(text)
    except configparser.Error as e:
        raise Refused("Ansible can't read it: %s" % str(e).replace("\n", " ")) from None
    return parser


def _split(value: str, separator: str) -> list[str]:
    return [each.strip().strip("'\"") for each in value.split(separator) if each.strip()]


def entries(text: str, key: str, separator: str = ",") -> list[str]:
    """
    Return the entries of a list; [] if it is missing.

    :param text: contents of an ansible.cfg
    :param key: name of the list
    :param separator: separator of the list's entries
    :raises Refused: the text is not valid
    """
    return _split(_parsed(text).get(SECTION, key, raw=True, fallback=""), separator)


def _checked(old: str, new: str, key: str, expected: list[str], separator: str) -> str:
    """Return *new*, after a check that the list is as expected and all else is as in *old*."""
    found = []
    for text in (old, new):
        parser = _parsed(text)
        values = {name: dict(parser.items(name, raw=True)) for name in parser.sections()}
        values.setdefault(SECTION, dict(parser.defaults())).pop(key, None)
        found.append(values)
    if found[0] != found[1] or entries(new, key, separator) != expected:
        raise Refused("the entry for %s must be edited by hand" % key)
    return new


class _Line:
    """A line, split into the part used by configparser and the rest: blanks and a comment."""

    def __init__(self, text: str) -> None:
        comment = re.search(r"\A\s*[#;].*|(?<=\s);.*", text, re.DOTALL)
        content = text[: comment.start()] if comment else text
        self.indent = len(text) - len(text.lstrip())
        self.content = content.rstrip()
        self.rest = text[len(self.content) :]

    @property
    def text(self) -> str:
        return self.content + self.rest


class _Document:
    """The lines of a file, with the positions of the section and the list."""

    def __init__(self, text: str, key: str) -> None:
        self.lines = [_Line(each) for each in re.findall(r"[^\n]*\n|[^\n]+", text)]
        self.newline = "\r\n" if "\r\n" in text else "\n"
        #: Indices of the section's first heading, its first option, and the list's lines.
        self.heading = self.first = -1
        self.own: list[int] = []
        self._locate(key)

    def _locate(self, key: str) -> None:
        indent, name, here = 0, "", False
        for index, line in enumerate(self.lines):
            if not line.content.strip():
                continue
            if name and line.indent > indent:
                self.own += [index] if here and name == key else []
                continue
            indent, name = line.indent, ""
            heading = re.match(r"\s*\[(.+)\]", line.content)
            if heading:
                here = heading.group(1) == SECTION
                self.heading = index if here else self.heading
                continue
            name = re.split(r"[=:]", line.content, maxsplit=1)[0].strip().lower()
            if here:
                self.first = index if self.first < 0 else self.first
                self.own += [index] if name == key else []

    @property
    def text(self) -> str:
        return "".join(line.text for line in self.lines)


def add(text: str, key: str, entry: str, separator: str = ",", first: str = "") -> str:
    """
    Return a text with an entry appended to a list, which is created if needed.

    :param text: contents of an ansible.cfg; '' for a new one, which gets a mark
    :param key: name of the list
    :param entry: entry to add; no-op if it is present
    :param separator: separator of the list's entries: "," or ":"
    :param first: entries placed first in a newly created list
    :raises Refused: the text is not valid, or must be edited by hand
    """
    before = entries(text, key, separator)
    if entry in before:
        return text
    between = separator + " " * (separator == ",")
    document = _Document(text, key)
    if document.own:
        last = document.lines[document.own[-1]]
        if not before:
            last.content += " " + entry
        else:
            last.content += (" " if last.content.endswith(separator) else between) + entry
        return _checked(text, document.text, key, [*before, entry], separator)
    # Entries in the DEFAULT section, inherited by all others, would be lost in a new list.
    before = [*before, *_split(first, separator)]
    new = _with_line(document, text, "%s = %s" % (key, between.join([*before, entry])))
    return _checked(text, new, key, [*before, entry], separator)


def _with_line(document: _Document, text: str, line: str) -> str:
    """Return the text with a line added right below the section's heading."""
    newline = document.newline
    end = newline if text.endswith("\n") or not text else ""
    if document.heading < 0:
        section = "%s%s[%s]%s%s" % (MARK, newline, SECTION, newline, line)
        return text + (newline if end else newline * 2) * bool(text) + section + end
    heading = document.lines[document.heading]
    option = document.lines[document.first].text if document.first >= 0 else ""
    # With a smaller indent than the next line, that one would become its continuation.
    line = option[: len(option) - len(option.lstrip())] + line
    heading.rest += line + newline if heading.rest.endswith("\n") else newline + line
    return document.text


def remove(text: str, key: str, entry: str, separator: str = ",", first: str = "") -> str:
    """
    Return a text with an entry removed from a list; an empty list is removed, too.

    :param text: contents of an ansible.cfg
    :param key: name of the list
    :param entry: entry to remove; no-op if it is missing
    :param separator: separator of the list's entries: "," or ":"
    :param first: entries that add() has put first in a new list; they are removed with it
    :raises Refused: the text is not valid, or must be edited by hand
    """
    before = entries(text, key, separator)
    if entry not in before:
        return text
    after = [each for each in before if each != entry]
    document = _Document(text, key)
    if after in ([], _split(first, separator)):
        return _checked(text, _without_list(document), key, [], separator)
    pattern = r"(?:'{0}'|\"{0}\"|{0})".format(re.escape(entry))
    sep = re.escape(separator)
    for index in document.own:
        _remove_entry(document.lines[index], pattern, sep)
    kept = [index for index in document.own if document.lines[index].content.strip()]
    for index in set(document.own) - set(kept):
        document.lines[index] = _Line("")
    last = document.lines[kept[-1]]
    if not text.rstrip().endswith(separator):
        last.content = re.sub(r"\s*%s\Z" % sep, "", last.content)
    return _checked(text, document.text, key, after, separator)


def _remove_entry(line: _Line, pattern: str, sep: str) -> None:
    """Remove an entry from one line, with the separator before it, or else the one after it."""
    alone = r"(?<=[\s=:{0}]){1}(?=\s*(?:{0}|\Z))".format(sep, pattern)
    content = re.sub(r"\s*%s\s*%s" % (sep, alone), "", " " + line.content)
    line.content = re.sub(r"%s\s*(?:%s\s*)?" % (alone, sep), "", content)[1:]


def _without_list(document: _Document) -> str:
    lines, own = document.lines, document.own
    texts = [line.text for line in lines]
    # From the list's first line to its last, with the comments in between.
    begin, end = own[0], own[-1] + 1
    at_end = end == len(lines)
    made = document.heading == begin - 1 and begin >= 2 and lines[begin - 2].rest.strip() == MARK
    if made and at_end:
        begin = max(0, begin - 3)
    head, tail = "".join(texts[:begin]), "".join(texts[end:])
    if at_end and not texts[-1].endswith("\n"):
        # The original text had no newline at its end either.
        head = re.sub(r"\r?\n\Z", "", head)
    return head + tail
