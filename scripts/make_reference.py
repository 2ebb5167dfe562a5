"""Write the reference of everything that ``finer_nerfstudio`` exports, from its signatures and docstrings.

    python scripts/make_reference.py            # after a signature or a docstring has changed
    python scripts/make_reference.py --check    # say whether the page is out of date

The page is docs/reference.md. What is exported without a docstring is an error.
"""

from __future__ import annotations

import ast
import functools
import inspect
import itertools
import json
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from finer_nerfstudio.cli.command import run_command
from finer_nerfstudio.errors import InputError
from finer_nerfstudio.files.atomic import write_text

_PREFACE = """# Reference

Everything that `import finer_nerfstudio` gives, made of its signatures and docstrings by
`python scripts/make_reference.py`: what is wrong here is put right there. Options of commands are in each command's
`--help`.

Shapes are [jaxtyping](https://docs.kidger.site/jaxtyping/)'s. `Float[Tensor, "*batch in_dim"]` is a tensor of
floating-point numbers with any number of leading dimensions and a last one of `in_dim`. `InputError` and its kind
`UsageError` are in [`finer_nerfstudio.errors`](../finer_nerfstudio/errors.py); their text is one sentence for whoever
made the mistake.
"""
_ELSEWHERE = {"__version__": "Version of the package that is installed, a string."}
_SECTIONS = {"Args": "Arguments", "Attributes": "Attributes", "Returns": "Returns", "Raises": "Raises"}
_LONGEST_LINE = 100
_INLINE = re.compile(r"``(?P<code>.+?)``|:[a-z]+:`~?(?P<reference>[^`]+)`|(?P<plain>`[^`]+`)", re.DOTALL)


@dataclass(frozen=True)
class MakeReference:
    """Which page."""

    check: bool = False
    """Change nothing; end with exit code 1 where the page is out of date."""
    page: Path = Path("docs/reference.md")
    """Where it is, seen from here."""


@dataclass(frozen=True)
class Entry:
    """Something that has a heading.

    Attributes:
        name: which the heading shows.
        level: of the heading, 2 for a module, 3 for what it exports, 4 for a method or a property.
        module: that defines it.
        declaration: how it is called, as code; None for modules.
        docstring: its own.
    """

    name: str
    level: int
    module: ModuleType
    declaration: str | None
    docstring: str


def _double_quoted(names: tuple[str, ...]) -> str:
    """A tuple of names as the formatter writes it, which also looks at code in pages."""
    return f"({', '.join(json.dumps(name) for name in names)})"


def main(command: MakeReference) -> None:
    import finer_nerfstudio

    text = reference_of(finer_nerfstudio)
    try:
        found = command.page.read_text() if command.page.exists() else ""
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{command.page} cannot be read ({error}).") from error
    if text == found:
        print(f"{command.page} is up to date")
        return
    if command.check:
        raise InputError(f"{command.page} is out of date: run python scripts/make_reference.py.")
    write_text(command.page, text)
    print(f"{command.page} was made anew")


def reference_of(package: ModuleType) -> str:
    """The page, as Markdown.

    Args:
        package: whose ``__all__`` is described.

    Raises:
        InputError: for an export without a docstring.
    """
    entries = list(entries_of(package))
    targets = dict(zip((entry.name for entry in entries), anchors([entry.name for entry in entries]), strict=True))
    rows = [
        f"| [`{module.name}`](#{targets[module.name]}) | "
        + ", ".join(
            f"[`{entry.name}`](#{targets[entry.name]})"
            for entry in entries
            if entry.level == 3 and entry.module is module.module
        )
        + " |"
        for module in entries
        if module.level == 2
    ]
    parts = [_PREFACE, "\n".join(["| module | exports |", "|---|---|", *rows]) + "\n"]
    for entry in entries:
        parts.append(f"{'#' * entry.level} `{entry.name}`\n")
        if entry.declaration is not None:
            parts.append(f"```python\n{entry.declaration}\n```\n")
            if meanings := list(aliases_in(entry.declaration, entry.module.__name__)):
                parts.append(", ".join(f"`{name}` is `{meaning}`" for name, meaning in meanings) + ".\n")
        parts.append(markdown_of(entry.docstring, lambda name, owner=entry.name: link_to(name, owner, targets)))
        if entry.level == 2:
            source = Path(inspect.getfile(entry.module)).relative_to(Path(inspect.getfile(package)).parents[1])
            parts.append(f"[Source](../{source.as_posix()})\n")
    return "\n".join(parts)


