"""Sinks, clock, progress board, log lines and probes."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import re
import time
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from securetrain.api.gateway import ProgressReport
from securetrain_operator import app, health
from securetrain_operator.adapters.clock import SystemClock
from securetrain_operator.adapters.progress import MemoryProgress
from securetrain_operator.adapters.sinks import FileSink, StreamSink
from securetrain_operator.errors import SinkUnavailable
from securetrain_operator.logs import JsonFormatter


async def test_sinks_append_one_line_per_record(tmp_path: Path) -> None:
    stream, path = io.StringIO(), tmp_path / "audit.jsonl"
    for sink in (StreamSink(stream), FileSink(path)):
        await sink.write(['{"a":1}', '{"b":"ü"}'])
        await sink.write(['{"c":3}'])
    assert stream.getvalue() == '{"a":1}\n{"b":"ü"}\n{"c":3}\n'
    assert path.read_text() == stream.getvalue()
    assert path.stat().st_mode & 0o007 == 0


async def test_a_sink_that_takes_nothing_says_so(tmp_path: Path) -> None:
    closed = io.StringIO()
    closed.close()
    for sink in (StreamSink(closed), FileSink(tmp_path / "absent" / "audit.jsonl")):
        with pytest.raises(SinkUnavailable, match="takes no records"):
            await sink.write(["line-that-is-not-in-the-message"])


def test_the_clock_tells_utc() -> None:
    clock = SystemClock()
    assert abs(clock.now() - time.time()) < 5
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", clock.rfc3339())


def test_progress_keeps_the_newest_report_of_the_newest_pod() -> None:
    board = MemoryProgress()
    first, second = (ProgressReport(sequence=n, summary=f"epoch {n}") for n in (1, 2))
    assert board.put("job", "pod-1", second, "t2")
    assert not board.put("job", "pod-1", second, "t3")
    assert not board.put("job", "pod-1", first, "t3")
    assert board.latest("job") == (second, "t2")
    assert board.put("job", "pod-2", first, "t4")
    assert board.latest("job") == (first, "t4")
    board.forget("job")
    assert board.latest("job") is None


def test_log_lines_hold_allowed_fields_only_and_no_exception_text() -> None:
    try:
        raise ValueError("hvs.token")
    except ValueError as error:
        info = (type(error), error, error.__traceback__)
    record = logging.LogRecord("x", logging.ERROR, "f.py", 1, "it %s", ("failed",), info)
    record.job_uid = "u-1"
    record.token = "hvs.other"
    line = JsonFormatter().format(record)
    assert "hvs." not in line
    parsed = json.loads(line)
    assert parsed["message"] == "it failed"
    assert parsed["job_uid"] == "u-1"
    assert parsed["error"].startswith("ValueError at test_adapters_small.py")
    assert set(parsed) == {"time", "level", "logger", "message", "job_uid", "error"}


async def test_probes_name_the_checks_that_fail() -> None:
    state = {"synced": False}
    probes = health.application({"queue": lambda: True}, {"synced": lambda: state["synced"]})
    async with TestClient(TestServer(probes)) as client:
        assert (await client.get("/livez")).status == 200
        answer = await client.get("/readyz")
        assert answer.status == 503
        assert await answer.json() == {"failing": ["synced"]}
        state["synced"] = True
        assert (await client.get("/readyz")).status == 200


@pytest.mark.parametrize("said", [b"", b"GET /livez HTTP/1.1\r\n", b"GET /livez HTTP/1.1\r\n\r\n"])
async def test_a_connection_without_a_request_is_closed(
    monkeypatch: pytest.MonkeyPatch, said: bytes
) -> None:
    assert app.IDLE_SECONDS <= 15
    monkeypatch.setattr(app, "IDLE_SECONDS", 0.2)
    runner = app.runner_of(health.application({}, {}))
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        reader, writer = await asyncio.open_connection(*runner.addresses[0])
        writer.write(said)
        await asyncio.wait_for(reader.read(), 5)
        writer.close()
    finally:
        await runner.cleanup()
