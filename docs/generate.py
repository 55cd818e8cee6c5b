"""Writes what the documentation takes from the code: docs/recipes.md, and the signatures in docs/plugins.md.

    python docs/generate.py

A test compares both with what this gives. Built-in components alone are documented, whatever is installed.
"""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from metriclab import api
from metriclab.core import protocols
from metriclab.recipe.check import DEFAULTS, REQUIRED, TAKEN_BY_METHODS
from metriclab.recipe.losses import LossOptions
from metriclab.recipe.train import parameters
from metriclab.registry import KINDS, Definition, Kind, Parameter, entries, load_component
from metriclab.registry.entry import is_builtin
from metriclab.registry.toml import toml_value

FOLDER = Path(__file__).parent
COMPONENTS = {
    "encoder": "nn.Module",  # with `out_features`
    "head": "nn.Module",
    "optimizer": "Optimizer",
    "schedule": "Callable[[int], float]",
}
"""What a component is where no class in `core.protocols` says it."""

PARTS = ("Rows", "Keys", "Pairs", "Term", "Batch", "Images", "Embedded", "Objective", "Score", "EvaluatedEncoder")
"""What components are given and give, as `metriclab.api` has it."""

_MARKED = re.compile(r"(<!-- from the code: (?P<name>[\w-]+) -->\n)```python\n.*?```\n", re.DOTALL)

HEAD = """\
# What recipes can name

Every built-in component: its parameters, with type, default and meaning, and its paper. Written from the code by
`python docs/generate.py`; `metriclab show KIND NAME` prints the same of any component, a plugin's included.

A recipe has a table a component: `name`, and that component's parameters. The tables {required} must be
there; {defaults} have a default. A method says which of {asked} it takes. Outside of all tables stand
`extends = "base.toml"`, a recipe whose tables stand in for those left out, and `requires = ["metriclab-circle>=0.1"]`,
the packages that must be installed.
"""


def recipes_page() -> str:
    """docs/recipes.md."""
    defaults = {table: value for table, value in DEFAULTS.items() if isinstance(value, dict)}
    texts = [f"`{KINDS_BY_TABLE[table].header}` ({value['name']})" for table, value in defaults.items()]
    texts += [f"`[[{table}]]` ({_names(DEFAULTS[table])})" for table in DEFAULTS if table not in defaults]
    head = HEAD.format(
        required=_listed([*(f"`{KINDS[kind].header}`" for kind in REQUIRED), "`[train]`"]),
        defaults=_listed(texts),
        asked=_listed([f"`{KINDS[kind].header}`" for kind in TAKEN_BY_METHODS]),
    )
    kinds = [text for kind in KINDS.values() for text in (_kind(kind), *([_several()] if kind.name == "loss" else []))]
    return "\n".join([_filled(head), *kinds, _train()])


KINDS_BY_TABLE = {kind.table: kind for kind in KINDS.values()}


def _names(tables: list[dict[str, Any]]) -> str:
    return ", ".join(table["name"] for table in tables)


def _listed(texts: list[str]) -> str:
    return f"{', '.join(texts[:-1])} and {texts[-1]}"


def _filled(text: str) -> str:
    """Its paragraphs at 120 characters a line."""
    fill = textwrap.TextWrapper(120, break_long_words=False, break_on_hyphens=False).fill
    return "\n\n".join(fill(part) for part in text.strip().split("\n\n")) + "\n"


def _kind(kind: Kind) -> str:
    built_in = [load_component(kind.name, entry.name) for entry in entries(kind.name) if is_builtin(entry)]
    return "\n".join([f"## {kind.name.capitalize()} `{kind.header}`\n", *map(_component, built_in)])


def _component(definition: Definition) -> str:
    parts = [f"### {definition.entry.name}", definition.summary]
    if definition.paper:
        parts.append(f"Paper: {definition.paper}")
    if definition.components:
        tables = (
            f"`{KINDS[part.kind].header}`{'' if part.required else ' (optional)'}"
            for part in definition.components.values()
        )
        parts.append(f"Takes {', '.join(tables)}.")
    text = "\n\n".join([parts[0], *(_filled(part).strip() for part in parts[1:])]) + "\n"
    return f"{text}\n{_table(definition.parameters)}" if definition.parameters else text


SEVERAL = """\
## Several losses `[[loss]]`

Losses add up. Each table of a list names one, with its own parameters and the keys below; a key that the loss has too
is the loss's. In place of `[miner]` each loss may have a `miner` of its own, and a second table of one name is called
something else by `as`. All else is as with one loss: memories, `train.chunk`, any number of ranks, resuming.

A run logs each loss by its name, with the length of its prefix where `dims` is a list: `loss.NAME` is what it would log
with that loss alone, and `gradient_norm.NAME` the norm of that loss's gradient with respect to the embeddings z, along
the sphere. Both are taken before the weight.

```toml
[[loss]]                        # images whose class is known, on each prefix of the embedding
name = "supcon"
dims = [8, 16, 32]

[[loss]]                        # all images: two views of one are alike, whatever their class
name = "nt-xent"
weight = 0.5
labels = "item"

[[loss]]
name = "contrastive"
as = "hard"
miner = { name = "semihard-pairs" }
```

With a method that goes by classes, such as `supervised` or `xbm`, `labels = "item"` brings in images of unknown class,
and [views] makes two or more of each. Where `supervised` has a memory of class centres, such a loss is held against the
batch by `against = "batch"`. The evaluator `prefixes` measures an embedding's leading dimensions;
`recipes/matryoshka.toml` is a whole recipe. In Python it is `metriclab.losses.Composite`, `Part` and `matryoshka`.
"""