def entries_of(package: ModuleType) -> Iterator[Entry]:
    """Modules, what of them is exported, and its public methods and properties, in the order in which they are written.

    Modules deeper inside come first: networks, then what is done with them. A method without a docstring of its own
    does what it does in the base class, and is left out.
    """
    exports: dict[str, list[str]] = {}
    for name in package.__all__:
        exports.setdefault(_module_of(package, name), []).append(name)
    for module_name in sorted(exports, key=lambda name: (-name.count("."), name)):
        module = sys.modules[module_name]
        yield Entry(module_name, 2, module, None, _own_docstring(module, module_name))
        written = list(vars(module))
        for name in sorted(exports[module_name], key=written.index):
            target = getattr(module, name)
            if not callable(target):
                value = f": {type(target).__name__}" if name in _ELSEWHERE else f" = {_double_quoted(target)}"
                yield Entry(name, 3, module, name + value, _of_constant(module_name, name) or _ELSEWHERE[name])
                continue
            yield Entry(name, 3, module, declaration(name, target), _own_docstring(target, name))
            if inspect.isclass(target):
                for member_name, member in vars(target).items():
                    function = member.fget if isinstance(member, property) else member
                    if member_name.startswith("_") or not inspect.isfunction(function) or not function.__doc__:
                        continue
                    full = f"{name}.{member_name}"
                    if isinstance(member, property):
                        written_type = f"{full}: {inspect.signature(function).return_annotation}"
                    else:
                        written_type = declaration(full, function, is_method=True)
                    yield Entry(full, 4, module, written_type, function.__doc__)


def declaration(name: str, target: Callable[..., Any], *, is_method: bool = False) -> str:
    """How something is called, on one line or with a line for each parameter.

    Annotations are strings, as ``from __future__ import annotations`` leaves them, with other quotation marks.
    """
    signature = inspect.signature(target)
    parameters = list(signature.parameters.values())[1 if is_method else 0 :]
    written: list[str] = []
    for parameter in parameters:
        kind = parameter.kind
        named_only = kind is inspect.Parameter.KEYWORD_ONLY
        if named_only and not any(word.startswith("*") for word in written):
            written.append("*")
        annotation = parameter.annotation
        if isinstance(annotation, str):
            parameter = parameter.replace(annotation=_AsWritten(annotation.replace("'", '"')))
        written.append(str(parameter))
    returned = ""
    if not inspect.isclass(target) and signature.return_annotation is not inspect.Signature.empty:
        returned = f" -> {signature.return_annotation}".replace("'", '"')
    line = f"{name}({', '.join(written)}){returned}"
    if len(line) <= _LONGEST_LINE:
        return line
    return "\n".join([f"{name}(", *(f"    {parameter}," for parameter in written), f"){returned}"])


