"""Which changes touch nothing but the words of a sentence, whose wording no test should hold."""

from __future__ import annotations

import ast

__all__ = ["WORDLESS", "meaning"]

WORDLESS = "…"


class _Silent(ast.NodeTransformer):
    """Puts one sign in the place of every text with a space in it: names and formats have none."""

    def visit_Constant(self, node: ast.Constant) -> ast.Constant:
        spoken = isinstance(node.value, str) and " " in node.value.strip()
        return ast.Constant(WORDLESS) if spoken else node

    def visit_JoinedStr(self, node: ast.JoinedStr) -> ast.JoinedStr:
        values = [
            ast.Constant(WORDLESS) if isinstance(value, ast.Constant) else self.visit(value)
            for value in node.values
        ]
        return ast.JoinedStr(values)


def meaning(function: ast.AST) -> str:
    """The tree of a function, equal for two that differ in their name or in words alone."""
    silent = _Silent().visit(function)
    silent.name = ""
    return ast.dump(silent)
