"""Makes the notebooks beside this file from the examples, with what they print and draw.

    python examples/notebooks/export.py

An example is divided into cells by lines that begin with "# %%"; "# %% [markdown]" begins text. Its
docstring is the first cell, with its first line as the heading.
"""

import ast
import base64
import io
import json
import re
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

HERE = Path(__file__).parent
EXPORTED = ("barrier", "phonons")
TEXT = "[markdown]"
Cell = dict[str, Any]


def cells_of(script: str) -> list[Cell]:
    """Cells of a notebook, not yet executed.

    Args:
        script: an example in cells.
    """
    heading, _, rest = ast.get_docstring(ast.parse(script)).partition("\n")
    source = f"# {heading.rstrip('.')}\n{rest}".splitlines(keepends=True)
    cells: list[Cell] = [{"cell_type": "markdown", "id": "top", "metadata": {}, "source": source}]
    for number, part in enumerate(re.split(r"^# %%", script, flags=re.MULTILINE)[1:]):
        title, _, body = part.partition("\n")
        is_text = title.strip() == TEXT
        lines = body.strip("\n").splitlines()
        if is_text:
            lines = [line.removeprefix("#").removeprefix(" ") for line in lines]
        source = "\n".join(lines).splitlines(keepends=True)
        cell = {"id": f"cell-{number}", "metadata": {}, "source": source}
        if is_text:
            cells.append({"cell_type": "markdown", **cell})
        else:
            cells.append({"cell_type": "code", **cell, "execution_count": None, "outputs": []})
    return cells


def execute(cells: list[Cell]) -> None:
    """Run the cells of code one after the other and keep what they print and draw."""
    names: dict[str, Any] = {}
    for count, cell in enumerate((c for c in cells if c["cell_type"] == "code"), 1):
        tree = ast.parse("".join(cell["source"]))
        last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
        printed = io.StringIO()
        with redirect_stdout(printed):
            exec(compile(tree, cell["id"], "exec"), names)
            value = last and eval(compile(ast.Expression(last.value), cell["id"], "eval"), names)
        cell["execution_count"] = count
        if printed.getvalue():
            text = printed.getvalue().splitlines(keepends=True)
            cell["outputs"].append({"output_type": "stream", "name": "stdout", "text": text})
        if isinstance(value, Figure):
            cell["outputs"].append(_drawn(value, count))


def _drawn(figure: Figure, count: int) -> Cell:
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=100)
    data = {"image/png": base64.b64encode(picture.getvalue()).decode(), "text/plain": ["Figure"]}
    result = {"output_type": "execute_result", "execution_count": count}
    return {**result, "data": data, "metadata": {}}


def notebook(cells: list[Cell]) -> str:
    """A notebook in Jupyter's format 4.5."""
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    metadata = {"kernelspec": kernel, "language_info": {"name": "python"}}
    whole = {"cells": cells, "metadata": metadata, "nbformat": 4, "nbformat_minor": 5}
    return json.dumps(whole, indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    for name in EXPORTED:
        cells = cells_of((HERE.parent / f"{name}.py").read_text(encoding="utf-8"))
        execute(cells)
        (HERE / f"{name}.ipynb").write_text(notebook(cells), encoding="utf-8")
        print(f"written: {name}.ipynb")
