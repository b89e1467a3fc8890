"""The site of docs/: `nox -s site` builds it into build/site/, with warnings as errors.

Three pages are made from the code on every build, so that they cannot lag behind it: the kernels, the methods of every
operator, and the command line.
"""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from textwrap import indent
from typing import Any

import typer
from hograd_bench.cli import app
from sphinx.ext.napoleon import GoogleDocstring

import hograd_core

HERE = Path(__file__).parent
MADE = HERE / "reference" / "made"  # not under version control

project = "hograd"
author = project_copyright = "The hograd developers"
html_title = "hograd"
html_theme = "furo"
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["data", "conf.py"]
source_suffix = {".md": "myst-nb", ".rst": "restructuredtext"}
nb_custom_formats = {".py": ["jupytext.reads", {"fmt": "py:percent"}]}
nb_execution_mode = "force"
nb_execution_excludepatterns = ["*.md", "**/*.md"]  # their examples are run by tests
nb_execution_raise_on_error = True
nb_execution_timeout = 300
myst_heading_anchors = 4
autodoc_member_order = "bysource"
autodoc_typehints = "none"  # signatures carry them
napoleon_numpy_docstring = False


def kernels() -> Iterator[str]:
    """The page of what hograd_core exports, in its order, line by line."""
    yield "# Kernels\n\n`hograd_core` depends on torch alone. Operators take what [](../../arguments.md) says,"
    yield "and compute by each of their [methods](methods.md).\n\n```{eval-rst}"
    for name in hograd_core.__all__:
        thing = getattr(hograd_core, name)
        if isinstance(thing, type):
            yield f".. autoclass:: hograd_core.{name}\n   :members:\n"
        else:
            signature = inspect.signature(thing)
            bare = [p.replace(annotation=p.empty) for p in signature.parameters.values()]
            signature = signature.replace(parameters=bare, return_annotation=signature.empty)
            yield f".. py:function:: hograd_core.{name}{signature}\n"
            yield indent(str(GoogleDocstring(inspect.getdoc(thing) or "")), "   ") + "\n"
    yield "```"


def methods() -> Iterator[str]:
    """The page of every operator's methods, line by line."""
    yield "# Methods\n\nEvery operator by each of its methods; `hograd list` prints the same.\n"
    for operator in hograd_core.operators().values():
        said = (inspect.getdoc(getattr(hograd_core, operator.name)) or "").partition("\n")[0]
        yield f"## {operator.name}\n\n{said}\n\n| method | how | source |\n|---|---|---|"
        yield from (f"| `{m.name}` | {_cell(m.mode)} | {_cell(m.source)} |" for m in operator.methods.values())
        yield ""


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def make(*_: Any) -> None:
    """Write the pages that are made from the code."""
    MADE.mkdir(exist_ok=True)
    for page in (kernels, methods):
        (MADE / f"{page.__name__}.md").write_text("\n".join(page()), encoding="utf-8")
    command = [sys.executable, "-m", "typer", "hograd_bench.cli", "utils", "docs", "--name", "hograd"]
    said = subprocess.run(command, check=True, capture_output=True, text=True, encoding="utf-8").stdout
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]

    def whole(found: re.Match[str]) -> str:
        return f"* `{found[1]}`: {commands[found[1]].get_short_help_str(300)}"

    said = re.sub(r"^\* `(\w+)`: .*\.\.\.$", whole, said, flags=re.MULTILINE)  # cut at 45 letters
    (MADE / "commands.md").write_text(said.replace("# `hograd`", "# Command line", 1), encoding="utf-8")


def for_the_site(_: Any, page: str, source: list[str]) -> None:
    """Links to files of the repository that the site has not become plain text, HTML's anchors become MyST's."""
    if "/" not in page:
        source[0] = re.sub(r"\[([^]]*)\]\(\.\./[^)]*\)", r"\1", source[0])
    source[0] = re.sub(r'<a id="(\w+)"></a>', r"(\1)=", source[0])


def setup(app: Any) -> None:
    """What Sphinx calls."""
    app.connect("config-inited", make)
    app.connect("source-read", for_the_site)
