"""The table of passes: name to import path, imported when asked for."""

from collections.abc import Iterable
from importlib import import_module
from importlib.metadata import entry_points

from graphopt.errors import RegistrationError, SpecError
from graphopt.pass_manager.base import Pass
from graphopt.pass_manager.suggestions import nearest

ENTRY_POINT_GROUP = "graphopt.passes"
"""Group under which other distributions offer passes: `name = "module:Class"`."""


class PassTable:
    """Names of passes and where their classes are.

    Args:
        lines: Pairs of a name and an import path `module:Class`.
        group: Group of entry points that add to the lines, or None for the lines alone; read at the first look-up.

    Raises:
        RegistrationError: A name comes twice, or a path is none.
    """

    def __init__(self, lines: Iterable[tuple[str, str]] = (), group: str | None = None) -> None:
        self._paths: dict[str, str] = {}
        self._group = group
        for name, path in lines:
            self._add(name, path)

    def register(self, name: str, path: str) -> None:
        """Add a pass.

        Args:
            name: What the text form calls it.
            path: Where its class is, `module:Class`.

        Raises:
            RegistrationError: The name is taken, or the path is none.
        """
        self._read_entry_points()
        self._add(name, path)

    def names(self) -> tuple[str, ...]:
        """Return the names of all passes in alphabetical order."""
        self._read_entry_points()
        return tuple(sorted(self._paths))

    def find(self, name: str) -> type[Pass]:
        """Import the class of a pass.

        Args:
            name: What the text form calls it.

        Raises:
            SpecError: There is no such pass; the message names those spelt like it.
            RegistrationError: What the path leads to is no pass of this name.
            ImportError: The module cannot be imported.
        """
        self._read_entry_points()
        if name not in self._paths:
            raise SpecError(f"found no pass called {name!r}; {nearest(name, self._paths)}")
        return _load(name, self._paths[name])

    def _add(self, name: str, path: str) -> None:
        if name in self._paths:
            raise RegistrationError(
                f"the pass {name} is registered twice, as {self._paths[name]} and as {path}; rename one of them"
            )
        module, separator, attribute = path.partition(":")
        if not (module and separator and attribute):
            raise RegistrationError(f"the pass {name}: found the path {path!r}, wanted 'module:Class'")
        self._paths[name] = path

    def _read_entry_points(self) -> None:
        group, self._group = self._group, None
        if group is None:
            return
        for entry in entry_points(group=group):
            self._add(entry.name, entry.value)


def _load(name: str, path: str) -> type[Pass]:
    module, _, attribute = path.partition(":")
    found = getattr(import_module(module), attribute, None)
    if not (isinstance(found, type) and issubclass(found, Pass)):
        raise RegistrationError(f"the pass {name}: found {found!r} at {path}, wanted a subclass of Pass")
    if getattr(found, "name", None) != name:
        called = getattr(found, "name", None)
        raise RegistrationError(f"the pass {name}: {path} calls itself {called!r}; make the line and the class agree")
    return found


PASS_TABLE = PassTable(
    [
        ("auto", "graphopt.passes.caching.auto:Auto"),
        ("dbcache", "graphopt.passes.caching.first_block:DualBlockCache"),
        ("deepcache", "graphopt.passes.caching.deepcache:DeepCache"),
        ("dip-go", "graphopt.passes.caching.tables:DipGo"),
        ("first-block", "graphopt.passes.caching.first_block:FirstBlock"),
        ("fuse-cached-blocks", "graphopt.passes.caching.fuse:FuseCachedBlocks"),
        ("hoist-invariants", "graphopt.passes.caching.hoist:HoistInvariants"),
        ("insert-cache", "graphopt.passes.caching.insert:InsertCache"),
        ("l2c", "graphopt.passes.caching.tables:LearningToCache"),
        ("mag-cache", "graphopt.passes.caching.mag_cache:MagCache"),
        ("pab", "graphopt.passes.caching.pab:PyramidAttentionBroadcast"),
        ("partition", "graphopt.passes.partition.partition:PartitionProgram"),
        ("prune-channels", "graphopt.passes.channels.prune:PruneChannels"),
        ("prune-layers", "graphopt.passes.layers.prune:PruneLayers"),
        ("remove-dead", "graphopt.passes.cleanup.remove_dead:RemoveDead"),
        ("taylorseer", "graphopt.passes.caching.taylorseer:TaylorSeer"),
    ],
    group=ENTRY_POINT_GROUP,
)
"""The passes of graphopt and of the installed distributions that offer some."""
