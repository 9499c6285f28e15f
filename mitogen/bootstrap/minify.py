"""Shrink Python source without moving any statement to another line.

One job: source that compiles to the code objects of the original, with the same names, constants
and line numbers, but without docstrings; so tracebacks from a child match the files on the
controlling machine.

Rules:

* Every token stays on its line, but a function's header without annotations moves to its first
  line. Comments, docstrings, indentation and spaces between tokens go; line breaks stay (a run of
  them compresses to almost nothing).
* When in doubt, do nothing: source that this scanner can't read is returned unchanged, so that the
  child reports the same syntax error as Python would here.
* Strings are copied verbatim, f-strings as a whole.
* Local variables are not renamed, lines not joined, constants not folded.

The scanner replaces ``tokenize`` for speed: core.py is minified before the first connection can be
made. For 1,950 lines ``tokenize`` takes 14-31 ms and up to 14 ms to import; this module takes about
13 ms in all.

Threads: pure functions without state, callable from any thread. Controlling machine only.
"""

from __future__ import annotations

import re
from collections import Counter, namedtuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = ["minimize_source"]


#: A token. *depth* counts the brackets that are open just before it.
Token = namedtuple("Token", ["kind", "text", "line", "depth"])
#: A logical line: the column of its start (tabs expanded) and its tokens, at least one.
Line = namedtuple("Line", ["column", "tokens"])


class _Unreadable(Exception):
    """The scanner can't read the source."""


# Names joined by dots are one token, for speed. Numbers are matched loosely ("1if", "0xe+1"), which
# is harmless because they are copied, as are runs of operators: no two operators that may be
# adjacent merge into another. Letters are \w and not a range of characters: compiling a range up to
# \U0010ffff takes 10 ms. Source with one of the few letters that \w lacks is unreadable.
_TOKEN = re.compile(
    r"""[ \t\f]*(?:
      (?P<string>(?:[bB][rR]?|[rR][bB]?|[uU])?(?:
          '''[^'\\]*(?:(?:\\.|'(?!''))[^'\\]*)*''' | \"""[^"\\]*(?:(?:\\.|"(?!""))[^"\\]*)*\"""
        | '[^'\\\n]*(?:\\.[^'\\\n]*)*' | "[^"\\\n]*(?:\\.[^"\\\n]*)*"))
    | (?P<fstring>(?:[fFtT][rR]?|[rR][fFtT])(?:'''|\"""|'|"))
    | (?P<name>\.?[^\W\d]\w*(?:\.[^\W\d]\w*)*)
    | (?P<newline>\n)
    | (?P<open>[(\[{])
    | (?P<close>[)\]}])
    | (?P<number>\.?[0-9](?:[eE][+-]|[0-9A-Za-z_.])*)
    | (?P<op>->|:=|[-+*/%@&|^~<>!=]*=|[-+*/%@&|^~<>!.]+|[:;,])
    | (?P<comment>\#[^\n]*)
    | (?P<join>\\\n)
    | (?P<end>\Z)
    )""",
    re.VERBOSE | re.DOTALL,
)

# Significant parts of an f-string's literal text, plain and raw. A backslash does not escape a
# brace.
_LITERAL = re.compile(r"""\\N\{[^}]*\}|\\[^{}]|\{\{|\}\}|\{|'''|\"""|'|\"""", re.DOTALL)
_RAW_LITERAL = re.compile(r"""\\[^{}]|\{\{|\}\}|\{|'''|\"""|'|\"""", re.DOTALL)
# The same in a format specification, where a doubled brace is two braces.
_SPEC = re.compile(r"""\\N\{[^}]*\}|[{}]""")
_RAW_SPEC = re.compile(r"""[{}]""")

_GUARD_NAMES = ("MYPY", "TYPE_CHECKING")


def minimize_source(
    source: str,
    strip_annotations: bool = False,
    rename: Mapping[str, str] | None = None,
) -> str:
    """Return a smaller source with the same statements on the same lines.

    Docstrings are dropped, unless the source reads ``__doc__`` somewhere.

    :param source: Python source as text, with any kind of line ends; a byte order mark is dropped.
    :param strip_annotations: also drop annotations, ``from __future__ import annotations``, the
        blocks below ``if MYPY:`` and ``if TYPE_CHECKING:``, and ``MYPY = False`` if nothing else
        uses that name. Annotations of variables stay in classes that are decorated or derived from
        ``NamedTuple`` or ``TypedDict``. The result differs for code that reads
        ``__annotations__``.
    :param rename: new names for identifiers, applied everywhere outside strings (to attributes and
        keyword arguments too); the caller ensures that this is safe.
    :returns: The smaller source, ending in a line break, or *source* itself if it can't be read.
    """
    text = source[1:] if source.startswith("\ufeff") else source
    if "\r" in text:
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    try:
        lines = list(_logical_lines(text))
        if strip_annotations:
            lines = list(_without_annotations(_without_guards(_without_guarded(lines))))
        if "__doc__" not in text:
            lines = list(_without_docstrings(lines))
        return _joined(lines, rename or {})
    except _Unreadable:
        return source


