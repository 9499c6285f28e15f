"""
The map of the package for docs/design/index.rst, made from the code: a table of the folders and a
picture (SVG) of what imports what. docs/generate.py writes both.
"""

from __future__ import annotations

import ast

from tests.unit import test_layering as layering

#: Size of a box, and the space between boxes, in pixels.
WIDTH, HEIGHT, ACROSS, DOWN = 112, 34, 22, 46
#: Boxes in one row at most.
ROW = 5

TOP = "mitogen/*.py"


def summary(folder: str) -> str:
    """Return the first line of a folder's docstring."""
    path = layering.MODULES[folder]
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return " ".join(text.split("\n\n")[0].split())


def imports() -> dict[str, set[str]]:
    """Return {folder: the folders whose files it imports}, as the code is."""
    found: dict[str, set[str]] = {room: set() for room in [*layering.ROOMS, *layering.ABOVE_ALL]}
    for module, path in layering.MODULES.items():
        here = layering.room_of(module)
        if here:
            for imported, _, _ in layering.own_modules(path):
                there = layering.room_of(imported)
                # Registration of old names is the one import that points up.
                if there and there != here and (module, imported) not in layering.UPWARD:
                    found[here].add(there)
    return found


def levels(graph: dict[str, set[str]]) -> dict[str, int]:
    """Return {folder: its floor}: one above the highest that it imports."""
    found: dict[str, int] = {}

    def level(room: str) -> int:
        if room not in found:
            found[room] = max((level(each) + 1 for each in graph[room]), default=0)
        return found[room]

    for room in graph:
        level(room)
    return found


def shown(graph: dict[str, set[str]]) -> list[tuple[str, str]]:
    """Return the arrows to draw: those that do not follow from two others."""

    def reaches(start: str, goal: str) -> bool:
        return any(each == goal or reaches(each, goal) for each in graph[start])

    return [
        (room, below)
        for room in sorted(graph)
        for below in sorted(graph[room])
        if not any(other != below and reaches(other, below) for other in graph[room])
    ]


def picture() -> str:
    """Return the picture: SVG 1.1, with an arrow from each folder to those that it imports."""
    graph = imports()
    floors = levels(graph)
    rows: list[list[str]] = [[] for _ in range(max(floors.values()) + 1)]
    for room in sorted(graph, key=lambda room: (floors[room], room)):
        rows[floors[room]].append(room)
    rows.reverse()
    across = max(len(row) for row in rows) * (WIDTH + ACROSS) + ACROSS
    places: dict[str, tuple[int, int]] = {}
    for y, row in enumerate(rows):
        start = (across - len(row) * (WIDTH + ACROSS) + ACROSS) // 2
        for x, room in enumerate(row):
            places[room] = (start + x * (WIDTH + ACROSS), 12 + y * (HEIGHT + DOWN))
    out = [
        '<svg xmlns="http://www.w3.org/2000/svg" width="{0}" height="{1}" '
        'viewBox="0 0 {0} {1}" font-family="sans-serif" font-size="13">'.format(
            across, 12 + len(rows) * (HEIGHT + DOWN) - DOWN + 12
        ),
        "<title>The folders of mitogen/ and what each imports</title>",
        '<defs><marker id="a" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="7" '
        'markerHeight="7" orient="auto"><path d="M0 0 8 4 0 8z" fill="#567"/></marker></defs>',
    ]
    for room, below in shown(graph):
        (x1, y1), (x2, y2) = places[room], places[below]
        out.append(
            '<line x1="{}" y1="{}" x2="{}" y2="{}" stroke="#567" marker-end="url(#a)"/>'.format(
                x1 + WIDTH // 2, y1 + HEIGHT, x2 + WIDTH // 2, y2
            )
        )
    for room, (x, y) in places.items():
        out.append(
            '<rect x="{}" y="{}" width="{}" height="{}" rx="4" fill="#eef3f7" stroke="#567"/>'
            '<text x="{}" y="{}" text-anchor="middle">{}</text>'.format(
                x, y, WIDTH, HEIGHT, x + WIDTH // 2, y + HEIGHT // 2 + 4, room
            )
        )
    return "\n".join([*out, "</svg>", ""])


def rows() -> list[tuple[str, str, str]]:
    """Return (folder, its summary, the folders that it imports), from the bottom up."""
    graph = imports()
    floors = levels(graph)
    return [
        (
            "``%s/``" % room,
            summary(room),
            ", ".join("``%s``" % each for each in sorted(graph[room])) or "nothing",
        )
        for room in sorted(graph, key=lambda room: (floors[room], room))
    ]
