"""A server made with the official SDK: `server.py` on standard input and output, `server.py PORT_FILE` over HTTP."""

import asyncio
import os
import socket
import sys

from pydantic import BaseModel

try:
    from mcp.server.mcpserver import MCPServer
    from mcp.server.mcpserver.exceptions import ToolError
except ImportError:  # the SDK of the older era
    from mcp.server.fastmcp import FastMCP as MCPServer
    from mcp.server.fastmcp.exceptions import ToolError

server = MCPServer("sdk")


class Sum(BaseModel):
    sum: int


@server.tool()
def add(a: int, b: int) -> Sum:
    """Adds two numbers."""
    return Sum(sum=a + b)


@server.tool()
def fail(reason: str) -> str:
    """Fails."""
    raise ToolError(reason)


@server.tool()
def variables() -> str:
    """Names the variables of its environment."""
    return " ".join(sorted(os.environ))


def serve_http(port_file: str) -> None:
    import uvicorn

    listener = socket.create_server(("127.0.0.1", 0))
    # The rename makes the port appear whole or not at all.
    with open(port_file + ".new", "w") as file:
        file.write(str(listener.getsockname()[1]))
    os.rename(port_file + ".new", port_file)
    print("ready", flush=True)
    config = uvicorn.Config(server.streamable_http_app(), log_level="error")
    asyncio.run(uvicorn.Server(config).serve(sockets=[listener]))


if __name__ == "__main__":
    if len(sys.argv) > 1:
        serve_http(sys.argv[1])
    else:
        server.run("stdio")