def _logical_lines(source: str) -> Iterator[Line]:
    """Split *source* into logical lines, without comments and blank lines."""
    line = 1
    position = depth = column = start = 0
    joined = -1  # End of the last continuation, which must be followed by a token.
    tokens: list[Token] = []
    match = _TOKEN.match
    while True:
        found = match(source, position)
        if found is None:
            raise _Unreadable
        kind = found.lastgroup or ""
        text = found[kind]
        position = found.end()
        if kind == "newline" or kind == "end":
            if kind == "end" and joined == found.start():
                raise _Unreadable
            if tokens and not depth:
                yield Line(column, tokens)
                tokens = []
            if kind == "end":
                break
            line += 1
            start = position
        elif kind == "comment":
            continue
        elif kind == "join":
            if not tokens:  # Indentation before a continuation has special rules; very rare.
                raise _Unreadable
            line += 1
            joined = position
        else:
            if not tokens:
                column = _column(source[start : found.start(kind)])
            if kind == "fstring":
                position = _fstring_end(source, position, text)
                text = source[found.start(kind) : position]
                kind = "string"
            tokens.append(Token(kind, text, line, depth))
            if kind == "open":
                depth += 1
            elif kind == "close":
                depth -= 1
            elif kind == "string":
                line += text.count("\n")
    if tokens or depth:
        raise _Unreadable


def _column(blanks: str) -> int:
    """Return the column that Python's tokenizer sees after *blanks*."""
    return len(blanks.rpartition("\f")[2].expandtabs(8))


def _fstring_end(source: str, position: int, opening: str) -> int:
    """Return the end of the f-string whose text begins at *position*, after *opening*."""
    quote = opening.lstrip("fFtTrR")
    raw = "r" in opening.lower()
    pattern = _RAW_LITERAL if raw else _LITERAL
    while True:
        found = pattern.search(source, position)
        if found is None:
            raise _Unreadable
        text, position = found.group(), found.end()
        if text == quote:
            return position
        if text == "{":
            position = _field_end(source, position, raw)
        elif text.startswith(quote):  # '"""' found in a string delimited by a single '"'.
            return found.start() + 1


def _field_end(source: str, position: int, raw: bool) -> int:
    """Return the end of the replacement field whose expression begins at *position*."""
    depth = 0
    while True:
        found = _TOKEN.match(source, position)
        if found is None:
            raise _Unreadable
        kind = found.lastgroup or ""
        text = found.group(kind)
        position = found.end()
        if kind == "end":
            raise _Unreadable
        if kind == "fstring":
            position = _fstring_end(source, position, text)
        elif kind == "open":
            depth += 1
        elif kind == "close":
            if not depth:
                return position
            depth -= 1
        elif not depth and text in (":", ":="):
            return _spec_end(source, found.start(kind) + 1, raw)


def _spec_end(source: str, position: int, raw: bool) -> int:
    """Return the end of the replacement field whose format specification begins at *position*."""
    pattern = _RAW_SPEC if raw else _SPEC
    while True:
        found = pattern.search(source, position)
        if found is None:
            raise _Unreadable
        position = found.end()
        if found.group() == "}":
            return position
        if found.group() == "{":
            position = _field_end(source, position, raw)


def _header_end(tokens: list[Token]) -> int:
    """Return the index after the colon of a ``def`` or ``class`` header, 0 for other lines."""
    first = tokens[1] if tokens[0].text == "async" and len(tokens) > 1 else tokens[0]
    if first.text not in ("def", "class"):
        return 0
    lambdas = 0
    for index, token in enumerate(tokens):
        if token.depth:
            continue
        if token.text == "lambda":  # "def f() -> lambda: 0:" is legal.
            lambdas += 1
        elif token.text == ":":
            if not lambdas:
                return index + 1
            lambdas -= 1
    raise _Unreadable


def _statements(tokens: list[Token]) -> list[list[Token]]:
    """Split a line into its statements at the semicolons."""
    result: list[list[Token]] = [[]]
    for token in tokens:
        if token.text == ";":
            result.append([])
        else:
            result[-1].append(token)
    return [statement for statement in result if statement]


def _is_text(statement: list[Token]) -> bool:
    """Return whether *statement* is a plain string and nothing else: a docstring, if first."""
    return all(
        token.kind == "string"
        and not set("bBfFtT") & set(token.text[:2].partition(token.text[-1])[0])
        for token in statement
    )


