"""Random workloads, and the naive way to find their best pipeline: every cut, every order of the devices."""

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import combinations, permutations, product

from graphopt.partition.devices import Device
from graphopt.partition.links import Link, LinkTable
from graphopt.partition.workload import INPUT, Life, Replica, Storage, Value, Workload

LINK = Link(3.0, 2.0)


def readers(dice: random.Random, producer: int, items: int, chain: bool) -> tuple[int, ...]:
    following = range(producer + 1, items)
    chosen = set(dice.sample(following, min(len(following), dice.choice([0, 1, 1, 2]))))
    if chain and producer + 1 < items and producer >= 0:
        chosen.add(producer + 1)
    return tuple(sorted(chosen))


def random_workload(seed: int, items: int, *, chain: bool = False, kinds: tuple[str, ...] = ("default",)) -> Workload:
    """Whole numbers everywhere, so that sums are exact; with skips, shared storages, replicas and activations."""
    dice = random.Random(seed)
    values = [
        Value(
            f"v{producer}", producer, dice.randint(1, 30), readers(dice, producer, items, chain), producer == items - 1
        )
        for producer in (INPUT, INPUT, *range(items))
    ]
    some = [tuple(sorted(dice.sample(range(items), dice.choice([1, 1, 2])))) for _ in range(items)]
    replicas = [tuple(sorted(dice.sample(range(items), 2))) for _ in range(dice.choice([0, 2]))]
    return Workload(
        seconds={kind: tuple(float(dice.randint(0, 40)) for _ in range(items)) for kind in kinds},
        values=tuple(values),
        storages=tuple(Storage(f"s{n}", dice.randint(1, 50), users) for n, users in enumerate(some)),
        replicas=tuple(
            Replica((f"r{n}",), {kind: float(dice.randint(1, 8)) for kind in kinds}, users)
            for n, users in enumerate(replicas)
        ),
        lives=tuple(
            Life(value.producer, max(value.consumers), value.size_bytes)
            for value in values
            if value.producer != INPUT and value.consumers
        ),
        scratch_bytes=tuple(dice.randint(0, 20) for _ in range(items)),
    )


def random_devices(seed: int, count: int, kinds: tuple[str, ...] = ("default",)) -> tuple[Device, ...]:
    dice = random.Random(seed)
    memories = [None, 150.0, 250.0, 400.0]
    return tuple(Device(dice.choice(kinds), dice.choice([1.0, 2.0, 0.5]), dice.choice(memories)) for _ in range(count))


def contiguous(items: int, stages: int) -> Iterator[tuple[int, ...]]:
    for cuts in combinations(range(1, items), stages - 1):
        yield tuple(sum(item >= cut for cut in cuts) for item in range(items))


def convex(workload: Workload, stages: int) -> Iterator[tuple[int, ...]]:
    for found in product(range(stages), repeat=workload.items):
        if len(set(found)) == stages and all(found[a] <= found[b] for a, b in workload.edges):
            yield found


def stage_numbers(
    workload: Workload, stages: tuple[int, ...], order: tuple[int, ...], devices: tuple[Device, ...], **how: object
) -> list[tuple[float, int, float]]:
    """Seconds, bytes received and memory of every stage, written down from the definitions one by one."""
    links = how.get("links") or LinkTable(LINK)
    assert isinstance(links, LinkTable)
    numbers = []
    for stage, number in enumerate(order):
        device = devices[number]
        own = [item for item, other in enumerate(stages) if other == stage]
        compute = sum(workload.seconds[device.kind][item] for item in own)
        compute += sum(r.seconds[device.kind] for r in workload.replicas if set(r.items) & set(own))
        arrived = [
            (source, value.size_bytes)
            for value in workload.values
            for source in arrivals(value, stages, stage, hops=bool(how.get("forward_hops")))
        ]
        receive = sum(links.link(order[source], number).seconds(size) for source, size in arrived)
        size_bytes = sum(size for _, size in arrived)
        alive = [
            workload.scratch_bytes[t]
            + sum(life.size_bytes for life in workload.lives if life.first in own and life.first <= t <= life.last)
            for t in own
        ]
        memory = sum(s.size_bytes for s in workload.storages if set(s.items) & set(own)) + max(alive) + 2 * size_bytes
        parts = compute / device.speed, receive
        numbers.append((max(parts) if how.get("overlap") else sum(parts), size_bytes, memory))
    return numbers


def arrivals(value: Value, stages: tuple[int, ...], stage: int, *, hops: bool) -> Iterator[int]:
    """Stages from which a stage gets a value: none or one, and one more where it is returned to the first."""
    home = 0 if value.producer == INPUT else stages[value.producer]
    targets = {stages[item] for item in value.consumers}
    if hops:
        if targets and home < stage <= max(targets):
            yield stage - 1
    elif stage in targets - {home}:
        yield home
    if value.returned and stage == 0 and home != 0:
        yield home


def best_by_hand(
    workload: Workload,
    devices: tuple[Device, ...],
    maps: Iterator[tuple[int, ...]],
    *,
    free_order: bool = True,
    **how: object,
) -> tuple[float, int] | None:
    """Seconds of the slowest stage and bytes of the best pipeline, None where none fits."""
    straight = tuple(range(len(devices)))
    best: tuple[float, int] | None = None
    for stages in maps:
        for order in permutations(straight) if free_order else [straight]:
            numbers = stage_numbers(workload, stages, order, devices, **how)
            limits = [devices[number].memory_bytes for number in order]
            if any(limit is not None and memory > limit for limit, (_, _, memory) in zip(limits, numbers, strict=True)):
                continue
            found = max(seconds for seconds, _, _ in numbers), sum(size for _, size, _ in numbers)
            best = found if best is None else min(best, found)
    return best
