from importlib.metadata import EntryPoint, EntryPoints

import pytest
from pass_manager.example_passes import Scale

from graphopt.errors import RegistrationError, SpecError
from graphopt.pass_manager import PASS_TABLE, PassTable, table

SCALE = ("scale", "pass_manager.example_passes:Scale")


def test_class_is_found_by_name() -> None:
    assert PassTable([SCALE]).find("scale") is Scale


def test_nothing_is_imported_before_it_is_asked_for() -> None:
    assert PassTable([("ghost", "no.such.module:Ghost"), SCALE]).names() == ("ghost", "scale")


def test_missing_module_is_not_hidden() -> None:
    with pytest.raises(ModuleNotFoundError, match="such_module"):
        PassTable([("ghost", "no_such_module:Ghost")]).find("ghost")


def test_registering_twice_is_refused() -> None:
    passes = PassTable([SCALE])
    with pytest.raises(RegistrationError) as caught:
        passes.register("scale", "elsewhere:Scale")
    assert str(caught.value) == (
        "the pass scale is registered twice, as pass_manager.example_passes:Scale and as elsewhere:Scale; "
        "rename one of them"
    )
    with pytest.raises(RegistrationError, match="twice"):
        PassTable([SCALE, SCALE])


@pytest.mark.parametrize("path", ["", "module", "module:", ":Class", "module.Class"])
def test_path_must_name_module_and_class(path: str) -> None:
    with pytest.raises(RegistrationError, match="wanted 'module:Class'"):
        PassTable([("scale", path)])


@pytest.mark.parametrize(
    ("name", "attribute", "message"),
    [
        ("scale", "NotAPass", "wanted a subclass of Pass"),
        ("scale", "Missing", "found None"),
        ("resize", "Scale", "calls itself 'scale'"),
    ],
)
def test_what_the_path_leads_to_is_checked(name: str, attribute: str, message: str) -> None:
    with pytest.raises(RegistrationError, match=message):
        PassTable([(name, f"pass_manager.example_passes:{attribute}")]).find(name)


def test_unknown_name_offers_the_nearest() -> None:
    with pytest.raises(SpecError) as caught:
        PassTable([SCALE, ("step", "x:Y")]).find("scael")
    assert caught.value.message == "found no pass called 'scael'; did you mean scale?"


def test_unknown_name_unlike_any_lists_all() -> None:
    with pytest.raises(SpecError) as caught:
        PassTable([SCALE, ("step", "x:Y")]).find("zzz")
    assert caught.value.message == "found no pass called 'zzz'; known are scale, step"
    with pytest.raises(SpecError, match="there are none to choose from"):
        PassTable().find("zzz")


def test_entry_points_add_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    def offered(group: str) -> EntryPoints:
        return EntryPoints([EntryPoint(name=SCALE[0], value=SCALE[1], group=group)])

    monkeypatch.setattr(table, "entry_points", offered)
    assert PassTable(group="graphopt.passes").find("scale") is Scale
    with pytest.raises(RegistrationError, match="twice"):
        PassTable([SCALE], group="graphopt.passes").names()


def test_table_of_graphopt_holds_its_first_pass() -> None:
    assert "prune-channels" in PASS_TABLE.names()
