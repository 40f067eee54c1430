"""A program to be spread over devices as plain numbers: items, what they cost, hold and hand to each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from graphopt.errors import PlanError
from graphopt.partition.devices import Device

INPUT = -1
"""Producer of a value that the sampling loop has from the start, such as the sample."""

Numbers = np.ndarray[tuple[int, ...], np.dtype[np.float64]]


@dataclass(frozen=True)
class Value:
    """A tensor that passes between items.

    Attributes:
        name: name of the node that gives it.
        producer: item that computes it, `INPUT` where it is an input of the model.
        size_bytes: bytes of one message.
        consumers: items that read it, ascending, all after its producer.
        returned: whether the sampling loop gets it.
    """

    name: str
    producer: int
    size_bytes: int
    consumers: tuple[int, ...]
    returned: bool = False


@dataclass(frozen=True)
class Storage:
    """A storage of parameters, buffers or constants; each device that reads it holds a copy.

    Attributes:
        name: first name of a tensor in it.
        size_bytes: its bytes.
        items: items that read it, ascending.
    """

    name: str
    size_bytes: int
    items: tuple[int, ...]


@dataclass(frozen=True)
class Replica:
    """Work that every device does which computes one of some items, such as a timestep's embedding.

    Attributes:
        names: names of its nodes.
        seconds: its time by kind of device.
        items: items that need it, ascending; two or more.
    """

    names: tuple[str, ...]
    seconds: Mapping[str, float]
    items: tuple[int, ...]


@dataclass(frozen=True)
class Life:
    """Memory of an activation.

    Attributes:
        first: item that makes it.
        last: last item that reads it or a view of it; equal to the first where it does not leave the item.
        size_bytes: its bytes.
    """

    first: int
    last: int
    size_bytes: int


@dataclass(frozen=True)
class Workload:
    """Items in a topological order.

    Attributes:
        seconds: time of every item by kind of device.
        values: what passes between them, one entry a tensor.
        storages: parameters, buffers and constants.
        replicas: work that is done anew wherever it is needed.
        lives: memory of activations that outlive the item that makes them.
        scratch_bytes: most bytes at once of activations that do not outlive it, an entry an item; empty for none.
    """

    seconds: Mapping[str, tuple[float, ...]]
    values: tuple[Value, ...] = ()
    storages: tuple[Storage, ...] = ()
    replicas: tuple[Replica, ...] = ()
    lives: tuple[Life, ...] = ()
    scratch_bytes: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        """Refuse what is in no topological order, and what does not fit together.

        Raises:
            PlanError: something is not.
        """
        lengths = {len(column) for column in self.seconds.values()}
        if len(lengths) != 1 or 0 in lengths:
            raise PlanError(
                f"found times of {sorted(lengths)} items by kind of device, wanted as many of each, 1 or more"
            )
        for value in self.values:
            if any(not value.producer < consumer < self.items for consumer in value.consumers):
                raise PlanError(
                    f"found the value {value.name!r} of item {value.producer} read by {list(value.consumers)}, wanted "
                    f"readers after it and below {self.items}: number the items in topological order"
                )

    @property
    def items(self) -> int:
        """Number of items."""
        return len(next(iter(self.seconds.values())))

    @property
    def scratch(self) -> Numbers:
        """The entries of `scratch_bytes` as an array (items,)."""
        return np.asarray(self.scratch_bytes or (0,) * self.items, dtype=np.float64)

    @cached_property
    def edges(self) -> frozenset[tuple[int, int]]:
        """Pairs of items one of which reads what the other computes."""
        return frozenset(
            (value.producer, reader) for value in self.values for reader in value.consumers if value.producer != INPUT
        )

    def seconds_on(self, device: Device) -> Numbers:
        """Return the time of every item on a device.

        Raises:
            PlanError: nothing is known of its kind.
        """
        self._require_kind(device)
        return np.asarray(self.seconds[device.kind], dtype=np.float64) / device.speed

    def replica_seconds(self, replica: Replica, device: Device) -> float:
        """Return the time of replicated work on a device."""
        return replica.seconds[device.kind] / device.speed

    def one_device_seconds(self, device: Device) -> float:
        """Return the time that one device takes for everything."""
        return float(self.seconds_on(device).sum()) + sum(
            self.replica_seconds(replica, device) for replica in self.replicas
        )

    def require_devices(self, devices: Sequence[Device]) -> None:
        """Refuse devices that the items cannot be spread over.

        Raises:
            PlanError: there are none, more than items, or some of an unknown kind.
        """
        if not 1 <= len(devices) <= self.items:
            raise PlanError(
                f"found {len(devices)} devices for {self.items} items, wanted at least one item a device; "
                "use fewer devices, or divide the program more finely"
            )
        for device in devices:
            self._require_kind(device)

    def _require_kind(self, device: Device) -> None:
        if device.kind not in self.seconds:
            raise PlanError(f"found a device of kind {device.kind!r}, wanted one of {', '.join(self.seconds)}")
