"""Where a container's limits are told (cgroup v1 and v2)."""

from collections.abc import Iterator
from pathlib import Path, PurePosixPath

CGROUPS = Path("/sys/fs/cgroup")
OWN_GROUPS = Path("/proc/self/cgroup")


def group_folders(controller: str, own_groups: Path = OWN_GROUPS, cgroups: Path = CGROUPS) -> Iterator[Path]:
    """The folders of the groups that this process is in and that may limit what ``controller`` does.

    ``own_groups`` lists the groups as ``/proc/self/cgroup`` does, ``cgroups`` is where they are mounted. In a
    container the paths listed are often those of the host, so the mount's root counts too.
    """
    try:
        lines = own_groups.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        mount = cgroups / controllers if controllers else cgroups
        group = PurePosixPath(path.lstrip("/"))
        for level in (group, *group.parents):
            yield mount / level
