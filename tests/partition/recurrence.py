"""When the steps of a random partition are over, by recursion over who waits for whom: nothing here knows of events."""

from functools import cache

from partition.networks import Network

from graphopt.stages import Edge, Phase


class Recurrence:
    """Times of a generation on a network, without orders of the sampler."""

    def __init__(self, made: Network, steps: int) -> None:
        self.made, self.partition, self.steps = made, made.partition, steps
        self.over, self.free, self.given = cache(self.over), cache(self.free), cache(self.given)
        self.arrival, self.queue = cache(self.arrival), cache(self.queue)

    def phase(self, step: int) -> Phase:
        return self.partition.phases[self.partition.phase_of(step)]

    def over(self, step: int) -> float:
        """The end of a step at the sampler."""
        if step < 0:
            return 0.0
        own = len(self.phase(step).of_device(0))
        return max([self.free(0, step, own), *(self.there(name, 0, step) for name in self.phase(step).outputs)])

    def free(self, device: int, step: int, place: int) -> float:
        """When a device has computed so many of its segments of a step."""
        if place == 0 and device == 0:
            return self.over(step - 1)
        if place == 0:
            return self.free(device, step - 1, len(self.phase(step - 1).of_device(device))) if step else 0.0
        segment = self.phase(step).of_device(device)[place - 1]
        ready = [self.there(name, device, step) for name in segment.inputs]
        seconds = self.made.seconds[self.partition.phase_of(step), segment.id] / self.made.speeds[device]
        return max([self.free(device, step, place - 1), *ready]) + seconds

    def given(self, name: str, step: int) -> tuple[int, float]:
        """Device that gives a value, and when."""
        for segment in self.phase(step).segments:
            if name in segment.outputs:
                place = [one.id for one in self.phase(step).of_device(segment.device)].index(segment.id)
                return segment.device, self.free(segment.device, step, place + 1)
        return 0, self.over(step - 1)

    def there(self, name: str, device: int, step: int) -> float:
        """When a device has what it reads."""
        delays = self.partition.delays
        late = next((delay for delay in delays if (delay.name, delay.device) == (name, device)), None)
        if late is not None:
            return self.there(late.value, device, step - late.steps)
        step = 0 if name == "text" else step
        source, time = self.given(name, step)
        return time if source == device else self.arrival(name, source, device, step)

    def arrival(self, name: str, source: int, target: int, step: int) -> float:
        """When a message is there: behind those that the same link took before."""
        queue = self.queue(source, target)
        link = self.made.links.link(source, target)
        end = 0.0
        for value, number, size in queue[: [one[:2] for one in queue].index((name, step)) + 1]:
            end = max(end, self.given(value, number)[1]) + size / link.bytes_per_second
        return end + link.latency_seconds

    def queue(self, source: int, target: int) -> list[tuple[str, int, int]]:
        """What a link takes, in order: value, step and bytes."""
        found = []
        for step in range(self.steps):
            given = ["sample", "text", *(name for one in self.phase(step).of_device(source) for name in one.outputs)]
            edges = [edge for edge in self.phase(step).edges if (edge.source, edge.target) == (source, target)]
            sent = sorted(
                filter(lambda edge: self.is_sent(edge, step), edges), key=lambda edge: given.index(edge.value)
            )
            found += [(edge.value, step, edge.size_bytes) for edge in sent]
        return found

    def is_sent(self, edge: Edge, step: int) -> bool:
        return step + edge.delay < self.steps and (edge.value != "text" or step == 0)
