"""For mkdocstrings: array annotations as they stand in the source, `Float[Array, "batch source"]`."""

import ast
from typing import Any

import griffe


class ArrayAxes(griffe.Extension):
    """Keeps the axes of jaxtyping's annotations in their quotes: griffe takes a lone axis for the name of a type."""

    def on_function_instance(self, *, func: griffe.Function, node: Any = None, **_: Any) -> None:
        """Restore the annotations of a function's parameters and of what it returns."""
        if not isinstance(node, ast.FunctionDef):
            return
        arguments = node.args
        for argument in [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]:
            func.parameters[argument.arg].annotation = _restored(
                argument.annotation, func.parameters[argument.arg].annotation
            )
        func.returns = _restored(node.returns, func.returns)

    def on_attribute_instance(self, *, attr: griffe.Attribute, node: Any = None, **_: Any) -> None:
        """Restore the annotation of an attribute."""
        if isinstance(node, ast.AnnAssign):
            attr.annotation = _restored(node.annotation, attr.annotation)


def _restored(source: ast.expr | None, parsed: Any) -> Any:
    if source is None or parsed is None:
        return parsed
    for node in ast.walk(source):
        if isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Tuple) and len(node.slice.elts) == 2:
            axes = node.slice.elts[1]
            if isinstance(axes, ast.Constant) and isinstance(axes.value, str):
                return ast.unparse(source).replace("'", '"')
    return parsed