def _without_docstrings(lines: list[Line]) -> Iterator[Line]:
    """Drop the strings at the head of each suite; replace those in other places by 0."""
    leading = True  # Only strings so far in the suite of a module, class or function.
    for index, (column, tokens) in enumerate(lines):
        start = _header_end(tokens) if tokens[0].kind == "name" else 0
        whole = start == len(tokens)  # A header with its suite on the lines below.
        if whole or (
            not start and tokens[0].kind != "string" and ";" not in [t.text for t in tokens]
        ):
            yield Line(column, tokens)
            leading = whole
            continue
        leading = leading or bool(start)
        kept: list[Token] = []
        for statement in _statements(tokens[start:]):
            text = _is_text(statement)
            leading = leading and text
            if leading:
                continue
            if kept:
                kept.append(Token("op", ";", kept[-1].line, 0))
            kept.extend([Token("number", "0", statement[0].line, 0)] if text else statement)
        if not kept and (start or _ends_suite(lines, index)):
            kept = [Token("number", "0", tokens[start].line, 0)]
        if kept:
            yield Line(column, tokens[:start] + kept)


def _ends_suite(lines: list[Line], index: int) -> bool:
    """Return whether ``lines[index]`` ends a suite other than the module."""
    column: int = lines[index].column
    following: int = lines[index + 1].column if index + 1 < len(lines) else 0
    return following < column


def _without_guarded(lines: list[Line]) -> Iterator[Line]:
    """
    Drop blocks for type checkers only, unless that leaves their suite empty; the suite of an
    ``else`` takes their place.
    """
    index = 0
    while index < len(lines):
        column = lines[index].column
        end = _guarded_end(lines, index)
        if not end:
            yield lines[index]
            index += 1
            continue
        index = end
        if _is_else(lines, end, column):
            index = _suite_end(lines, end)
            shift = lines[end + 1].column - column
            inner = [Line(line.column - shift, line.tokens) for line in lines[end + 1 : index]]
            yield from _without_guarded(inner)


def _suite_end(lines: list[Line], index: int) -> int:
    """Return the index of the line after the suite of the header ``lines[index]``."""
    end = index + 1
    while end < len(lines) and lines[end].column > lines[index].column:
        end += 1
    return end


def _is_else(lines: list[Line], index: int, column: int) -> bool:
    """Return whether an ``else`` at that column has its suite on the lines below."""
    if index >= len(lines) or lines[index].column != column:
        return False
    return [token.text for token in lines[index].tokens] == ["else", ":"]


def _without_guards(lines: Iterator[Line]) -> list[Line]:
    """Drop ``MYPY = False`` if the name has no other use."""
    kept = list(lines)
    uses = Counter(token.text for _, tokens in kept for token in tokens)
    for index, (column, tokens) in enumerate(kept):
        name = tokens[0].text
        if not column and name in _GUARD_NAMES and uses[name] == 1:
            if [token.text for token in tokens[1:]] == ["=", "False"]:
                return kept[:index] + kept[index + 1 :]
    return kept


def _guarded_end(lines: list[Line], index: int) -> int:
    """Return the index of the line after a droppable block below ``if MYPY:``, or 0."""
    column, tokens = lines[index]
    words = [token.text for token in tokens[:3]]
    if words[0] != "if" or words[-1] != ":" or words[1] not in _GUARD_NAMES:
        return 0
    end = _suite_end(lines, index)
    if column and (index == 0 or lines[index - 1].column < column):
        return 0  # First in its suite, so possibly the only one.
    if (
        end < len(lines)
        and lines[end].column == column
        and lines[end].tokens[0].text in ("else", "elif")
        and not _is_else(lines, end, column)
    ):
        return 0
    return end


_NEED_ANNOTATIONS = frozenset(["NamedTuple", "TypedDict"])


def _with_scope(lines: Iterator[Line]) -> Iterator[tuple[Line, str]]:
    """Pair each line with its scope: "" for a module, "def", "class", or "fields".

    "fields" is the body of a class that reads its annotations.
    """
    scopes = [(-1, "")]  # The column of a header, and the scope below it.
    decorated = False
    for line in lines:
        while scopes[-1][0] >= line.column:
            scopes.pop()
        yield line, scopes[-1][1]
        words = [token.text for token in line.tokens]
        if words[0] == "class" and _header_end(line.tokens):
            bases = {word.rpartition(".")[2] for word in words}
            fields = decorated or bases & _NEED_ANNOTATIONS
            scopes.append((line.column, "fields" if fields else "class"))
        elif words[0] in ("def", "async") and _header_end(line.tokens):
            scopes.append((line.column, "def"))
        decorated = words[0].startswith("@")


_FUTURE = ["from", "__future__", "import", "annotations"]


