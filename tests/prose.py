"""Finds turns of phrase that an English reader stumbles on, in docstrings and comments.

A low figure proves nothing: a text may still be a riddle. A finding is a place to rewrite.
"""

import ast
import io
import re
import tokenize

#: Text permitted in front of a docstring's verb.
_ROLE = r"^(?:(?:Any|Broker|Main|Broker's) thread: )?"
PATTERNS = [
    # A clause where a noun belongs.
    re.compile(_ROLE + r"(?:What|Who|Whose|Where|Whoever|Whatever|Those)\b"),
    # "Have X done" where a verb belongs.
    re.compile(_ROLE + r"(?:Have|Has) "),
    re.compile(r"\b(?:nobody|somebody|anybody|whoever|whom)\b", re.IGNORECASE),
    # Only people speak.
    re.compile(r"\b(?:said|says|say|told|tells|tell)\b"),
    re.compile(
        r"\bwhat (?:is|was|are|were|has|have|comes|came|goes|went|needs|runs|ran|they|it|that"
        r"|this|a|the) "
    ),
]


def texts(path):
    """Yield (line, text) of each docstring and comment of a Python file."""
    source = path.read_text(encoding="utf-8")
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            text = ast.get_docstring(node)
            if text:
                yield getattr(node, "lineno", 1), text
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT and not token.string.startswith(("# type:", "#!")):
            yield token.start[0], token.string.lstrip("#: ")


def stumbling_blocks(paths):
    """Return (number of words, ["file:line: ...text..."])."""
    words, found = 0, []
    for path in paths:
        for line, text in texts(path):
            words += len(text.split())
            for pattern in PATTERNS:
                for match in pattern.finditer(text):
                    start, end = max(0, match.start() - 20), match.end() + 40
                    shown = " ".join(text[start:end].split())
                    found.append("{}:{}: ...{}...".format(path, line, shown))
    return words, found
