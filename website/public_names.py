"""The library's public names, read from its source: what the API reference has a page for."""

import ast
import functools
from pathlib import Path
from typing import NamedTuple

SOURCE = Path(__file__).parent.parent / "src"

MODULES = (
    "encdec_eqx",
    "encdec_eqx.text",
    "encdec_eqx.training",
    "encdec_eqx.training.cluster",
    "encdec_eqx.training.data",
    "encdec_eqx.training.job",
    "encdec_eqx.training.metrics",
    "encdec_eqx.training.optim.muon_adafactor",
    "encdec_eqx.training.reporting.log",
    "encdec_eqx.training.resume",
    "encdec_eqx.doctor",
    "encdec_eqx.plotting",
    "encdec_eqx.alignment",
    "encdec_eqx.conversion",
    "encdec_eqx.verification",
    "encdec_eqx.serve",
    "encdec_eqx.params.sharding",
    "encdec_eqx.generation.constraints",
    "encdec_eqx.generation.processors",
    "encdec_eqx.layers.attention_backend",
    "encdec_eqx.hf",
    "encdec_eqx.hf.family",
    "encdec_eqx.hf.attributes",
    "encdec_eqx.hf.names",
    "encdec_eqx.hf.rope_scaling",
    "encdec_eqx.hf.files.gguf_file",
)
"""What users import from, in the order of the reference. A name that one of them gains is documented by itself."""


class PublicName(NamedTuple):
    """A name that users import.

    Attributes:
        module: where they import it from.
        name: the name.
        home: the module that defines it.
    """

    module: str
    name: str
    home: str

    @property
    def path(self) -> str:
        """By which the source is found: of what is defined elsewhere, there."""
        return f"{self.home}.{self.name}"


def file_of(module: str) -> Path:
    """A module's file."""
    path = SOURCE.joinpath(*module.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


@functools.cache
def _parsed(module: str) -> ast.Module:
    return ast.parse(file_of(module).read_text(encoding="utf-8"))


def is_module(name: str) -> bool:
    """Whether a dotted name is a module or a package."""
    return file_of(name).is_file()


def public_names(module: str) -> list[PublicName]:
    """What a module defines, and what it hands on (`from .x import Y as Y`), in their order.

    Constants count where a docstring stands below them.
    """
    package = module if file_of(module).name == "__init__.py" else module.rpartition(".")[0]
    found = {}
    for node, following in _statements(_parsed(module).body):
        for name, home in _defined(node, following, module, package):
            if not name.startswith("_") and not is_module(f"{home}.{name}"):
                found[name] = PublicName(module, name, home if home == module else _origin(home, name))
    return list(found.values())


def _origin(home: str, name: str) -> str:
    """Where a name is really defined: modules hand on what other modules hand on."""
    return next((each.home for each in public_names(home) if each.name == name), home)


def _statements(body: list[ast.stmt]) -> list[tuple[ast.stmt, ast.stmt | None]]:
    """Each statement and the one below it, those under `if TYPE_CHECKING` among them."""
    pairs = []
    for node, following in zip(body, [*body[1:], None], strict=True):
        pairs.extend(_statements(node.body) if isinstance(node, ast.If) else [(node, following)])
    return pairs


def _defined(node: ast.stmt, following: ast.stmt | None, module: str, package: str) -> list[tuple[str, str]]:
    if isinstance(node, ast.ClassDef | ast.FunctionDef):
        return [(node.name, module)]
    if isinstance(node, ast.ImportFrom) and node.level:
        ancestors = package.split(".")
        home = ".".join([*ancestors[: len(ancestors) - node.level + 1], *filter(None, [node.module])])
        return [(alias.name, home) for alias in node.names if alias.asname == alias.name]
    if isinstance(node, ast.Assign | ast.AnnAssign) and _is_docstring(following):
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        return [(target.id, module) for target in targets if isinstance(target, ast.Name)]
    return []


def _is_docstring(node: ast.stmt | None) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def summary(text: str | None) -> str:
    """The first sentence of a docstring."""
    first = " ".join((text or "").split("\n\n")[0].split())
    end = first.find(". ")
    return first if end < 0 else first[: end + 1]


def docstring(name: PublicName) -> str | None:
    """The docstring of a public name, from the source of where it is defined."""
    for node, following in _statements(_parsed(name.home).body):
        if name.name in (found for found, _ in _defined(node, following, name.home, name.home)):
            if isinstance(node, ast.ClassDef | ast.FunctionDef):
                if ast.get_docstring(node) is None:
                    continue  # an overload: the last definition has it
                return ast.get_docstring(node)
            if isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant):
                return str(following.value.value)
    return None


def module_docstring(module: str) -> str:
    """What a module says of itself."""
    return ast.get_docstring(_parsed(module)) or ""


def array_types() -> list[tuple[str, str]]:
    """The array types that have a name, as annotations use them, and what they stand for."""
    body = _parsed("encdec_eqx._typing").body
    assigned = [node for node in body if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)]
    return [
        (node.targets[0].id, ast.unparse(node.value).replace("'", '"'))
        for node in assigned
        if not node.targets[0].id.startswith("_") and not isinstance(node.value, ast.Name | ast.Call)
    ]
