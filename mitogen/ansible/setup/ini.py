"""
Puts an entry into a list in the [defaults] section of an ansible.cfg, and takes it out again, with
every other byte as it was.

Rules
    1. Lines are told apart as configparser does, with Ansible's settings for it.
    2. What comes out is read again by configparser: nothing but that list may differ, or Refused is
       raised and nothing happens.
    3. What remove() gets from add() it gives back as it was.

Threads: any; pure.
"""

from __future__ import annotations

import configparser
import re

__all__ = ["MARK", "Refused", "add", "entries", "remove"]

SECTION = "defaults"
#: Before a section that add() had to make, so that remove() knows that it may go.
MARK = "# made by: python -m mitogen.ansible enable"


class Refused(ValueError):
    """The text can't be edited; str() of it says why."""


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
    Return the entries of a list; [] if it is not there.

    :param text: contents of an ansible.cfg
    :param key: name of the list
    :param separator: what is between two entries
    :raises Refused: this is no such file
    """
    return _split(_parsed(text).get(SECTION, key, raw=True, fallback=""), separator)


def _checked(old: str, new: str, key: str, expected: list[str], separator: str) -> str:
    """Return *new*, which has these entries and nothing else that *old* has not."""
    found = []
    for text in (old, new):
        parser = _parsed(text)
        values = {name: dict(parser.items(name, raw=True)) for name in parser.sections()}
        values.setdefault(SECTION, dict(parser.defaults())).pop(key, None)
        found.append(values)
    if found[0] != found[1] or entries(new, key, separator) != expected:
        raise Refused("the entry for %s has to be edited by hand" % key)
    return new


class _Line:
    """A line: what configparser takes of it, before comments and without blanks, and the rest."""

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
    """The lines, and where among them the section and the list are."""

    def __init__(self, text: str, key: str) -> None:
        self.lines = [_Line(each) for each in re.findall(r"[^\n]*\n|[^\n]+", text)]
        self.newline = "\r\n" if "\r\n" in text else "\n"
        #: Indices of the section's first heading, its options' first line, the list's own lines.
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
    Return a text with an entry at the end of a list, which is made if need be.

    :param text: contents of an ansible.cfg; '' for a new one, which gets a mark
    :param key: name of the list
    :param entry: what to add; nothing happens if it is there
    :param separator: what is between two entries: "," or ":"
    :param first: entries that a list which has to be made begins with
    :raises Refused: the file is none, or such that it has to be edited by hand
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
    # Of a section whose options all others have, what is there already would be lost.
    before = [*before, *_split(first, separator)]
    new = _with_line(document, text, "%s = %s" % (key, between.join([*before, entry])))
    return _checked(text, new, key, [*before, entry], separator)


def _with_line(document: _Document, text: str, line: str) -> str:
    """Return the text with a line of the section more: right below the section's heading."""
    newline = document.newline
    end = newline if text.endswith("\n") or not text else ""
    if document.heading < 0:
        section = "%s%s[%s]%s%s" % (MARK, newline, SECTION, newline, line)
        return text + (newline if end else newline * 2) * bool(text) + section + end
    heading = document.lines[document.heading]
    option = document.lines[document.first].text if document.first >= 0 else ""
    # With less blanks before it than the next line has, that one would be taken for more of it.
    line = option[: len(option) - len(option.lstrip())] + line
    heading.rest += line + newline if heading.rest.endswith("\n") else newline + line
    return document.text


def remove(text: str, key: str, entry: str, separator: str = ",", first: str = "") -> str:
    """
    Return a text with an entry of a list taken out, and the list with it if nothing else is in it.

    :param text: contents of an ansible.cfg
    :param key: name of the list
    :param entry: what to take out; nothing happens if it is not there
    :param separator: what is between two entries: "," or ":"
    :param first: entries without which add() would not have made the list; they go with it
    :raises Refused: the file is none, or such that it has to be edited by hand
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
        _take_out(document.lines[index], pattern, sep)
    kept = [index for index in document.own if document.lines[index].content.strip()]
    for index in set(document.own) - set(kept):
        document.lines[index] = _Line("")
    last = document.lines[kept[-1]]
    if not text.rstrip().endswith(separator):
        last.content = re.sub(r"\s*%s\Z" % sep, "", last.content)
    return _checked(text, document.text, key, after, separator)


def _take_out(line: _Line, pattern: str, sep: str) -> None:
    """Take an entry out of one line, with the separator before it, or else the one after it."""
    alone = r"(?<=[\s=:{0}]){1}(?=\s*(?:{0}|\Z))".format(sep, pattern)
    content = re.sub(r"\s*%s\s*%s" % (sep, alone), "", " " + line.content)
    line.content = re.sub(r"%s\s*(?:%s\s*)?" % (alone, sep), "", content)[1:]


def _without_list(document: _Document) -> str:
    lines, own = document.lines, document.own
    texts = [line.text for line in lines]
    # From the list's first line to its last; comments in between are about its entries.
    begin, end = own[0], own[-1] + 1
    at_end = end == len(lines)
    made = document.heading == begin - 1 and begin >= 2 and lines[begin - 2].rest.strip() == MARK
    if made and at_end:
        begin = max(0, begin - 3)
    head, tail = "".join(texts[:begin]), "".join(texts[end:])
    if at_end and not texts[-1].endswith("\n"):
        # Nor had the text a newline at its end, before.
        head = re.sub(r"\r?\n\Z", "", head)
    return head + tail
