"""Deliberate faults, each a small change of the source, and the cheapest tests that must find it.

Owns: the list. A mutant whose text is not there exactly once no longer fits the source: it is brought up to date, or goes with what it was in.
"""

from dataclasses import dataclass

__all__ = ["MUTANTS", "Mutant"]

_STATEMENTS = "tests/conformance/test_statements.py::test_statement"
_SIMULATION = "tests/simulation/test_simulation.py::test_scenarios"


def statement(*numbers: int) -> tuple[str, ...]:
    """The tests of some statements."""
    return tuple(f"{_STATEMENTS}[{number:02}]" for number in numbers)


SIMULATION = (_SIMULATION,)


@dataclass(frozen=True)
class Mutant:
    """One fault.

    Attributes:
        name: what is wrong with it.
        file: in which. old, new: what takes whose place.
        tests: node ids; one of them must fail.
    """

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]


_STORE = "server/tmem/server/store"
_LOG = f"{_STORE}/log"
_CORE = "client/tmem/client/_core"
_WIRE = "proto/tmem/wire"
_PAGER = "client/tmem/agents/pager"
_SWAP = "client/tmem/agents/swap"
_PAGER_CORE = "tests/unit/agents/pager/core"
_PAGER_SIMULATION = "tests/unit/agents/pager/test_simulation.py::test_the_program_reads_what_it_wrote"
_SESSION = "tests/unit/client/_core/test_session.py"

