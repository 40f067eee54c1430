"""Numbers as people read them."""

_PREFIXES = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def short(count: float) -> str:
    """Return a number with three digits and a decimal prefix, such as ``1.23M``; whole where it is below a thousand."""
    for size, prefix in _PREFIXES:
        if abs(count) >= 0.9995 * size:
            return f"{_three_digits(count / size)}{prefix}"
    return _three_digits(count)


def share(part: float, whole: float) -> str:
    """Return a part of a whole in percent; nothing where the whole is zero."""
    return f"{part / whole:.1%}" if whole else ""


def milliseconds(seconds: float | None) -> str:
    """Return a time with three digits, in milliseconds; a dash where there is none."""
    return "-" if seconds is None else f"{_three_digits(1000 * seconds)} ms"


def figure(name: str, value: float) -> str:
    """Return a figure as its name asks for: ``..._bytes`` in bytes, ``seconds`` in milliseconds, all else plain."""
    if name.endswith("bytes"):
        return f"{short(value)}B"
    return milliseconds(value) if name.endswith("seconds") else short(value)


def _three_digits(value: float) -> str:
    if value == int(value) and abs(value) < 1000:
        return str(int(value))
    text = f"{value:.3g}"
    return f"{float(text):.0f}" if "e+" in text else text
