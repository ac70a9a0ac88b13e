"""Statements about shared pools: who may join, who reaches what, and what a member takes along."""

import secrets
from functools import partial

from tmem.client import Client, Pool
from tmem.v1 import pools_pb2
from tmem.wire.errors import Closed, InvalidRequest, NoSuchPool
from tmem.wire.limits import PROTOCOL_VERSION, UUID_BYTES
from tmem.wire.results import Code, PoolKind, enum_field

from .expect import expect, refused, same
from .kit import statement
from .samples import page, stamped
from .stage import Stage, fetch

A, B = page(1), page(4)
_ALL_ONES = b"\xff" * UUID_BYTES


def _tenant(client: Client) -> str:
    return str(client.capabilities.tenant)


def _shared(stage: Stage) -> tuple[Pool, Pool]:
    """A pool of the first tenant, and the second's membership of it."""
    ours = stage.pool("shared")
    ours.authorize(_tenant(stage.second))
    return ours, stage.second.join_pool(ours.uuid)


@statement(53, "Two clients that may and that name one UUID reach the same pages; those of different UUIDs never do.")
def one_uuid_is_one_pool(stage: Stage) -> None:
    ours, theirs = _shared(stage)
    ours.put(7, 0, A)
    same(fetch(theirs, 7, 0), [A], "a page of the one, got by the other")
    theirs.put(7, 1, B)
    same(fetch(ours, 7, 1), [B], "a page of the other, got by the one")
    elsewhere = stage.pool("shared")
    expect(elsewhere.uuid != ours.uuid, "two pools have one UUID")
    same(fetch(elsewhere, 7, 0, 2), [Code.MISS] * 2, "the same handles under another UUID")
    elsewhere.put(7, 0, B)
    same(fetch(ours, 7, 0), [A], "the page after a put under another UUID")
    theirs.leave()


@statement(54, "Who was not authorized gets an explicit error and no page.", added=True)
def strangers_are_told_so(stage: Stage) -> None:
    ours = stage.pool("shared")
    ours.put(7, 0, A)
    forbidden = refused(lambda: stage.second.join_pool(ours.uuid), NoSuchPool, what="joining without the right")
    unknown = refused(
        lambda: stage.second.join_pool(secrets.token_bytes(UUID_BYTES)), NoSuchPool, what="joining what is not there"
    )
    same(str(forbidden), str(unknown), "what a stranger learns of a pool that is there")
    expect(ours.name not in {pool.name for pool in stage.second.pools()}, "the stranger is a member all the same")
    same(fetch(ours, 7, 0), [A], "the page")


@statement(55, "Who was de-authorized does not come in again.")
def the_right_can_be_taken_away(stage: Stage) -> None:
    ours, theirs = _shared(stage)
    ours.put(7, 0, A)
    same(fetch(theirs, 7, 0), [A], "a get of the member")
    ours.deauthorize(_tenant(stage.second))
    theirs.leave()
    refused(lambda: stage.second.join_pool(ours.uuid), NoSuchPool, what="joining after the right was taken away")
    ours.authorize(_tenant(stage.second))
    stage.second.join_pool(ours.uuid).leave()


@statement(56, "The UUID of all ones is never shared.")
def all_ones_is_never_shared(stage: Stage) -> None:
    refused(lambda: stage.pool("shared", uuid=_ALL_ONES), InvalidRequest, what="a pool of the UUID of all ones")
    for tenant in ("first", "second"):
        if tenant == "second" and stage.endpoint.named:
            continue
        refused(partial(stage.client_of(tenant).join_pool, _ALL_ONES), NoSuchPool, what="joining all ones")
    plain = stage.plain()
    request = pools_pb2.CreatePoolRequest(
        name=stage.name(), kind=enum_field(PoolKind.SHARED), abi_version=PROTOCOL_VERSION, uuid=_ALL_ONES
    )
    same(plain.failing(plain.pools.CreatePool, request, "all ones")[0], "INVALID_ARGUMENT", "all ones, on the wire")


@statement(57, "When a member leaves, pages that others used last stay for them; those that it used last go.")
def a_member_takes_along_what_it_used_last(stage: Stage) -> None:
    ours, theirs = _shared(stage)
    ours.put(1, 0, A)  # used last by the owner
    theirs.put(2, 0, B)  # by the guest
    theirs.put(3, 0, A)  # by the owner, who gets it below
    ours.put(4, 0, B)  # by the guest, likewise
    same(fetch(ours, 3, 0), [A], "the guest's page")
    same(fetch(theirs, 4, 0), [B], "the owner's page")
    same(theirs.leave(), 2, "pages that the guest takes along")
    found = [fetch(ours, obj, 0)[0] for obj in (1, 2, 3, 4)]
    same(found, [A, Code.MISS, A, Code.MISS], "the pages after the guest left")
    refused(lambda: fetch(theirs, 1, 0), Closed, what="a get of who has left")


@statement(
    58,
    "The owner's leaving does not end the pool while somebody else is in it, and its pages can still be evicted.",
    added=True,
)
def the_pool_outlives_its_owner(stage: Stage) -> None:
    own = stage.own("--memory-limit", "4MiB", tenants=True)
    ours = own.pool("shared", client=own.client("first"))
    ours.authorize("second")
    theirs = own.client("second").join_pool(ours.uuid)
    for number in range(100):
        theirs.put(7, number, stamped(number))
    ours.put(8, 0, A)
    ours.leave()
    same(fetch(theirs, 7, 0, 100), [stamped(number) for number in range(100)], "pages after the owner left")
    same(fetch(theirs, 8, 0), [Code.MISS], "the page that the owner used last")
    same(theirs.info().owner, "second", "who answers for the pool now")
    for number in range(2000):
        theirs.put(9, number, stamped(number))
    expect(theirs.stat().evicted, "the pages of a pool without its first owner are not evicted")
    theirs.leave()


@statement(59, "The last member's leaving destroys the pool; whoever makes it again begins with nothing.")
def the_last_member_ends_the_pool(stage: Stage) -> None:
    ours, theirs = _shared(stage)
    uuid = ours.uuid
    ours.put(7, 0, A)
    theirs.put(7, 1, B)
    ours.leave()
    theirs.leave()
    for tenant in ("first", "second"):
        refused(partial(stage.client_of(tenant).join_pool, uuid), NoSuchPool, what="joining a pool that has ended")
    again = stage.pool("shared", uuid=uuid)
    same(again.stat().pages, 0, "pages of the pool made again")
    same(fetch(again, 7, 0, 2), [Code.MISS] * 2, "its old pages")