MUTANTS = (
    # ---- Checksums and bytes ----
    Mutant(
        "the reader of whole extents skips the checksum",
        f"{_CORE}/gets.py",
        "if got != expected else ():",
        "if not expected else ():",
        statement(94),
    ),
    Mutant(
        "the codec skips the checksum",
        f"{_WIRE}/codec.py",
        "        return self.verify(destination, crcs)\n",
        "        return []\n",
        statement(94),
    ),
    Mutant(
        "a block that is the same at both ends and in the middle is taken for one word",
        f"{_WIRE}/codec.py",
        "return head if words[1:] == words[:-1] else None",
        "return head",
        statement(26),
    ),
    Mutant(
        "what does not shrink is sent as LZ4",
        f"{_WIRE}/codec.py",
        "if len(packed) < len(chunk):",
        "if packed:",
        statement(27),
    ),
    Mutant(
        "an old copy with a valid checksum is believed",
        f"{_CORE}/gets.py",
        "if not known or part.crcs is None:",
        "if known or part.crcs is None:",
        (_SESSION,),
    ),
    Mutant(
        "the presence map forgets checksums of what is stored",
        f"{_CORE}/presence.py",
        "        block.with_crc |= mask\n",
        "",
        (_SESSION,),
    ),
    Mutant(
        "a page that is LOST is answered as zeros",
        f"{_CORE}/gets.py",
        "        result.pages[position] = Code(code)\n",
        "        result.pages[position] = Code.HIT if code == Code.LOST else Code(code)\n",
        statement(73),
    ),
    Mutant(
        "a persistent page that vanished is a miss",
        f"{_CORE}/gets.py",
        "            if self.pool.persistent:\n                code = Code.LOST\n            else:",
        "            if not self.pool.persistent:",
        (_SESSION,),
    ),
    Mutant(
        "an absent page of a pool that was lost misses",
        f"{_STORE}/engine.py",
        "codes = pages.codes = [_LOST if code == _MISS else code for code in codes]",
        "pass",
        (_SESSION,),
    ),
    # ---- Refusals ----
    Mutant(
        "a refused put leaves the old page, where it is refused before the store looks at it",
        f"{_LOG}/store.py",
        "                dropped += pool.remove(number, extent.first, extent.pages, held)\n        return Stored([int(reason)]",
        "                dropped += 0\n        return Stored([int(reason)]",
        statement(61),
    ),
    Mutant(
        "a put that the store itself refuses leaves the old page",
        f"{_LOG}/store.py",
        "removed = pool.remove(number, extent.first, extent.pages, held)\n                freed",
        "removed = 0\n                freed",
        statement(30),
    ),
    Mutant(
        "the client keeps the old page's place after a refusal",
        f"{_CORE}/operations.py",
        "            else:\n                presence.absent(extent)\n            at += extent.pages",
        "            else:\n                presence.unchanged(extent)\n            at += extent.pages",
        SIMULATION,
    ),
    Mutant(
        "a frozen pool takes puts",
        f"{_STORE}/engine.py",
        "if self.draining or pool.frozen:",
        "if self.draining:",
        statement(60),
    ),
    Mutant(
        "quotas do not count",
        f"{_LOG}/room.py",
        "if quota and pool.used_bytes + new > quota:",
        "if quota < 0:",
        statement(47),
    ),
    Mutant(
        "a tenant's quota does not count",
        f"{_STORE}/layers/limited.py",
        "if not quota or self._used(tenant) + len(put.body) <= quota:",
        "if quota >= 0:",
        ("tests/integration/test_sharing.py::TestLimits",),
    ),
    Mutant(
        "one refusal fails every extent of its batch",
        f"{_LOG}/store.py",
        "return Stored(reasons if any(reasons) else None, replaced, dropped)",
        "return Stored([max(reasons)] * len(reasons) if any(reasons) else None, replaced, dropped)",
        statement(85),
    ),
    # ---- Places ----
    Mutant(
        "a locator is off by one page inside its chunk",
        f"{_LOG}/store.py",
        "yield start + first, count, first - record.first, locator,",
        "yield start + first, count, max(first - record.first - 1, 0), locator,",
        statement(87),
    ),
    Mutant(
        "a run goes on into the pages of other records",
        f"{_LOG}/pool.py",
        "                while at < count and locators[at] == locator:\n",
        "                while at < count and locators[at]:\n",
        statement(88),
    ),
    Mutant(
        "a small leaf holds its pages one further",
        f"{_LOG}/leaves.py",
        "                    entries[page] = locator\n",
        "                    entries[page + 1] = locator\n",
        statement(20),
    ),
    Mutant(
        "the high word of object ids is dropped",
        f"{_WIRE}/handles.py",
        "return low | mid << 64 | high << 128",
        "return low | mid << 64",
        statement(10),
    ),
    Mutant(
        "indices above 32 bits pass",
        f"{_WIRE}/handles.py",
        "not 0 <= index <= MAX_INDEX",
        "not 0 <= index",
        statement(12),
    ),
    Mutant(
        "a flush of an object takes its first block only",
        f"{_LOG}/store.py",
        "for number in pool.leaves.of_object(obj)) for obj in objects]",
        "for number in pool.leaves.of_object(obj)[:1]) for obj in objects]",
        statement(23),
    ),
    Mutant(
        "a flush takes a neighbour along",
        f"{_LOG}/store.py",
        "found.append(pool.unmap(number, extent.first, extent.pages, _sparing(version, condition)) if number else 0)",
        "found.append(pool.unmap(number, extent.first, extent.pages + 1, _sparing(version, condition)) if number else 0)",
        statement(21),
    ),
    # ---- Takes, order, replay ----
    Mutant(
        "an acknowledgement removes whatever is there now",
        f"{_LOG}/store.py",
        "return lambda _segment, _at, record: record.version != condition or _is_newer(record.version, version)",
        "return lambda _segment, _at, record: _is_newer(record.version, version)",
        statement(93),
    ),
    Mutant(
        "a take is never acknowledged",
        "client/tmem/client/sync/pool.py",
        "        if result.take:\n            self._ack(result)\n        return result\n\n    def flush(",
        "        return result\n\n    def flush(",
        statement(15),
    ),
    Mutant(
        "pages whose bytes are corrupt are taken all the same",
        f"{_CORE}/gets.py",
        "                result.versions[at + page] = None\n            begin += count",
        "            begin += count",
        (_SESSION,),
    ),
    Mutant(
        "an acknowledgement hides the page that was put in between",
        f"{_CORE}/operations.py",
        "if reason or (condition is not None and not result.found and not self.replayed):",
        "if reason:",
        (_SESSION,),
    ),
    Mutant(
        "an acknowledgement that finds another page makes one certain whose put nobody heard of",
        f"{_CORE}/presence.py",
        "block.uncertain &= ~mask_of(extent) | doubted",
        "block.uncertain &= ~mask_of(extent)",
        (_SESSION,),
    ),
    Mutant(
        "an acknowledgement that was sent twice leaves its page marked as there",
        f"{_CORE}/operations.py",
        "not result.found and not self.replayed):",
        "not result.found):",
        (_SESSION,),
    ),
    Mutant(
        "an old put is applied over a newer one",
        f"{_LOG}/store.py",
        "return held.generation == version.generation and held.sequence > version.sequence",
        "return held.generation > version.generation and held.sequence > version.sequence",
        statement(39),
    ),
    Mutant(
        "the floor is not looked at",
        f"{_STORE}/pools.py",
        "if sequence is not None and sequence < member.floor:",
        "if sequence is not None and sequence < 0:",
        statement(39),
    ),
    Mutant(
        "the client's floor passes what is unsettled",
        f"{_CORE}/writer.py",
        "return next(iter(self._unsettled), self._next)",
        "return self._next",
        SIMULATION,
    ),
    Mutant(
        "a handle may have two unsettled writes",
        f"{_CORE}/writer.py",
        "            if block != _WHOLE_OBJECT and self._pages.get((obj, block), 0) & mask:\n                return True\n",
        "",
        (_SESSION,),
    ),
    Mutant(
        "a put that was given up frees its handle at once",
        f"{_CORE}/writer.py",
        "            self._given_up[sequence] = footprints\n",
        "            self._release(footprints)\n",
        (_SESSION,),
    ),
    Mutant(
        "what was in flight is not sent again",
        f"{_CORE}/session.py",
        "                operation.sent = False\n                operation.replayed = True\n",
        "",
        (_SESSION,),
    ),
    Mutant(
        "a pool made again has the epoch that was lost",
        f"{_STORE}/pools.py",
        "epoch=max(epoch, request.lost_epoch + 1),",
        "epoch=request.lost_epoch or epoch,",
        statement(73),
    ),
    Mutant(
        "a pool that is being made again is given up when the stream breaks",
        f"{_CORE}/session.py",
        "(lost or pool.recreating)",
        "lost",
        (_SESSION,),
    ),
    Mutant(
        "a writer that was replaced goes on",
        f"{_STORE}/pools.py",
        "if generation != member.generation or member.generation not in self.members:",
        "if generation != member.generation:",
        ("tests/unit/server/store/test_pools.py", "tests/unit/server/store/test_engine.py"),
    ),
    Mutant(
        "the stream before goes on beside its successor",
        "server/tmem/server/rpc/conversation.py",
        "return None if session is None else session.stream",
        "return None",
        ("tests/integration/test_exchange.py",),
    ),
    Mutant(
        "a batch that is sent again after a loss goes without its body",
        f"{_WIRE}/requests.py",
        "return join(request.SerializeToString(), [body], len(body))",
        "return request.SerializeToString()",
        (_SESSION, _SIMULATION),
    ),
    # ---- Eviction ----
    Mutant(
        "persistent pages are evicted",
        f"{_LOG}/room.py",
        "if pool.policy.ephemeral and pool.counts.pages and (among",
        "if pool.counts.pages and (among",
        statement(41),
    ),
    Mutant(
        "eviction begins with the youngest segment",
        f"{_LOG}/room.py",
        "        segment = pool.segments[0]\n        assert isinstance(segment, Segment)  # evictable",
        "        segment = pool.segments[-1]\n        assert isinstance(segment, Segment)  # evictable",
        statement(42),
    ),
    Mutant(
        "a get does not make shared pages young",
        f"{_LOG}/room.py",
        "if live and at in segment.touched:",
        "if live and at in ():",
        statement(43),
    ),
    Mutant(
        "weights count the wrong way round",
        f"{_STORE}/shares.py",
        "used(party) / weight(party)",
        "used(party) * weight(party)",
        statement(44),
    ),
    Mutant(
        "without weights the youngest goes",
        f"{_STORE}/shares.py",
        "return min(parties, key=oldest)",
        "return max(parties, key=oldest)",
        statement(45),
    ),
    Mutant(
        "memory that is asked back is taken from everybody",
        f"{_LOG}/room.py",
        "and self.evict_one(keys):",
        "and self.evict_one():",
        ("tests/unit/server/store/test_contract.py",),
    ),
    # ---- Cleaning, spilling, accounts ----
    Mutant(
        "cleaning brings flushed pages back",
        f"{_LOG}/pool.py",
        "[new if locator == old else locator for locator in found]",
        "[new for locator in found]",
        ("tests/unit/server/store/log/test_cleaner.py", "tests/unit/server/store/test_model.py"),
    ),
    Mutant(
        "a chunk that is repacked takes the wrong checksums",
        f"{_LOG}/cleaner.py",
        "own = crcs[first : first + count]",
        "own = crcs[:count]",
        ("tests/unit/server/store/log/test_cleaner.py",),
    ),
    Mutant(
        "a repacked chunk's pages move to their neighbours",
        f"{_LOG}/cleaner.py",
        "pool.write(leaf, record.first + first, [new] * len(own))",
        "pool.write(leaf, record.first, [new] * len(own))",
        ("tests/unit/server/store/log/test_cleaner.py",),
    ),
    Mutant(
        "spilled pages are read a byte too early",
        f"{_LOG}/spill.py",
        "return self._fetch(at + record.overhead, record.length)",
        "return self._fetch(at + record.overhead - 1, record.length)",
        statement(68),
    ),
    Mutant(
        "the memory of a pool that ends is not given back",
        f"{_LOG}/store.py",
        "        self._room.ending.append(pool)\n",
        "",
        statement(96),
    ),
    Mutant(
        "a flushed page stays on the account",
        f"{_LOG}/pool.py",
        "        counts.pages -= pages\n",
        "        counts.pages -= min(pages, 1)\n",
        statement(95),
    ),
    Mutant(
        "stored pages are counted by extent",
        f"{_STORE}/engine.py",
        "            counters.puts_stored += pages\n",
        "            counters.puts_stored += 1\n",
        statement(95),
    ),
    Mutant(
        "who leaves takes along what others used last",
        f"{_LOG}/store.py",
        "lambda segment, at, record: _last_user(segment, at, record) != user",
        "lambda segment, at, record: record.version.generation != user",
        statement(57),
    ),
    # ---- Rights ----
    Mutant(
        "any token opens any pool",
        f"{_STORE}/pools.py",
        "if hmac.compare_digest(member.token, token):",
        "if member.token:",
        statement(7),
    ),
    Mutant(
        "shared pools are open to everybody",
        f"{_STORE}/pools.py",
        "or (tenant != pool.owner and tenant not in pool.authorized):",
        "or not tenant:",
        statement(54),
    ),
    Mutant(
        "rights to join can't be taken away",
        f"{_STORE}/pools.py",
        "            pool.authorized.discard(tenant)\n",
        "            pool.authorized.add(tenant)\n",
        statement(55),
    ),
    # ---- The journal ----
    Mutant(
        "flushes are not written down",
        f"{_STORE}/journal/layer.py",
        "        self._append_removal(key, message(), written)\n        return later\n",
        "        written(None)\n        return later\n",
        statement(64),
    ),
    Mutant(
        "a put is acknowledged before it is written down",
        f"{_STORE}/journal/layer.py",
        "        if gone:\n            self._remove(key, version, gone, flight)\n        return flight.later\n\n    def _put_written(",
        "        if gone:\n            self._remove(key, version, gone, flight)\n        return result\n\n    def _put_written(",
        ("tests/unit/server/store/journal/test_layer.py",),
    ),
    Mutant(
        "a journal entry's checksum is not looked at",
        f"{_STORE}/journal/entries.py",
        "        if crc != crc32c(payload):\n",
        "        if crc < 0:\n",
        ("tests/unit/server/store/journal/test_entries.py",),
    ),
    Mutant(
        "a restart lets the writer before go on",
        f"{_STORE}/journal/recovery.py",
        'pool.generation = state["generation"]',
        "pool.generation = 1",
        ("tests/unit/server/store/journal/test_recovery.py",),
    ),
    Mutant(
        "a frozen pool is thawed by a restart",
        f"{_STORE}/journal/recovery.py",
        'pool.frozen = state["frozen"]',
        "pool.frozen = False",
        ("tests/unit/server/store/journal/test_recovery.py",),
    ),
    # ---- Agents ----
    Mutant(
        "a page is punched after its eviction was cancelled",
        f"{_PAGER}/evictions.py",
        "while stop < end and states[stop] == State.EVICTING and sequences[stop] == eviction.sequence:",
        "while stop < end and sequences[stop] == eviction.sequence:",
        (_PAGER_SIMULATION,),
    ),
    Mutant(
        "an eviction that was begun anew ends with the answer to the one before",
        f"{_PAGER}/evictions.py",
        "while stop < end and states[stop] == State.EVICTING and sequences[stop] == eviction.sequence:",
        "while stop < end and states[stop] == State.EVICTING:",
        ("tests/unit/agents/pager/test_cancelled_evictions.py",),
    ),
    Mutant(
        "a page that was touched on its way out is compressed all the same",
        f"{_PAGER}/evictions.py",
        "for first, count in still:",
        "for first, count in [(eviction.first, eviction.count)]:",
        ("tests/unit/agents/pager/test_cancelled_evictions.py",),
    ),
    Mutant(
        "a copy whose flush made way for a put that was never sent stays for ever",
        f"{_PAGER}/evictions.py",
        "            self._owed.add(eviction.target, eviction.first, eviction.count, self._now)\n            return\n",
        "            return\n",
        ("tests/unit/agents/pager/test_cancelled_evictions.py",),
    ),
    Mutant(
        "what a dead shard had counted is forgotten",
        "server/tmem/server/shards/totals.py",
        "self._before = list(add_up([self._before, self._counts]))",
        "self._before = []",
        ("tests/unit/server/shards/test_totals.py",),
    ),
    Mutant(
        "zeros ahead of a stream leave the old bytes of what is being given up",
        f"{_PAGER}/core.py",
        "        self._memory.punch(first, count)\n        step = (",
        "        step = (",
        (_PAGER_CORE,),
    ),
    Mutant(
        "a page that was refused and comes home unseen stays poisoned",
        f"{_PAGER}/fetches.py",
        "self.lift(first, count)  # what is not to be seen yet too",
        "self.lifted(first, count)  # what is not to be seen yet too",
        (_PAGER_CORE,),
    ),
    Mutant(
        "what was lost and is given up stays poisoned",
        f"{_PAGER}/core.py",
        "if state == State.LOST:\n                    flags[unit] |= Flag.POISONED",
        "if state == State.LOST:\n                    flags[unit] |= 0",
        (_PAGER_CORE,),
    ),
    Mutant(
        "a page whose put was refused is punched",
        f"{_PAGER}/evictions.py",
        "stored=all(part is Put.STORED for part in parts)",
        "stored=all(part is not None for part in parts)",
        statement(71),
    ),
    Mutant(
        "a refused write to the swap device is answered as done",
        f"{_SWAP}/writes.py",
        "                write.error = write.error or result.error\n",
        "                write.error = write.error\n",
        statement(80),
    ),
    Mutant(
        "a removal of pages that were written since speaks for them all the same",
        f"{_SWAP}/holes.py",
        "                    clear(flight, block, mask)\n",
        "",
        ("tests/unit/agents/swap/test_core.py",),
    ),
    Mutant(
        "an opening of the pool whose answer never came is another writer's",
        f"{_CORE}/shared_presence.py",
        "        self._attempts += 1\n",
        "        self._attempts += 0\n",
        ("tests/unit/client/_core/test_shared_presence.py",),
    ),
    Mutant(
        "what a failed write left is read as if nothing had happened",
        f"{_SWAP}/reads.py",
        "        elif FAILED in states:\n",
        "        elif FAILED in ():\n",
        statement(80),
    ),
)
