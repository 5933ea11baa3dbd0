"""A client made with the official SDK. `client.py MODE KEY URL` or `client.py MODE - COMMAND ARGUMENT...`; prints JSON:
the protocol's version, the tools, and the answer to each call that standard input asks for, one JSON list a line."""

import asyncio
import json
import os
import sys

import httpx2
from mcp import Client, MCPError, StdioServerParameters
from mcp.client.streamable_http import streamable_http_client


def server(key: str, target: list[str]):
    if key == "-":
        return StdioServerParameters(command=target[0], args=target[1:], env=dict(os.environ))
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    return streamable_http_client(target[0], http_client=httpx2.AsyncClient(headers=headers, timeout=60))


async def main(mode: str, key: str, target: list[str]) -> None:
    async with Client(server(key, target), mode=mode) as client:
        listed = (await client.list_tools()).tools
        answers = []
        for line in sys.stdin:
            name, arguments = json.loads(line)
            try:
                answer = await client.call_tool(name, arguments)
                text = "\n".join(block.text for block in answer.content)
                answers.append({"text": text, "json": answer.structured_content, "error": bool(answer.is_error)})
            except MCPError as error:
                answers.append({"refused": str(error)})
        tools = [{"name": tool.name, "schema": tool.input_schema} for tool in listed]
        print(json.dumps({"version": client.protocol_version, "tools": tools, "answers": answers}))


asyncio.run(main(sys.argv[1], sys.argv[2], sys.argv[3:]))
