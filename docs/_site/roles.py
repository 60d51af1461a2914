"""Griffe extension: cross-references as docstrings write them, :func:`name`, become links of the site."""

from __future__ import annotations

import re
from typing import Any

import griffe

ROLE = re.compile(r":(?:attr|class|data|func|meth|mod):`~?(?P<name>[\w.]+)`")


class Roles(griffe.Extension):
    """Rewrites the roles in the docstrings of a package once it is loaded."""

    def on_package(self, *, pkg: griffe.Module, **kwargs: Any) -> None:
        """Visit everything that the package defines."""
        rewrite(pkg)


def rewrite(item: griffe.Object) -> None:
    """Rewrite the roles in an object's docstring and in those of its members."""
    if item.docstring is not None:
        item.docstring.value = ROLE.sub(lambda role: link(role["name"], item), item.docstring.value)
    for member in item.members.values():
        if not member.is_alias:
            rewrite(member)


def link(name: str, scope: griffe.Object) -> str:
    """The name as code, and as a link where the site has a page on it."""
    target = resolved(name, scope)
    code = f"<code>{name}</code>"
    # `optional`: names that no page documents stay code, without a warning.
    return f'<autoref optional identifier="{target}">{code}</autoref>' if target else code


def resolved(name: str, scope: griffe.Object) -> str | None:
    """The full path of what a name means in an object's docstring; None if nothing is found."""
    try:
        first, *rest = name.split(".")
        path = ".".join([scope.resolve(first), *rest]) if first != "lad" else name
        found = scope.modules_collection[path]
        return found.final_target.path if found.is_alias else found.path
    except (griffe.GriffeError, KeyError):
        return None