def _several() -> str:
    return f"{SEVERAL}\n{_table(parameters(LossOptions))}"


def _train() -> str:
    text = "## Train `[train]`\n\nThe settings of the loop. Either `steps` or `epochs` is given."
    return f"{text}\n\n{_table(parameters())}"


def _table(parameters: Any) -> str:
    lines = ["| parameter | type | default | meaning |", "| --- | --- | --- | --- |"]
    return "\n".join([*lines, *(f"| {' | '.join(_cells(parameter))} |" for parameter in parameters), ""])


def _cells(parameter: Parameter) -> Iterator[str]:
    default = "not set" if parameter.default is None else "required"
    if parameter.default is not None and not parameter.required:
        default = f"`{toml_value(parameter.default)}`"
    for cell in (f"`{parameter.name}`", f"`{parameter.type_text}`", default, parameter.help):
        yield cell.replace("|", r"\|")


def signature(name: str) -> str:
    """The block of code for a kind, or for one of `PARTS`."""
    return _protocol(KINDS[name]) if name in KINDS else outline(getattr(api, name))


def _protocol(kind: Kind) -> str:
    """How a component of this kind is written, and what it has to be."""
    component = COMPONENTS.get(kind.name, kind.name.capitalize())
    given = [f"{name}: {_annotations()[name]}" for name in kind.given]
    forms = [_form(given, component)]
    if kind.optional:
        forms.append(_form(given[: -kind.optional], component))
    what = "" if kind.name in COMPONENTS else f"\n\n\n{outline(getattr(protocols, component))}"
    return "\n".join(forms) + what


def _form(given: list[str], component: str) -> str:
    return f"def mine({', '.join([*given, *(['/'] if given else []), '*', 'key: float = 1.0'])}) -> {component}: ..."


def _annotations() -> dict[str, str]:
    """The type of everything that a run gives by position, as the built-in components have it."""
    found: dict[str, str] = {}
    for entry in filter(is_builtin, entries()):
        for name, parameter in inspect.signature(load_component(entry.kind, entry.name).factory).parameters.items():
            if parameter.kind is parameter.POSITIONAL_ONLY:
                found[name] = str(parameter.annotation).replace("'", '"')
    return {**found, "split": 'Literal["train", "val", "test"]'}  # which metriclab calls Split


def outline(of: type[Any]) -> str:
    """A class without its texts and bodies: attributes, and the signatures of public methods and of calls."""
    source = textwrap.dedent(inspect.getsource(of))
    (tree,) = ast.parse(source).body
    assert isinstance(tree, ast.ClassDef)
    decorators = [ast.unparse(decorator) for decorator in tree.decorator_list if "dataclass" in ast.unparse(decorator)]
    bases = ", ".join(ast.unparse(base) for base in tree.bases)
    lines = [f"@{decorator}" for decorator in decorators] + [f"class {tree.name}{f'({bases})' if bases else ''}:"]
    after_attributes = False
    for node in tree.body:
        if isinstance(node, ast.AnnAssign):
            lines.append(f"    {ast.unparse(node)}")
            after_attributes = True
        elif isinstance(node, ast.FunctionDef) and (not node.name.startswith("_") or node.name == "__call__"):
            lines += [""] if after_attributes else []
            after_attributes = False
            lines += [f"    @{ast.unparse(decorator)}" for decorator in node.decorator_list]
            assert node.returns is not None
            arguments = re.sub(r"(?<=[\w\]])=(?=\S)", " = ", ast.unparse(node.args))
            line = f"    def {node.name}({arguments}) -> {ast.unparse(node.returns)}: ..."
            wrapped = f"    def {node.name}(\n        {arguments}\n    ) -> {ast.unparse(node.returns)}: ..."
            if len(arguments) > 112:  # then one a line, as the formatter has it
                each = "".join(f"        {one},\n" for one in re.split(r", (?![^\[]*\])", arguments))
                wrapped = f"    def {node.name}(\n{each}    ) -> {ast.unparse(node.returns)}: ..."
            lines.append(line if len(line) <= 120 else wrapped)
    return "\n".join(lines).replace("'", '"')


def plugins_page(text: str, block: Callable[[str], str] = signature) -> str:
    """docs/plugins.md with its signatures taken anew from the code."""
    return _MARKED.sub(lambda match: f"{match[1]}```python\n{block(match['name'])}\n```\n", text)


def documented(text: str) -> list[str]:
    """The names of all blocks that are taken from the code."""
    return [match["name"] for match in _MARKED.finditer(text)]


if __name__ == "__main__":
    (FOLDER / "recipes.md").write_text(recipes_page(), encoding="utf-8")
    plugins = FOLDER / "plugins.md"
    plugins.write_text(plugins_page(plugins.read_text("utf-8")), encoding="utf-8")
