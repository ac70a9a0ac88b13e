"""Whether memory is divided as the weights say.

Owns: the shares of two parties of weights 3 and 1 that both put ephemeral pages without end, two clients each in a process of its own: two
tenants of a token file, and two pools of one tenant. A share is payload and index, as eviction counts it.
"""

import statistics
from contextlib import ExitStack

import tmem.client
from tmem.cli.bench_common.figures import at_least, at_most, within
from tmem.cli.bench_common.rig import MIB, Program

from .rig import Rig

__all__ = ["measure"]

_HEAVY, _LIGHT = 3, 1
_TOKENS = ("a-token-of-the-heavy-one", "a-token-of-the-light-one")
_SAMPLES = 20
_TURNS_BEFORE = 2
_GOAL = within(2.7, 3.3)


def measure(rig: Rig) -> None:
    """Takes the figures."""
    for between in ("tenants", "pools"):
        rig.say(f"weights: two {between}")
        ratios, fill = _shares(rig, between)
        title = f"memory of two {between} of weights 3 and 1, one over the other"
        rig.report.add_rounds(f"weights_{between}_ratio", title, ratios, _GOAL)
        rig.report.add(f"weights_{between}_worst_ratio", "  lowest of all samples", min(ratios), at_least(2.7))
        rig.report.add(f"weights_{between}_best_ratio", "  highest of all samples", max(ratios), at_most(3.3))
        rig.report.add(f"weights_{between}_filled_ratio", "  payload and index over the memory limit", fill)


def _shares(rig: Rig, between: str) -> tuple[list[float], float]:
    limit = rig.sizes.weights * MIB
    with ExitStack() as stack:
        arguments = ["--memory-limit", str(limit)]
        tokens: tuple[str | None, ...] = (None, None)
        if between == "tenants":
            tokens = _TOKENS
            file = stack.enter_context(rig.directory()) / "tokens.toml"
            file.touch(0o600)
            file.write_text(
                f'[tenants.heavy]\ntokens = ["{_TOKENS[0]}"]\nweight = {_HEAVY}\n'
                f'[tenants.light]\ntokens = ["{_TOKENS[1]}"]\nweight = {_LIGHT}\n',
                "utf-8",
            )
            arguments += ["--tokens", str(file)]
        daemon = stack.enter_context(rig.daemon(*arguments))
        parties = []
        for name, weight, token in zip(("heavy", "light"), (_HEAVY, _LIGHT), tokens, strict=True):
            settings = {"target": daemon.target, "token": token, "pool": name, "kind": "ephemeral", "mode": "endless"}
            # More pages than fit, so that eviction never rests.
            pages = 16 * limit // 4096
            own = 0 if between == "tenants" else weight
            writer = Program("tmem.cli.bench_store.writer", **settings, weight=own, pages=pages, report=limit // 4)
            stack.enter_context(writer)
            client = stack.enter_context(tmem.client.connect(daemon.target, token=token))
            parties.append((writer, client, writer.hear()["pool_id"]))
        # Pages shrink to a half: what was put twice over is what fits.
        for writer, _, _ in parties:
            while writer.hear()["put"] < 2 * _TURNS_BEFORE * limit:
                pass
        ratios, filled = [], []
        for _ in range(_SAMPLES):
            used = []
            for _, client, pool_id in parties:
                stat = client.stat_pool(pool_id)
                used.append(stat.payload_bytes + stat.index_bytes)
            ratios.append(used[0] / used[1])
            filled.append(sum(used) / limit)
            parties[1][0].hear()
        return ratios, statistics.median(filled)
