"""What a cluster leaves outside its processes: control groups, mounts, folders. Removing them works after any death."""

import os
import shutil
import time
from pathlib import Path

from cluster import paths, processes, shell
from cluster.errors import ClusterError

CGROUP = "datafetch"
"""All containers of the first node run below this control group, those of the second below `datafetch1`, so that `down`
can tell its own from anyone else's."""

CNI_NETWORK = "datafetch"

_CNI_RESULTS = Path("/var/lib/cni/results")
_DEVICE_PLUGINS_SOCKET = Path("/var/lib/kubelet/device-plugins/kubelet.sock")
_CONTAINER_LOG_LINKS = Path("/var/log/containers")


def make_cgroups(group: str) -> None:
    """Make a control group in every hierarchy; kubelet wants the root it is given to exist."""
    for hierarchy in _hierarchies():
        ours = hierarchy / group
        ours.mkdir(exist_ok=True)
        # On cgroup v1 no process may enter a cpuset before it has processors and memory nodes.
        for name in ("cpuset.cpus", "cpuset.mems"):
            if (ours / "cgroup.clone_children").exists() and (ours / name).exists():
                (ours / name).write_text((hierarchy / name).read_text())


def remove() -> None:
    """End the containers, unmount and delete everything of the cluster but caches and logs."""
    for suffix in ("", "1"):
        processes.kill_container_shims(paths.runtime() / f"containerd{suffix}.sock")
        remove_cgroup(f"{CGROUP}{suffix}")
    _remove_strays()
    for folder in (paths.runtime(), paths.state()):
        delete(folder)


def remove_cgroup(name: str) -> None:
    """Kill what runs in a control group, and remove it."""
    for hierarchy in _hierarchies():
        _remove_cgroup(hierarchy / name)


def delete(folder: Path) -> None:
    """Unmount what is mounted in a folder, and delete it."""
    _unmount_below(folder)
    if folder.exists():
        _delete(folder)


def _remove_strays() -> None:
    """Remove what containerd, kubelet and CNI put into folders of the machine that no flag moves."""
    for result in _CNI_RESULTS.glob(f"{CNI_NETWORK}-*-eth0"):
        sandbox = result.name.removeprefix(f"{CNI_NETWORK}-").removesuffix("-eth0")
        (_CNI_RESULTS / f"cni-loopback-{sandbox}-lo").unlink(missing_ok=True)
        result.unlink()
    for address in paths.runtime().glob("containerd/io.containerd.runtime.v2.task/k8s.io/*/address"):
        Path(address.read_text().removeprefix("unix://")).unlink(missing_ok=True)
    for link in _CONTAINER_LOG_LINKS.glob("*.log"):
        if link.is_symlink() and link.readlink().is_relative_to(paths.state()):
            link.unlink()
    if paths.runtime().exists():
        _DEVICE_PLUGINS_SOCKET.unlink(missing_ok=True)


def _hierarchies() -> list[Path]:
    return [path for kind, path in _mounts() if kind in ("cgroup", "cgroup2")]


def _mounts() -> list[tuple[str, Path]]:
    """(file system type, mount point) of every mount, in the order in which they were made (proc(5), mountinfo)."""
    found = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        point = before.split(" ")[4].encode().decode("unicode_escape")
        found.append((after.split(" ")[0], Path(point)))
    return found


def _remove_cgroup(top: Path) -> None:
    end = time.monotonic() + 15
    while top.is_dir():
        for folder, _, files in os.walk(top, topdown=False):
            if "cgroup.procs" in files:
                _empty_cgroup(Path(folder))
        if time.monotonic() > end:
            raise ClusterError(f"The control group {top} does not empty; look at its cgroup.procs.")
        time.sleep(0.02)


def _empty_cgroup(folder: Path) -> None:
    try:
        for pid in (folder / "cgroup.procs").read_text().split():
            processes.kill(int(pid))
        folder.rmdir()
    except OSError:
        # Killed processes need a moment to go; the caller comes again.
        return


def _unmount_below(folder: Path) -> None:
    for _, point in reversed([entry for entry in _mounts() if entry[1].is_relative_to(folder)]):
        if shell.attempt("umount", point).returncode != 0:
            shell.attempt("umount", "--lazy", point)


def _delete(folder: Path) -> None:
    if still := [point for _, point in _mounts() if point.is_relative_to(folder)]:
        raise ClusterError(f"{still[0]} is still mounted, so {folder} is not deleted: unmount it and try again.")
    shutil.rmtree(folder)
