"""The core is pure: nothing in it does I/O or reads a clock."""

import ast

from tmem.agents.pager import shim

CORE = (
    *(
        "ahead",
        "clock",
        "core",
        "evictions",
        "fetches",
        "homecoming",
        "latencies",
        "ledger",
        "owed",
        "ports",
        "recorder",
    ),
    *("settings", "stride", "table", "takeover"),
)


def test_the_core_imports_nothing_that_does_io_or_reads_a_clock() -> None:
    for name in CORE:
        tree = ast.parse(shim.SOURCE.with_name(f"{name}.py").read_text("utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.level:
                assert node.module in CORE, f"{name} imports {node.module}"
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
            forbidden = {"ctypes", "fcntl", "os", "select", "signal", "socket", "subprocess", "threading", "time"}
            assert not forbidden & {each.partition(".")[0] for each in names}, f"{name}: {names}"
