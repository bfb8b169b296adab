"""What stores raise becomes the error of whoever must act: a real S3 client against servers that refuse, fail or are not there."""

from __future__ import annotations

import json
import os
import subprocess
import sys

from tests.fixtures.web import WebServer

ASK = """
import json, os, sys, s3fs
from protheon_dask.errors import ProtheonError
from protheon_dask.workspace.source import identify, resolve
told = {}
for name, env in json.loads(sys.argv[1]).items():
    for variable in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        os.environ.pop(variable, None)
    os.environ.update(env)
    s3fs.S3FileSystem.clear_instance_cache()
    for ask in (lambda url: resolve([url]), identify):
        try:
            ask("s3://bucket/a.zst")
        except ProtheonError as exc:
            told.setdefault(name, []).append([type(exc).__name__, str(exc)])
print(json.dumps(told))
"""
NO_S3FS = """
import sys
sys.modules["s3fs"] = None
from protheon_dask.errors import MissingSetting
from protheon_dask.workspace.source import resolve
try:
    resolve(["s3://bucket/a.zst"])
except MissingSetting as exc:
    print(exc)
"""


def run(code: str, *arguments: str) -> str:
    """In a process of its own: s3fs keeps clients and reads the environment when it makes them."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    env = {**kept, "AWS_EC2_METADATA_DISABLED": "true", "AWS_MAX_ATTEMPTS": "1", "AWS_DEFAULT_REGION": "us-east-1", "HOME": "/nonexistent"}
    command = [sys.executable, "-P", "-c", code, *arguments]
    return subprocess.run(command, env=env, capture_output=True, check=True, text=True, timeout=60).stdout


def test_errors_of_an_s3_store_say_who_must_act_and_no_secret(web_server: WebServer) -> None:
    for status in (403, 500):
        for path in ("/bucket", "/bucket/a.zst"):
            web_server.add(f"/{status}{path}", b"", status=status)
    keys = {"AWS_ACCESS_KEY_ID": "AKIAEXAMPLE", "AWS_SECRET_ACCESS_KEY": "tops3cretkey"}
    cases = {
        "forbidden": {**keys, "AWS_ENDPOINT_URL": web_server.url("/403")},
        "failing": {**keys, "AWS_ENDPOINT_URL": web_server.url("/500")},
        "nobody there": {**keys, "AWS_ENDPOINT_URL": "http://127.0.0.1:1"},
        "no credentials": {"AWS_ENDPOINT_URL": web_server.url("/403")},
    }
    text = run(ASK, json.dumps(cases))
    told = json.loads(text)
    assert {name: {kind for kind, _ in errors} for name, errors in told.items()} == {
        "forbidden": {"ConfigError"},
        "failing": {"SourceUnavailable"},
        "nobody there": {"SourceUnavailable"},
        "no credentials": {"ConfigError"},
    }
    assert all(len(errors) == 2 and message.startswith("s3://bucket/a.zst: ") for errors in told.values() for _, message in errors)
    assert "set them in the environment of the master" in told["no credentials"][0][1]
    assert "tops3cretkey" not in text


def test_a_missing_extra_is_named() -> None:
    assert "pip install 'protheon-dask[s3]'" in run(NO_S3FS)
