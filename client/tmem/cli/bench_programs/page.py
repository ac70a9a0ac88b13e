"""The report as one HTML page that needs nothing else.

Owns: what stands on it and in what order: programs at half of their working set, the plot of all shares, faults and what they are made of, the
goals, what each way and each program is, the machine, every figure.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path

from tmem.cli.bench_common import pages
from tmem.cli.bench_common.figures import Report, show

from .plots import draw_slowdowns, draw_waits
from .rig import Rig
from .tables import Table, faults_table, half_table, program_tables
from .ways import TITLES

__all__ = ["page", "write_page"]

_HOW = {
    "What is compared": (
        "Each program runs alone, without a limit, before and after it runs by the ways in the same round; a slowdown is its seconds by a way over the "
        "median of those alone. Its output is compared with the known one each time. Its working set is the most memory that it had alone in its "
        "control group; a share of that is the group's limit."
    ),
    "By swap": (
        "The limit counts all of the program's memory, its code and files too. One swap area is in use at a time, as large each time, and made anew for "
        "each program, way and round. The daemon and the agent are outside of the limit, and locked in memory."
    ),
    "By the pager": (
        "The shim takes allocations of 1 MiB and more; the rest of the program's memory stays where it is, and is taken off its share. It "
        "keeps an eighth of what it is given free for what comes next, 4 MiB at most, so that at 100 % some pages are away, too. A program that "
        "allocates in small pieces has no figures by this way: it would not be helped."
    ),
    "The floor": (
        "A loop device over a file in memory: what the kernel itself takes to swap through such a device, with nothing to wait for behind it. No "
        "way through a loop device can be faster."
    ),
    "The disk": (
        "The swap file's disk is the machine's own, with all caches that are between; on a virtual machine these may be another machine's memory."
    ),
}


def write_page(file: Path, rig: Rig) -> None:
    """Writes it; whoever reads the file meanwhile finds the old one or the new one."""
    pages.write(file, page(rig))


def page(rig: Rig) -> str:
    """The whole page."""
    report = rig.report
    parts = [
        pages.subtitle(report.about),
        "<p>Figures are of this run on this machine.</p>",
        *_table(half_table(rig)),
        *pages.plots(draw_slowdowns(rig.series)),
        *(line for table in program_tables(rig) for line in _table(table)),
        *_table(faults_table(rig)),
        *pages.plots(draw_waits(rig.series)),
        *_sum(report, rig),
        *pages.goals(report),
        "<h2>How it was measured</h2><dl>",
        *(f"<dt>{pages.text(title)}</dt><dd>{pages.text(words)}</dd>" for title, words in _HOW.items()),
        "</dl><h2>Machine and ways</h2>",
        pages.table(["", ""], _machine(rig)),
        *pages.every_figure(report),
        *pages.how_much(report),
    ]
    return pages.document("tmem: real programs with little memory", "Real programs with little local memory", parts)


def _table(table: Table) -> Iterable[str]:
    if table.rows:
        yield f"<h2>{pages.text(table.title)}</h2>"
        yield pages.table(table.columns, table.rows)
        yield from (f"<p class=quiet>{pages.text(note)}</p>" for note in table.notes)


def _sum(report: Report, rig: Rig) -> Iterable[str]:
    """What a fault by the swap agent is made of, in words and figures."""
    values = {figure.key: show(figure.value) for figure in report.figures.get("faults", [])}
    if "fault_rest_us" not in values:
        return
    yield "<h3>The sum</h3>"
    rows = [
        ["the floor: the kernel's fault, swap and block layers, the loop device and its worker", "fault_floor_p50_us"],
        [
            "one exchange: a get and its answer over the link, the daemon's work, decompression and checksum",
            "exchange_p50_us",
        ],
        ["the rest: FUSE between the loop's worker and the agent, and the agent's own work", "fault_rest_us"],
        ["a fault by the swap agent", "fault_swap_p50_us"],
    ]
    yield pages.table(["median of the rounds", "us"], [[words, values[key]] for words, key in rows])
    places = (
        f"The program was on CPU {rig.program_cpu}, the agent on CPU {rig.agent_cpu}, the daemon on CPU {rig.server_cpu}"
        if rig.program_cpu is not None
        else "All were on the only CPU"
    )
    words = (
        f"{places}. The floor waits for one other thread, the loop's worker; the agent adds two hand-overs, to itself by FUSE and to the daemon by a "
        f"socket. By its own counters it had a read in hand for {values['agent_in_hand_us']} us (p50, to the next step of its scale), and waited for the "
        f"server for {values['agent_exchange_us']} us of that on average; bare exchanges, one after the other, took {values['exchange_p50_us']} us. "
        "A sum of medians is not the median of sums: the rest may be less than nothing where hand-overs overlap."
    )
    yield f"<p>{pages.text(words)}</p>"
    words = (
        f"Faults at random cost {values['messages_per_mib_random']} gets for each MiB that came in, those in order "
        f"{values['messages_per_mib_sequential']}: the kernel reads ahead by the cluster (vm.page-cluster), the agent makes one message of what the kernel asks for "
        f"at once, and of what comes next in order. What goes out takes {values['messages_per_mib_out']} puts for each MiB."
    )
    yield f"<p>{pages.text(words)}</p>"


def _machine(rig: Rig) -> Iterable[Sequence[str]]:
    about = rig.report.about
    yield from pages.machine(about)
    for name in ("program", "agent", "server"):
        yield [f"CPU of the {'daemon' if name == 'server' else name}", pages.plain(about[f"{name}_cpu"])]
    for way, title in TITLES.items():
        if f"{way}_is" in about:
            yield [title, about[f"{way}_is"]]
