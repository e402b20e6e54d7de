"""A hub on this machine: the HTTP calls that huggingface_hub makes to create, fill and read models.

Written after the client's own source (huggingface_hub 2.4: hf_api, _commit_api, lfs,
file_download). Large files go by LFS and come back through a redirect to another host name, as from
the real hub's storage. ``Fault`` spoils chosen requests.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import socket
import struct
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from hub_contents import (
    Fault,
    File,
    Hub,
    Json,
    Repository,
    card_errors,
    is_large,
    tree_entries,
)


class Answer(Exception):
    """Ends a request."""

    def __init__(self, status: int, content: Any = None, headers: dict[str, str] | None = None):
        super().__init__(status)
        self.status, self.headers = status, dict(headers or {})
        is_bytes = isinstance(content, bytes)
        self.body = content if is_bytes else json.dumps({} if content is None else content).encode()
        self.headers.setdefault(
            "Content-Type", "application/octet-stream" if is_bytes else "application/json"
        )


class Dropped(Exception):
    """The connection ends here, without an answer."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        self._answer()

    do_HEAD = do_POST = do_PUT = do_GET

    def _answer(self) -> None:
        path = urlsplit(self.path).path
        call, body = f"{self.command} {unquote(path)}", b""
        fault = self._fault(call)
        try:
            if fault is not None and not fault.done_first:
                body = self._read(fault.after_bytes)
                self._spoil(fault)
            body += self._read()
            with self.hub.lock:
                self._route(self.command, path, body)
            raise Answer(404, {"error": "no such page"}, {"X-Error-Code": "EntryNotFound"})
        except Answer as answer:
            if fault is not None and fault.done_first:
                self.hub.received.append((call, str(self.headers), body))
                self._drop()
                return
            self._read()  # a body left unread would spoil the next request of this connection
            self.hub.received.append((call, str(self.headers), body))
            self.send_response(answer.status)
            for name, value in answer.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", answer.headers.get("X-Size", str(len(answer.body))))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(answer.body)
        except Dropped:
            self.hub.received.append((call, str(self.headers), body))
            self._drop()

    def _fault(self, call: str) -> Fault | None:
        with self.hub.lock:
            for fault in self.hub.faults:
                if fault.times > 0 and re.search(fault.where, call):
                    fault.times -= 1
                    return fault
        return None

    def _spoil(self, fault: Fault) -> None:
        time.sleep(fault.seconds)
        if fault.as_page:
            raise Answer(fault.status or 200, b"<html>hello</html>", {"Content-Type": "text/html"})
        if fault.status is not None:
            content = {"error": fault.error} if fault.error else None
            raise Answer(fault.status, content, fault.headers)
        if not fault.seconds:
            raise Dropped

    def _read(self, most: int | None = None) -> bytes:
        left = int(self.headers.get("Content-Length") or 0) - getattr(self, "_got", 0)
        if "chunked" in (self.headers.get("Transfer-Encoding") or ""):
            raise AssertionError("the client was not expected to send chunks")
        body = self.rfile.read(left if most is None else min(left, most))
        self._got = getattr(self, "_got", 0) + len(body)
        return body

    def parse_request(self) -> bool:
        self._got = 0
        return super().parse_request()

    def _drop(self) -> None:
        """Reset: what a dying network does, not an orderly end."""
        linger = struct.pack("ii", 1, 0)
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.close_connection = True
        self.connection.close()
        self.rfile.close()

    # --- the hub's pages

    def _route(self, method: str, path: str, body: bytes) -> None:
        if path == "/api/validate-yaml":
            errors = card_errors(json.loads(body)["content"])
            found = [{"message": error} for error in errors]
            raise Answer(400 if errors else 200, {"errors": found, "warnings": []})
        if path == "/api/repos/create":
            self._create(json.loads(body))
        if match := re.fullmatch(r"/lfs/(upload|verify|part/\d+|complete|get)/(\w+)", path):
            self._large(method, match[1], match[2], body)
        if match := re.fullmatch(r"/([^/]+/[^/]+)\.git/info/lfs/objects/batch", path):
            self._repository(match[1], write=True)
            objects = [self._batch(item) for item in json.loads(body)["objects"]]
            raise Answer(200, {"transfer": "basic", "objects": objects})
        if match := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            self._resolve(match[1], unquote(match[2]), unquote(match[3]))
        if match := re.fullmatch(
            r"/api/models/([^/]+/[^/]+)(?:/(\w+))?(?:/([^/]+))?(?:/.*)?", path
        ):
            repository = self._repository(match[1], write=method == "POST")
            revision = unquote(match[3] or "main")
            self._api(repository, match[1], match[2] or "revision", revision, body)

    def _is_known(self) -> bool:
        return self.headers.get("authorization") == f"Bearer {self.hub.token}"

    def _repository(self, repo_id: str, write: bool = False) -> Repository:
        if write and not self._is_known():
            message = "Invalid username or password."
            raise Answer(401, {"error": message}, {"X-Error-Message": message})
        found = self.hub.repositories.get(repo_id)
        if found is None or (found.private and not self._is_known()):
            message = {"error": "Repository not found"}
            raise Answer(
                404 if self._is_known() else 401, message, {"X-Error-Code": "RepoNotFound"}
            )
        return found

    def _create(self, asked: Json) -> None:
        if not self._is_known():
            message = "Invalid credentials in Authorization header"
            raise Answer(401, {"error": message}, {"X-Error-Message": message})
        repo_id = f"{asked['organization']}/{asked['name']}"
        url = {"url": f"{self.hub.endpoint}/{repo_id}"}
        if repo_id in self.hub.repositories:
            raise Answer(409, url | {"error": "You already created this model repo"})
        made = Repository(private=asked.get("visibility") == "private")
        made.commit("main", "initial commit", {".gitattributes": File(b"* text\n", False)})
        self.hub.repositories[repo_id] = made
        raise Answer(200, url)

    def _api(self, repo: Repository, repo_id: str, call: str, revision: str, body: bytes) -> None:
        if call == "branch":
            if revision in repo.branches:
                raise Answer(409, {"error": "Reference already exists"})
            repo.branches[revision] = [repo.branches["main"][0]]
            raise Answer(200)
        found = repo.at(revision)
        if found is None:
            raise Answer(404, {"error": "Revision Not Found"}, {"X-Error-Code": "RevisionNotFound"})
        oid, tree = found
        if call == "revision":
            siblings = [{"rfilename": name} for name in tree]
            known = {"id": repo_id, "sha": oid, "private": repo.private, "siblings": siblings}
            raise Answer(200, known | {"tags": [], "downloads": 0, "likes": 0})
        if call == "tree":
            raise Answer(
                200, tree_entries(tree, "recursive" in parse_qs(urlsplit(self.path).query))
            )
        if call == "preupload":
            ignored = tree.get(".gitignore", File(b"", False)).content.decode().split()
            files = [
                {
                    "path": (name := asked["path"]),
                    "uploadMode": "lfs" if is_large(name, asked["size"]) else "regular",
                    "shouldIgnore": name in ignored,
                    "oid": (tree[name].sha256 if tree[name].is_large else tree[name].oid)
                    if name in tree
                    else None,
                }
                for asked in json.loads(body)["files"]
            ]
            raise Answer(200, {"files": files})
        if call == "commit":
            self._commit(repo, repo_id, revision, tree, body)

    def _commit(
        self, repo: Repository, repo_id: str, branch: str, tree: dict[str, File], body: bytes
    ) -> None:
        changed, message = dict(tree), ""
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "header":
                message = value["summary"]
            elif line["key"] == "file":
                changed[value["path"]] = File(base64.b64decode(value["content"]), False)
            elif line["key"] == "lfsFile":
                changed[value["path"]] = File(self.hub.large[value["oid"]], True)
            elif line["key"] == "deletedFile":
                del changed[value["path"]]
        oid = repo.commit(branch, message, changed)
        url = f"{self.hub.endpoint}/{repo_id}/commit/{oid}"
        raise Answer(200, {"success": True, "commitOid": oid, "commitUrl": url})

    def _batch(self, item: Json) -> Json:
        oid, size, at = item["oid"], item["size"], f"{self.hub.endpoint}/lfs"
        if oid in self.hub.large:
            return {"oid": oid, "size": size}
        actions = {
            "upload": {"href": f"{at}/upload/{oid}?X-Amz-Signature=secret"},
            "verify": {"href": f"{at}/verify/{oid}"},
        }
        if part := self.hub.multipart_bytes:
            numbers = range(1, -(-size // part) + 1)
            header = {str(number): f"{at}/part/{number}/{oid}" for number in numbers}
            header["chunk_size"] = str(part)
            actions["upload"] = {"href": f"{at}/complete/{oid}", "header": header}  # type: ignore[dict-item]
        return {"oid": oid, "size": size, "actions": actions}

    def _large(self, method: str, step: str, oid: str, body: bytes) -> None:
        if step == "get":
            raise Answer(200, self.hub.large[oid])
        if step == "verify":
            known = len(self.hub.large.get(oid, b"")) == json.loads(body)["size"]
            raise Answer(200 if known else 404)
        if step.startswith("part/"):
            self.hub.large[f"{oid}/{step}"] = body
            raise Answer(200, None, {"ETag": hashlib.md5(body).hexdigest()})
        if step == "complete":
            numbers = [part["partNumber"] for part in json.loads(body)["parts"]]
            body = b"".join(self.hub.large.pop(f"{oid}/part/{number}") for number in numbers)
        if hashlib.sha256(body).hexdigest() != oid:
            raise Answer(400, {"error": "content does not match its oid"})
        self.hub.large[oid] = body
        raise Answer(200)

    def _resolve(self, repo_id: str, revision: str, name: str) -> None:
        found = self._repository(repo_id).at(revision)
        if found is None:
            raise Answer(404, {"error": "Revision Not Found"}, {"X-Error-Code": "RevisionNotFound"})
        oid, tree = found
        headers = {"X-Repo-Commit": oid}
        if name not in tree:
            lost = {"X-Error-Code": "EntryNotFound", "X-Error-Message": "Entry not found"}
            raise Answer(404, {"error": "Entry not found"}, headers | lost)
        file = tree[name]
        if not file.is_large:
            raise Answer(200, file.content, headers | {"ETag": f'"{file.oid}"'})
        storage = self.hub.endpoint.replace("127.0.0.1", "localhost")
        headers |= {
            "Location": f"{storage}/lfs/get/{file.sha256}",
            "X-Linked-Size": str(len(file.content)),
            "X-Linked-ETag": f'"{file.sha256}"',
        }
        raise Answer(302, None, headers)


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that is gone is no error of the hub's: some tests end theirs."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


@contextmanager
def running_hub() -> Iterator[Hub]:
    """A hub of its own on a free port."""
    server = Server(("127.0.0.1", 0), Handler)
    hub = Hub(f"http://127.0.0.1:{server.server_port}")
    server.RequestHandlerClass = type("ThisHub", (Handler,), {"hub": hub})
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
