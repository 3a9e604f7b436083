"""What the demo's workers can do on this machine: look at the disk, fetch a loopback page, calculate."""

from __future__ import annotations

import ast
import http.client
import operator
import shutil
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from langchain_core.tools import tool

if TYPE_CHECKING:
    from collections.abc import Callable

_PAGE_LIMIT = 4_000
_TIMEOUT_S = 10
_EXPRESSION_LIMIT = 200
_LARGEST = 10**12


@tool
def disk_usage(path: str) -> str:
    """Say how full the disk is that holds a path."""
    usage = shutil.disk_usage(path)
    share = usage.used / max(usage.total, 1)  # some file systems have no size
    return f"{path}: {share:.0%} used, {usage.free / 1e9:.1f} GB free of {usage.total / 1e9:.1f} GB"


@tool
def fetch_page(url: str) -> str:
    """Fetch a page of this machine over HTTP, such as http://127.0.0.1:8000/status."""
    parts = urlsplit(url)
    if parts.scheme != "http" or parts.hostname not in ("127.0.0.1", "localhost"):
        msg = f"{url} is not a page of this machine; give a http://127.0.0.1 address"
        raise ValueError(msg)
    connection = http.client.HTTPConnection(parts.hostname, parts.port or 80, timeout=_TIMEOUT_S)
    try:
        connection.request("GET", f"{parts.path or '/'}{'?' if parts.query else ''}{parts.query}")
        response = connection.getresponse()
        return f"HTTP {response.status}: {response.read(_PAGE_LIMIT).decode(errors='replace')}"
    finally:
        connection.close()


@tool
def calculate(expression: str) -> str:
    """Calculate with + - * / and brackets, such as 7*6."""
    if len(expression) > _EXPRESSION_LIMIT:
        msg = f"the expression has {len(expression)} characters; {_EXPRESSION_LIMIT} are the most"
        raise ValueError(msg)
    value = _value(ast.parse(expression, mode="eval").body)
    return str(value) if isinstance(value, int) else f"{value:.12g}"


_OPERATIONS: dict[type[ast.operator], Callable[[float, float], float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}


def _value(node: ast.expr) -> float:
    """Evaluate an expression of numbers and the four operations, and nothing else."""
    match node:
        case ast.Constant(value=int() | float() as number) if not isinstance(number, bool):
            if abs(number) <= _LARGEST:
                return number
            msg = f"{number:g} is too large; {_LARGEST:g} is the largest number"
            raise ValueError(msg)
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_value(operand)
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATIONS:
            return _OPERATIONS[type(op)](_value(left), _value(right))
    msg = f"{ast.unparse(node)!r} is not a number or one of + - * /"
    raise ValueError(msg)


TOOLS = [disk_usage, fetch_page, calculate]