def _without_annotations(lines: list[Line]) -> Iterator[Line]:
    """Drop annotations; a suite that they leave empty gets a 0."""
    before = -1  # The column of the last line kept.
    for index, (line, scope) in enumerate(_with_scope(iter(lines))):
        bare = _bare(line, scope)
        if not bare.tokens:
            if before >= line.column or not _ends_suite(lines, index):
                continue
            bare = Line(line.column, [Token("number", "0", line.tokens[0].line, 0)])
        before = bare.column
        yield bare


def _bare(line: Line, scope: str) -> Line:
    """Return *line* without annotations; without tokens if only an annotation was there."""
    column, tokens = line
    end = 0
    if tokens[0].text in ("def", "async"):
        end = _header_end(tokens)
    if end and tokens[0].text == "def" or end and tokens[1].text == "def":
        body = _bare(Line(column, tokens[end:]), "def").tokens if end < len(tokens) else []
        header = _bare_header(tokens[:end])
        return Line(column, header + body if body else _on_first_line(header))
    if scope == "fields" or tokens[0].text in _COMPOUND:
        return line
    if not scope and [token.text for token in tokens] == _FUTURE:
        return Line(column, [])
    return Line(column, _bare_variable(tokens, scope))


_COMPOUND = frozenset(
    "if elif else for while with try except finally lambda match case class".split()
)


def _bare_variable(tokens: list[Token], scope: str) -> list[Token]:
    """Turn ``x: T = v`` into ``x = v``, and ``x: T`` into nothing.

    In a function ``x: T`` stays, because it makes x a local name.
    """
    colon = next((i for i, t in enumerate(tokens) if t.text == ":" and not t.depth), 0)
    equal = next((i for i, t in enumerate(tokens) if t.text == "=" and not t.depth), 0)
    if not colon or "lambda" in [token.text for token in tokens[: equal or colon]]:
        return tokens
    if colon < equal:
        return tokens[:colon] + tokens[equal:]
    if equal or scope == "def" or ";" in [token.text for token in tokens]:
        return tokens
    return []


def _bare_header(tokens: list[Token]) -> list[Token]:
    """Drop the annotations of the parameters and of the result from a function's header."""
    if "lambda" in [token.text for token in tokens]:  # Its colon and commas look the same.
        return tokens
    result: list[Token] = []
    skipping = parameters = False
    for token in tokens[:-1]:
        _, text, _, depth = token
        if text == "(" and not depth:
            parameters = True
        if depth == 1 and parameters:
            if text == ":":
                skipping = True
            elif text in (",", "=", ")"):
                skipping = False
                parameters = text != ")"
        elif depth == 0 and text == "->":
            break
        if not skipping:
            result.append(token)
    return [*result, tokens[-1]]


def _on_first_line(header: list[Token]) -> list[Token]:
    """Move a header without annotations to its first line, and drop its trailing comma."""
    if any("\n" in token.text for token in header):
        return header
    return [
        Token(kind, text, header[0].line, depth)
        for (kind, text, _, depth), following in zip(header, [*header[1:], header[-1]])
        if (text, following.text, depth) != (",", ")", 1)
    ]


def _joined(lines: list[Line], rename: Mapping[str, str]) -> str:
    """Return the text of *lines*, with each token on its original line."""
    out: list[str] = []
    columns = [0]
    line = 1
    for column, tokens in lines:
        level = _level(columns, column)
        out.append("\n" * (tokens[0].line - line) + " " * level)
        line = tokens[0].line
        last, last_text = "", ""
        for kind, text, number, depth in tokens:
            if number != line:
                out.append(("\n" if depth else "\\\n") * (number - line))
                line = number
            elif kind in _GLUES[last] and _needs_space(last, last_text, kind, text):
                out.append(" ")
            if rename and kind == "name":
                text = ".".join([rename.get(part, part) for part in text.split(".")])
            out.append(text)
            last, last_text = kind, text
            if kind == "string":
                line += text.count("\n")
    return "".join(out) + "\n" if out else ""


def _level(columns: list[int], column: int) -> int:
    """Return the nesting depth of a line at *column*; update *columns* of the enclosing suites."""
    if columns[-1] < column:
        columns.append(column)
    while columns[-1] > column:
        columns.pop()
    if columns[-1] != column:
        raise _Unreadable
    return len(columns) - 1


# Kinds of tokens that could merge with a preceding token of each kind.
_GLUES: dict[str, tuple[str, ...]] = {
    "": (),
    "name": ("name", "number", "string"),
    "number": ("name", "number", "string"),
    "string": ("string",),
    "op": (),
    "open": (),
    "close": (),
}


def _needs_space(last: str, last_text: str, kind: str, text: str) -> bool:
    """Return whether two adjacent tokens, of kinds that could merge, would merge."""
    if last == "string":  # '' 'a' would begin a triple quote.
        return text.startswith(last_text[-1])
    if kind == "string":  # return"x", but not returnb"x"
        return not text.startswith(("'", '"'))
    return last == "number" or not text.startswith(".")  # 1 .real, but from.a
