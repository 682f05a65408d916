"""What the cgroups say: trees of files as different hosts and containers show them, and a real cgroup."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from datafetch.memory import DEFAULT_BUDGET, buffer_budget, memory_limit

V1_MOUNT = "35 31 0:32 {root} /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n"
V2_MOUNT = "41 31 0:38 {root} /sys/fs/cgroup rw,relatime - cgroup2 cgroup2 rw,nsdelegate\n"
OTHERS = (
    "22 1 254:1 / / rw,relatime shared:1 - ext4 /dev/root rw\n31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n"
    "32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu\n"
)


def host(tmp_path: Path, cgroup: str, mounts: str, files: dict[str, str]) -> str:
    """Lay out a host's files below a directory; return it."""
    content = {"proc/self/cgroup": cgroup, "proc/self/mountinfo": OTHERS + mounts, **files}
    for name, text in content.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return str(tmp_path)


def v1(limits: dict[str, str]) -> dict[str, str]:
    return {f"sys/fs/cgroup/memory/{group}/memory.limit_in_bytes": f"{text}\n" for group, text in limits.items()}


def v2(limits: dict[str, str], name: str = "memory.max") -> dict[str, str]:
    return {f"sys/fs/cgroup/{group}/{name}": f"{text}\n" for group, text in limits.items()}


NO_LIMIT_V1 = "9223372036854771712"


@pytest.mark.parametrize(("content", "limit"), [("268435456", 256 << 20), ("max", None), ("", None)])
def test_a_container_of_version_2_sees_its_own_cgroup_as_the_root(
    tmp_path: Path, content: str, limit: int | None
) -> None:
    assert memory_limit(host(tmp_path, "0::/\n", V2_MOUNT.format(root="/"), v2({".": content}))) == limit


def test_the_least_limit_from_the_process_to_the_top_counts(tmp_path: Path) -> None:
    limits = {
        "system.slice": "1000000000",
        "system.slice/app.service": "max",
        "system.slice/app.service/job": "2000000000",
    }
    root = host(tmp_path, "0::/system.slice/app.service/job\n", V2_MOUNT.format(root="/"), v2(limits))
    assert memory_limit(root) == 1_000_000_000


def test_a_neighbours_limit_does_not_count(tmp_path: Path) -> None:
    limits = {"mine": "2000000000", "mine/below": "1000", "other": "1000"}
    assert memory_limit(host(tmp_path, "0::/mine\n", V2_MOUNT.format(root="/"), v2(limits))) == 2_000_000_000


def test_a_limit_that_slows_down_counts_as_one_that_kills(tmp_path: Path) -> None:
    files = v2({"mine": "2000000000"}) | v2({"mine": "1500000000"}, "memory.high")
    assert memory_limit(host(tmp_path, "0::/mine\n", V2_MOUNT.format(root="/"), files)) == 1_500_000_000


def test_version_1_on_a_host(tmp_path: Path) -> None:
    cgroup = "9:name=systemd:/\n4:memory:/kubepods/pod1/c1\n1:cpu,cpuacct:/kubepods/pod1/c1\n"
    limits = {".": NO_LIMIT_V1, "kubepods": "8000000000", "kubepods/pod1": "536870912", "kubepods/pod1/c1": NO_LIMIT_V1}
    assert memory_limit(host(tmp_path, cgroup, V1_MOUNT.format(root="/"), v1(limits))) == 512 << 20


def test_a_container_of_version_1_sees_only_its_own_cgroup_under_a_path_that_is_not_there(tmp_path: Path) -> None:
    own = "/kubepods/burstable/pod1/c1"
    root = host(tmp_path, f"4:memory:{own}\n", V1_MOUNT.format(root=own), v1({".": "268435456"}))
    assert memory_limit(root) == 256 << 20


def test_a_path_outside_of_what_is_mounted_leaves_what_is_mounted(tmp_path: Path) -> None:
    root = host(tmp_path, "0::/../other/c2\n", V2_MOUNT.format(root="/"), v2({".": "268435456"}))
    assert memory_limit(root) == 256 << 20


def test_both_versions_side_by_side(tmp_path: Path) -> None:
    mounts = V1_MOUNT.format(root="/") + V2_MOUNT.format(root="/").replace("/sys/fs/cgroup ", "/sys/fs/cgroup/unified ")
    root = host(tmp_path, "4:memory:/job\n0::/\n", mounts, v1({".": NO_LIMIT_V1, "job": "268435456"}))
    assert memory_limit(root) == 256 << 20


def test_another_mount_point_with_a_space_in_it(tmp_path: Path) -> None:
    mounts = V2_MOUNT.format(root="/").replace("/sys/fs/cgroup ", "/mnt/c\\040groups ")
    assert memory_limit(host(tmp_path, "0::/\n", mounts, {"mnt/c groups/memory.max": "1048576\n"})) == 1 << 20


def test_without_cgroups_there_is_no_limit(tmp_path: Path) -> None:
    assert memory_limit(str(tmp_path)) is None


def own_memory_cgroup() -> tuple[Path, str] | None:
    """The directory of this process's memory cgroup on this machine and its limit's file; None where there is none."""
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "memory":
            return Path("/sys/fs/cgroup/memory" + path), "memory.limit_in_bytes"
    path = Path("/proc/self/cgroup").read_text().partition("0::")[2].strip()
    return (Path("/sys/fs/cgroup" + path), "memory.max") if path else None


def test_a_process_in_a_real_cgroup_knows_its_limit() -> None:
    show = [sys.executable, "-c", "from datafetch.memory import memory_limit; print(memory_limit())"]
    found = own_memory_cgroup()
    group = found[0] / f"datafetch-test-{os.getpid()}" if found else None
    try:
        if found and group:
            group.mkdir()
            (group / found[1]).write_text(str(300 << 20))
    except OSError:
        # Who may not make cgroups (an unprivileged user, version 2 without delegation) reads those there are.
        group = None
    if found is None or group is None:
        limit = subprocess.run(show, capture_output=True, text=True, check=True).stdout.strip()
        assert limit == str(memory_limit())
        return
    try:
        join = ["sh", "-c", 'echo $$ > "$0/cgroup.procs" && exec "$@"', str(group), *show]
        assert subprocess.run(join, capture_output=True, text=True, check=True).stdout.strip() == str(300 << 20)
    finally:
        group.rmdir()


def test_buffers_get_a_quarter() -> None:
    assert buffer_budget(256 << 20) == 64 << 20
    assert buffer_budget(None) == DEFAULT_BUDGET