class _AsWritten(str):
    """An annotation that is printed without quotation marks."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


def aliases_in(declared: str, module_name: str) -> Iterator[tuple[str, str]]:
    """Names in a declaration that stand for longer types, and the types."""
    for name in dict.fromkeys(re.findall(r"\b[A-Z]\w+", declared)):
        meaning = _alias(module_name, name)
        if meaning is not None:
            yield name, meaning


def markdown_of(docstring: str, link: Callable[[str], str]) -> str:
    """A docstring in Google's style as Markdown.

    Args:
        docstring: with sections such as ``Args:``, whose items are ``name: text``.
        link: what stands for a name that is referred to.
    """
    lines: list[str] = []
    section = None
    for line in inspect.cleandoc(docstring).splitlines():
        title = line.removesuffix(":")
        if line.endswith(":") and title in _SECTIONS:
            section = title
            lines += [f"**{_SECTIONS[title]}**", ""]
        elif section is None or not line.startswith("    "):
            section = section if not line else None
            lines.append(line)
        elif section != "Returns" and (item := re.match(r" {4}([\w.*]+): (.*)", line)):
            lines.append(f"- `{item[1]}`: {item[2]}")
        else:
            lines.append(line[4:] if section == "Returns" else f"  {line.strip()}")
    return _with_links("\n".join(lines), link).strip() + "\n"


def link_to(name: str, owner: str, targets: dict[str, str]) -> str:
    """A link to a heading of the page, or the name alone where it has none.

    Args:
        name: as a docstring has it, with or without modules.
        owner: whose docstring it is; a method's name may stand for that of the same class.
        targets: anchors by heading.
    """
    short = name.rsplit(".", 1)[-1]
    for candidate in (f"{owner.rsplit('.', 1)[0]}.{name}", f"{owner}.{name}", name, short):
        if candidate in targets:
            return f"[`{name}`](#{targets[candidate]})"
    return f"`{name}`"


def anchors(headings: Sequence[str]) -> list[str]:
    """Fragments that GitHub gives to headings of code: letters, digits, hyphens, underscores; doubles are numbered."""
    taken: dict[str, int] = {}
    found = []
    for heading in headings:
        anchor = re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        count = taken.get(anchor, 0)
        taken[anchor] = count + 1
        found.append(f"{anchor}-{count}" if count else anchor)
    return found


def _with_links(text: str, link: Callable[[str], str]) -> str:
    """Code and references of reStructuredText as Markdown's, and nothing else taken for Markdown."""
    parts, end = [], 0
    for match in _INLINE.finditer(text):
        parts.append(_escaped(text[end : match.start()]))
        if match["code"] is not None:
            parts.append(f"`{match['code']}`")
        else:
            parts.append(match["plain"] or link(match["reference"]))
        end = match.end()
    return "".join([*parts, _escaped(text[end:])])


def _escaped(text: str) -> str:
    sections = "|".join(re.escape(f"**{title}**") for title in _SECTIONS.values())
    return "".join(
        part if re.fullmatch(sections, part) else re.sub(r"([*<])", r"\\\1", part)
        for part in re.split(f"({sections})", text)
    )


def _module_of(package: ModuleType, name: str) -> str:
    target = getattr(package, name)
    if callable(target):
        return target.__module__
    candidates = sorted(module for module in sys.modules if module.startswith(f"{package.__name__}."))
    return next((module for module in candidates if _of_constant(module, name) is not None), package.__name__)


def _own_docstring(target: Any, name: str) -> str:
    docstring = target.__doc__
    # A dataclass without one gets its signature.
    if not docstring or docstring.startswith(f"{name}("):
        raise InputError(f"{name} has no docstring, which the reference is made of: write one.")
    return docstring


@functools.cache
def _statements(module_name: str) -> list[ast.stmt]:
    return ast.parse(inspect.getsource(sys.modules[module_name])).body


def _of_constant(module_name: str, name: str) -> str | None:
    """The string that stands under the assignment of a module's constant."""
    statements = _statements(module_name)
    for statement, following in itertools.pairwise(statements):
        if name in _assigned(statement) and isinstance(following, ast.Expr):
            value = following.value
            if isinstance(value, ast.Constant) and isinstance(value.value, str):
                return value.value
    return None


def _alias(module_name: str, name: str) -> str | None:
    """The type that a name stands for in a module of ours, which may have imported it from another one."""
    for statement in _statements(module_name):
        if isinstance(statement, ast.Assign) and name in _assigned(statement):
            is_type = isinstance(statement.value, (ast.Subscript, ast.BinOp))
            source = inspect.getsource(sys.modules[module_name])
            return ast.get_source_segment(source, statement.value) if is_type else None
        if isinstance(statement, ast.ImportFrom) and name in [alias.asname or alias.name for alias in statement.names]:
            origin = statement.module or ""
            return _alias(origin, name) if origin.startswith("finer_nerfstudio") else None
    return None


def _assigned(statement: ast.stmt) -> list[str]:
    targets = statement.targets if isinstance(statement, ast.Assign) else [getattr(statement, "target", None)]
    return [target.id for target in targets if isinstance(target, ast.Name)]


if __name__ == "__main__":
    run_command(main, MakeReference, __doc__, program="make_reference.py", arguments=sys.argv[1:])
