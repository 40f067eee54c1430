"""Strategies for random models."""

from collections.abc import Callable

from hypothesis import strategies as st
from laws.attention import Attention
from laws.images import Conv, ImageNorm, Resize, Tokens, UNet
from laws.shapes import ACTIVATIONS, Block, Blocks, Net, Shape, out_of
from laws.tokens import Experts, Group, Mix, Modulated, Outer, Position
from laws.wiring import (
    NORMS,
    Activation,
    Gated,
    Halves,
    Norm,
    Parallel,
    Project,
    Repeat,
    Residual,
    Shuffle,
    Slice,
    Squeeze,
    Tied,
)

Draw = Callable[[st.SearchStrategy], object]
WIDEST = 26
SMALL = st.integers(2, 5)
WIDTH = st.integers(3, 9)
NAME = st.sampled_from(sorted(ACTIVATIONS))


@st.composite
def attentions(draw: Draw) -> Attention:
    keys, repeats = draw(st.sampled_from((2, 3, 1))), draw(st.sampled_from((1, 1, 2, 3)))
    rotation = draw(st.sampled_from(("none", "none", "half", "interleaved")))
    inner = draw(st.sampled_from((2, 4, 6) if rotation != "none" else (2, 3, 4)))
    fused = draw(
        st.sampled_from(
            ("separate", "split", "einsum") if repeats > 1 else ("separate", "chunk", "view", "split", "einsum")
        )
    )
    return Attention(
        keys * repeats,
        inner,
        keys,
        fused,
        draw(st.sampled_from(("sdpa", "by_hand", "linear", "relu"))),
        rotation,
        draw(st.sampled_from(("gqa", "interleave", "expand"))),
        draw(st.sampled_from((False, False, True))),
        draw(st.booleans()),
    )


EITHER = st.one_of(
    st.builds(Project, WIDTH, st.booleans()),
    st.builds(Activation, NAME),
    st.builds(Norm, st.sampled_from(sorted(NORMS))),
    st.builds(Gated, WIDTH, NAME, st.sampled_from(("chunk", "glu", "view", "interleaved", "three"))),
    st.builds(Shuffle),
    st.builds(Slice, st.integers(0, 3), st.integers(0, 8)),
    st.builds(Repeat, st.sampled_from(("interleave", "tile", "crelu", "strided"))),
    st.builds(Squeeze, SMALL),
    st.builds(Tied, WIDTH, NAME),
)
ON_TOKENS = st.one_of(
    attentions(),
    attentions(),
    attentions(),
    st.builds(Position, st.sampled_from(("raw", "table", "token"))),
    st.builds(Mix, SMALL),
    st.builds(Experts, SMALL, SMALL, st.sampled_from(("softmax", "sigmoid"))),
    st.builds(Outer, SMALL, SMALL, NAME),
    st.builds(Group, SMALL, SMALL, st.sampled_from(("view", "merged", "folded"))),
)
ON_IMAGES = st.one_of(
    st.builds(Conv, WIDTH, st.sampled_from(("plain", "grouped", "depth", "multiplier", "transposed")), st.booleans()),
    st.builds(ImageNorm, st.sampled_from(("batch", "group", "instance", "one_group"))),
    st.builds(Resize, st.sampled_from(("max", "avg", "nearest", "shuffle", "unshuffle", "focus"))),
)


@st.composite
def compounds(draw: Draw, shape: Shape, depth: int, kind: str = "") -> Block:
    """A block with blocks inside, of a given kind or of any."""
    kinds = ["residual", "parallel", "halves", "modulated" if shape.kind == "tokens" else "unet"]
    kind = kind or draw(st.sampled_from(kinds))
    if kind == "unet" and shape.size % 4 == 0:
        return UNet(draw(sequences(Shape("image", shape.channels + 2, shape.size // 2), depth - 1)))
    if kind == "parallel":
        left, right = draw(sequences(shape, depth - 1)), draw(sequences(shape, depth - 1))
        form = draw(st.sampled_from(("cat", "cat", "mul", "max") + (("stack",) if shape.kind == "image" else ())))
        return Parallel(left, right, form)
    if kind == "halves" and shape.channels > 3:
        first = draw(st.integers(0, 9))
        how = draw(st.sampled_from(("chunk", "slice", "split")))
        probe = Halves((), (), first, how)
        left, right = probe._parts(shape)
        return Halves(draw(sequences(left, depth - 1)), draw(sequences(right, depth - 1)), first, how)
    inner = draw(sequences(shape, depth - 1))
    if kind == "modulated":
        return Modulated(inner)
    return Residual(inner, draw(st.sampled_from(("plain", "plain", "scaled", "minus"))))


@st.composite
def sequences(draw: Draw, shape: Shape, depth: int, fewest: int = 1, resize: bool = False) -> Blocks:
    """Blocks one after the other; where ``resize`` is False the positions stay as they are."""
    blocks: list[Block] = []
    for _ in range(draw(st.integers(fewest, 3 if depth else 2))):
        own = ON_TOKENS if shape.kind == "tokens" else ON_IMAGES
        options = [EITHER, own, own, *([compounds(shape, depth)] * 3 if depth else [])]
        block = draw(options[draw(st.integers(0, len(options) - 1))])
        fits = not isinstance(block, Resize) or (resize and block.fits(shape))
        if shape.channels < 2 or not fits or block.out(shape).channels > WIDEST:
            continue
        blocks.append(block)
        shape = block.out(shape)
    return tuple(blocks)


HEADS = st.sampled_from(("linear", "flat", "two"))
CHANNELS = st.integers(3, 6)


@st.composite
def plain(draw: Draw, kind: str) -> Net:
    """A model of any blocks on tokens or on images; some of the latter end on tokens."""
    shape = Shape(kind, draw(CHANNELS), 4)
    stem = shape.wide(shape.channels + 1)
    blocks = draw(sequences(stem, 2, 2, resize=True))
    here = out_of(blocks, stem)
    if here.kind == "image" and here.size <= 4 and draw(st.booleans()):
        blocks = (*blocks, Tokens(), *draw(sequences(Tokens().out(here), 1)))
    return Net(shape, blocks, draw(HEADS))


@st.composite
def transformers(draw: Draw) -> Net:
    """Attention in a residual stream, with a block before and others behind."""
    channels = draw(st.sampled_from((6, 8, 5)))
    before = draw(st.sampled_from(((), (Project(channels),), (Position("raw"),), (Norm("layer"),))))
    norm = draw(st.sampled_from(((), (Norm("layer"),), (Norm("rms"),), (Norm("rms_by_hand"),))))
    around = draw(st.sampled_from((Residual, Modulated)))
    behind = draw(sequences(Shape("tokens", channels, 4), 1))
    return Net(Shape("tokens", channels - 1, 4), (*before, around((*norm, draw(attentions()))), *behind), draw(HEADS))


@st.composite
def joined(draw: Draw, kind: str, compound: str) -> Net:
    """A model that begins with one kind of compound block."""
    shape = Shape(kind, draw(CHANNELS), 4)
    stem = shape.wide(shape.channels + 1)
    first = draw(compounds(stem, 2, compound))
    return Net(shape, (first, *draw(sequences(first.out(stem), 1))), draw(HEADS))


def nets() -> st.SearchStrategy[Net]:
    """A random model."""
    branching = [joined(kind, compound) for kind in ("tokens", "image") for compound in ("parallel", "halves")]
    return st.one_of(
        transformers(), plain("tokens"), plain("image"), transformers(), joined("image", "unet"), *branching
    )
