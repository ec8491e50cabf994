from __future__ import annotations

from support_shards import build, files_of, make_run, mixed


def test_same_run_gives_same_bytes(tmp_path):
    run = make_run(tmp_path, mixed(30))
    result = build(run, tmp_path / "a", splits={"val": 0.2})
    build(run, tmp_path / "b", splits={"val": 0.2})
    assert result.added == 30
    assert files_of(tmp_path / "a") == files_of(tmp_path / "b")
