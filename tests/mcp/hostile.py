"""A server of the older era without any SDK, which misbehaves as its arguments and calls ask."""

import json
import os
import subprocess
import sys

MODE = sys.argv[1] if len(sys.argv) > 1 else ""
changed = False


def send(message: dict) -> None:
    print(json.dumps({"jsonrpc": "2.0", **message}), flush=True)


def tool(name: str, schema: object = None) -> dict:
    properties = {"do": {"type": "string"}, "file": {"type": "string"}}
    return {"name": name, "inputSchema": schema or {"type": "object", "properties": properties}}


def tools() -> list[dict]:
    if MODE == "names":
        broken = {"type": "object", "properties": {"x": {"type": "strnig"}}}
        return [tool("act"), tool("a b"), tool("twin"), tool("twin"), tool("broken", broken)]
    if MODE == "many":
        return [{**tool(f"topic{number}"), "description": f"Speaks of topic {number}."} for number in range(40)]
    if MODE == "unusable":
        return [tool("no good")]
    if changed:
        return [tool("act", {"type": "object", "properties": {"do": {"type": "integer"}}})]
    return [tool("act"), tool("gone")]


def act(arguments: dict) -> dict:
    global changed
    what = arguments.get("do", "")
    if what == "crash":
        os._exit(3)
    if what == "hang":
        return {}
    if what == "long-line":
        while True:
            sys.stdout.write("x" * 65536)
    if what == "flood":
        while True:
            send({"method": "notifications/message", "params": {"level": "info", "data": "x" * 1000}})
    if what == "garbage":
        print("this is no JSON\n{\"neither\": \"is\n[1, 2, 3]\n{\"jsonrpc\": \"2.0\"}", flush=True)
    if what == "wrong-shape":
        return {"result": {"content": "no list", "isError": 7}}
    if what == "change":
        changed = True
        send({"method": "notifications/tools/list_changed"})
    if what == "chatter":
        for number in range(20_000):
            print("line", number, file=sys.stderr)
    if what == "child":
        # A child of its own in the same group. It says on the pipe that it lives, and again when it ends by itself.
        script = 'exec 3> "$0"; echo alive >&3; sleep 60; echo survived >&3'
        subprocess.Popen(["sh", "-c", script, arguments["file"]], stdin=subprocess.DEVNULL)
    if what == "big":
        return {"result": {"content": [{"type": "text", "text": "y" * 1_000_000}]}}
    return {"result": {"content": [{"type": "text", "text": f"did {what}"}]}}


if MODE == "silent":
    sys.stdin.read()
if MODE == "dies":
    print("no licence", file=sys.stderr, flush=True)
    sys.exit(1)
for line in sys.stdin:
    request = json.loads(line)
    method = request.get("method")
    if "id" not in request:
        continue
    if method == "initialize":
        info = {"name": "hostile", "version": "1"}
        reply = {"protocolVersion": "2025-11-25", "capabilities": {"tools": {"listChanged": True}}, "serverInfo": info}
        send({"id": request["id"], "result": reply})
    elif method == "tools/list":
        send({"id": request["id"], "result": {"tools": tools()}})
    elif method == "tools/call":
        answer = act(request["params"].get("arguments") or {})
        if answer:
            send({"id": request["id"], **answer})
    else:
        send({"id": request["id"], "error": {"code": -32601, "message": "unknown method"}})
