"""Partitions written by hand: chains, halves, and random ones."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

from graphopt.partition.links import Link, LinkTable
from graphopt.stages import STEADY, SYNC, Delay, Edge, Partition, Phase, Segment

Seconds = dict[tuple[str, str], float]


def edge(value: str, source: int, target: int, size: int, delay: int = 0, dtype: str = "float32") -> Edge:
    """A message of so many bytes."""
    return Edge(value, source, target, (size,), dtype, (0,), size, delay)


def chain(
    seconds: Sequence[float],
    parts: int = 1,
    *,
    late: bool = False,
    warm_up: int = 0,
    size: int = 8,
    extrapolate: float = 0.0,
) -> tuple[Partition, Seconds]:
    """Stages one after the other, one a device, the batch in parts; the last stage's values go to the first device."""
    devices, times, segments, edges = len(seconds), {}, [], []
    for device, whole in enumerate(seconds):
        for part in range(parts):
            suffix = f"_{part}" if parts > 1 else ""
            before = "sample" if device == 0 else f"v{device - 1}{suffix}"
            segments.append(Segment(f"{device}.{part}", device, (before,), (f"v{device}{suffix}",), ()))
            target = (device + 1) % devices
            edges += [edge(f"v{device}{suffix}", device, target, size)] if target != device else []
            times[SYNC, f"{device}.{part}"] = times[STEADY, f"{device}.{part}"] = whole / parts
    outputs = tuple(segment.outputs[0] for segment in segments if segment.device == devices - 1)
    phases = {SYNC: Phase(tuple(segments), tuple(edges), outputs)}
    if not late:
        return Partition("pipeline", devices, 0, (), phases, micro_batches=parts), times
    delays = tuple(Delay(f"late{one}", f"v{one}", one + 1, 1, extrapolate) for one in range(devices - 1))
    steady = [
        Segment(one.id, one.device, (f"late{one.device - 1}",) if one.device else one.inputs, one.outputs, ())
        for one in segments
    ]
    aged = [edge(one.value, one.source, one.target, size, int(one.target != 0)) for one in edges]
    phases[STEADY] = Phase(tuple(steady), tuple(aged), outputs)
    return Partition("async", devices, 0, (), phases, delays, warm_up=warm_up), times


def guided(here: float, there: float, size: int = 8) -> tuple[Partition, Seconds]:
    """Two halves of a batch on two devices."""
    segments = (Segment("0.0", 0, ("sample",), ("a",), ()), Segment("1.0", 1, ("half",), ("b",), ()))
    edges = (edge("half", 0, 1, size), edge("b", 1, 0, size))
    partition = Partition("cfg", 2, 0, (), {SYNC: Phase(segments, edges, ("a", "b"))})
    return partition, {(SYNC, "0.0"): here, (SYNC, "1.0"): there}


@dataclass(frozen=True)
class Network:
    """A random partition with what it runs on."""

    partition: Partition
    seconds: Seconds
    links: LinkTable
    speeds: tuple[float, ...]

    def on(self, id_: str, device: int) -> bool:
        """Tell whether a segment is on a device."""
        return id_.startswith(f"{device}.")


def network(choose: random.Random, devices: int, count: int, *, late: bool) -> Network:
    """Segments in a row on random devices, each reading some inputs and values before it; the sampler is device 0.

    In steady steps values of other devices are one or two steps old, but for what the sampler gets.
    """
    owner = [choose.randrange(devices) for _ in range(count)]
    reads = [
        sorted({choose.choice(["sample", "text", *(f"v{other}" for other in range(one))]) for _ in range(3)})
        for one in range(count)
    ]
    sizes = {"sample": 5, "text": 9} | {f"v{one}": choose.randrange(1, 50) for one in range(count)}
    home = {"sample": 0, "text": 0} | {f"v{one}": owner[one] for one in range(count)}
    outputs = tuple(f"v{one}" for one in range(count) if one == count - 1 or choose.random() < 0.2)
    age = choose.choice((1, 2))
    ids = [f"{device}.{owner[:one].count(device)}" for one, device in enumerate(owner)]
    crossing = sorted(
        {(name, owner[one]) for one in range(count) for name in reads[one] if home[name] != owner[one]},
        key=lambda pair: (list(sizes).index(pair[0]), pair[1]),
    )
    delays = tuple(Delay(f"{name}_late{to}", name, to, age) for name, to in crossing if name.startswith("v"))
    replaced = {(delay.value, delay.device): delay.name for delay in delays}
    phases = {}
    for phase in (SYNC, STEADY) if late else (SYNC,):
        swap = replaced if phase == STEADY else {}
        segments = tuple(
            Segment(
                ids[one], owner[one], tuple(swap.get((name, owner[one]), name) for name in reads[one]), (f"v{one}",), ()
            )
            for one in range(count)
        )
        fresh = {(name, 0) for name in outputs if home[name] != 0}
        both = sorted({*crossing, *fresh}, key=lambda pair: (list(sizes).index(pair[0]), pair[1]))
        edges = tuple(
            edge(
                name,
                home[name],
                to,
                sizes[name],
                age if (name, to) in swap and (name, to) not in fresh else 0,
                "int64" if name == "text" else "float32",
            )
            for name, to in both
        )
        phases[phase] = Phase(segments, edges, outputs)
    seconds = {
        (phase, segment.id): float(choose.randrange(1, 9)) if phase == SYNC else 0.0
        for phase in phases
        for segment in phases[phase].segments
    }
    seconds |= {(STEADY, id_): taken for (phase, id_), taken in list(seconds.items()) if phase == SYNC}
    pairs = {(a, b): Link(choose.randrange(3), choose.randrange(5, 50)) for a in range(devices) for b in range(devices)}
    partition = Partition(
        "async" if late else "pipeline", devices, 0, (), phases, delays if late else (), warm_up=age if late else 0
    )
    return Network(
        partition, seconds, LinkTable(pairs=pairs), tuple(choose.choice((0.5, 1.0, 2.0)) for _ in range(devices))
    )
