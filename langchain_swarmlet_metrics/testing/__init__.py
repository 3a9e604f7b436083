"""Doubles for users' own tests: a loopback server that speaks the OpenAI API."""

from __future__ import annotations

from langchain_swarmlet_metrics.testing.openai_server import OpenAIServer, Request
from langchain_swarmlet_metrics.testing.openai_wire import Reply, ToolRequest, Usage

__all__ = ["OpenAIServer", "Reply", "Request", "ToolRequest", "Usage"]
