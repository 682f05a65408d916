"""What the cgroup says."""

from pathlib import Path

import pytest

from datafetch.memory import DEFAULT_BUDGET, buffer_budget, memory_limit


@pytest.mark.parametrize(
    ("content", "limit"),
    [("268435456\n", 256 << 20), ("max\n", None), ("9223372036854771712\n", None), ("", None)],
)
def test_the_limit_of_either_cgroup_version(tmp_path: Path, content: str, limit: int | None) -> None:
    file = tmp_path / "memory.max"
    file.write_text(content)
    assert memory_limit([str(tmp_path / "absent"), str(file)]) == limit


def test_buffers_get_a_quarter() -> None:
    assert buffer_budget(256 << 20) == 64 << 20
    assert buffer_budget(None) == DEFAULT_BUDGET
