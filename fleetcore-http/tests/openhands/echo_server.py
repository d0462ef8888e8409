"""The tool server of the recordings."""

import os

from fastmcp import FastMCP

mcp = FastMCP("echo")


@mcp.tool
def echo(text: str) -> str:
    """Echo the text back"""
    return text


@mcp.tool
def add(a: int, b: int = 1) -> int:
    """Add two integers"""
    return a + b


@mcp.tool
def fail() -> str:
    """Always fails"""
    raise ValueError("nope")


@mcp.tool
def getenv(name: str) -> str:
    """Read an env var"""
    return os.environ.get(name, "")


mcp.run()
