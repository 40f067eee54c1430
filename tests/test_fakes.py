"""Fake tensors made the short way against those that the class makes itself."""

import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from graphopt.fakes import FakeMaker


def test_the_second_of_a_device_is_like_the_first() -> None:
    mode = FakeTensorMode()
    make = FakeMaker(mode)
    bare = torch.empty_strided((2, 3), (1, 2), dtype=torch.float16, device="meta")
    wanted = FakeTensor(mode, bare, torch.device("cpu"))
    for made in (make(bare, torch.device("cpu")), make(bare, torch.device("cpu"))):
        assert vars(made) == vars(wanted)
        assert type(made) is FakeTensor
        assert (made.shape, made.stride(), made.dtype, made.device) == ((2, 3), (1, 2), torch.float16, wanted.device)
        assert made.untyped_storage()._cdata == bare.untyped_storage()._cdata


def test_devices_do_not_mix() -> None:
    make = FakeMaker(FakeTensorMode(allow_non_fake_inputs=True))
    bare = torch.empty(2, device="meta")
    devices = ["cpu", "meta", "cpu", "meta"]
    assert [make(bare, torch.device(device)).device.type for device in devices] == devices


def test_attributes_of_one_are_not_those_of_another() -> None:
    make = FakeMaker(FakeTensorMode())
    bare = torch.empty(2, device="meta")
    first, second = make(bare, torch.device("cpu")), make(bare, torch.device("cpu"))
    first.__dict__["mark"] = 1
    assert "mark" not in vars(second)
    assert "mark" not in vars(make(bare, torch.device("cpu")))
