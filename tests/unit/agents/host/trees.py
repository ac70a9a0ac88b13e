"""Folders that look like the memory controller's, v1 and v2, so that both can be driven on a machine that has one of them."""

from pathlib import Path

V1_UNLIMITED = 9223372036854771712


def v1_group(path: Path, limit: int = V1_UNLIMITED, swappiness: int = 60, **stat: int) -> Path:
    """The files of a v1 group."""
    path.mkdir(parents=True, exist_ok=True)
    for name, value in (
        ("memory.limit_in_bytes", limit),
        ("memory.usage_in_bytes", 5000),
        ("memory.max_usage_in_bytes", 7000),
        ("memory.swappiness", swappiness),
        ("cgroup.procs", ""),
        ("memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 2"),
        ("memory.stat", "\n".join(f"{key} {value}" for key, value in stat.items())),
    ):
        (path / name).write_text(f"{value}\n", "ascii")
    return path


def v2_group(path: Path, limit: str = "max", swap_max: str = "max", **stat: int) -> Path:
    """The files of a v2 group."""
    path.mkdir(parents=True, exist_ok=True)
    for name, value in (
        ("memory.max", limit),
        ("memory.current", 5000),
        ("memory.peak", 7000),
        ("memory.swap.max", swap_max),
        ("memory.swap.current", 900),
        ("cgroup.procs", ""),
        ("memory.events", "low 0\nhigh 0\nmax 3\noom 2\noom_kill 2"),
        ("memory.stat", "\n".join(f"{key} {value}" for key, value in stat.items())),
    ):
        (path / name).write_text(f"{value}\n", "ascii")
    return path


def proc(path: Path, **groups: str) -> Path:
    """A /proc of processes (by name, such as self=...) whose cgroup file has these lines."""
    for name, lines in groups.items():
        folder = path / name.removeprefix("pid")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "cgroup").write_text(lines + "\n", "ascii")
    return path
