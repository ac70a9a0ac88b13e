"""How much memory the daemon takes for what lives in it, while that changes.

Owns: the daemon's resident memory, less that of an empty one, over live payload, under random overwrites and flushes of real pages (see
`mixture`): the worst value at any sample, and the value once the cleaner has come to rest.
"""

import tmem.client
from tmem.cli.bench_common.figures import at_most
from tmem.cli.bench_common.rig import MIB, resident_bytes, settle

from .mixture import Mixture
from .rig import Rig

__all__ = ["measure"]

_SAMPLES_PER_TURN = 40


def measure(rig: Rig) -> None:
    """Takes the figures."""
    size = rig.sizes.residency * MIB
    memory = rig.memory(size)
    rig.say("residency: filling")
    with rig.daemon("--memory-limit", "8GiB") as daemon, tmem.client.connect(daemon.target) as client:
        empty = resident_bytes(daemon.pid)
        mixture = Mixture(client, memory)
        mixture.fill()

        def sample() -> dict[str, float]:
            accounts = mixture.accounts()
            grown = resident_bytes(daemon.pid) - empty
            return accounts | {"grown": grown, "ratio": grown / accounts["payload"]}

        filled = sample()
        steps = _SAMPLES_PER_TURN * rig.sizes.residency_turns
        samples = []
        for step in range(steps):
            if step % 10 == 0:
                rig.say(f"residency: {100 * step // steps} % of {rig.sizes.residency_turns} turns")
            mixture.work(size // _SAMPLES_PER_TURN)
            samples.append(sample())
        rig.say("residency: settling")
        settle(mixture.accounts)
        settled = sample()
        mixture.extents.destroy()
        mixture.pages.destroy()
        settle(lambda: resident_bytes(daemon.pid))
        left = resident_bytes(daemon.pid) - empty
    worst = max(samples, key=lambda found: found["ratio"])
    add = rig.report.add
    add(
        "residency_worst_ratio",
        "resident memory over live payload, worst while overwriting",
        worst["ratio"],
        at_most(1.15),
    )
    add("residency_settled_ratio", "  once it has settled", settled["ratio"], at_most(1.05))
    add("residency_filled_ratio", "  when just filled", filled["ratio"])
    for moment, found in (("worst", worst), ("settled", settled)):
        for part in ("index", "dead"):
            add(f"residency_{moment}_{part}_ratio", f"  {part} over payload, {moment}", found[part] / found["payload"])
        rest = (found["grown"] - found["payload"] - found["index"] - found["dead"]) / found["payload"]
        add(f"residency_{moment}_unaccounted_ratio", f"  in no account, over payload, {moment}", rest)
    add("residency_left_bytes", "  bytes left when both pools are destroyed", left)
    rig.report.about |= {
        "residency_plain_bytes": size,
        "residency_turns": rig.sizes.residency_turns,
        "residency_payload_bytes": int(settled["payload"]),
        "residency_empty_bytes": empty,
        "residency_mix": "half 2 MiB blocks and runs of 1..64 pages in 64 KiB chunks, half lone pages; 1 in 7 a flush",
    }
