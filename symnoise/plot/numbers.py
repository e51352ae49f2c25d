"""Numbers as text: sensible digits, proper minus signs, powers of ten."""

import math
from collections.abc import Mapping
from typing import Any

Number = Any  # a real number, of Python's or NumPy's making
_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def number(value: Any, digits: int = 4) -> str:
    """`value` to `digits` significant digits, whole numbers without decimals; an en dash where it is missing."""
    if value is None or not math.isfinite(value):
        return "–"
    if abs(value) < 1e6 and abs(value - round(value)) <= 1e-12 * abs(value):
        return str(round(value)).replace("-", "−")
    exponent = math.floor(math.log10(abs(float(f"{value:.{digits - 1}e}"))))
    return fixed(value, max(digits - 1 - exponent, 0) if abs(value) < 1e6 else digits - 1 - exponent)


def fixed(value: Number, decimals: int) -> str:
    """`value` to `decimals` decimals (negative: to tens, hundreds, …); as a power of ten where very large or small."""
    value = round(float(value), decimals)
    if value == 0:
        return "0"
    exponent = math.floor(math.log10(abs(value)))
    if -4 < exponent < 6:
        return f"{value:.{max(decimals, 0)}f}".replace("-", "−")
    mantissa = f"{value / 10.0**exponent:.{max(decimals + exponent, 0)}f}".replace("-", "−")
    return f"{mantissa}·10{str(exponent).translate(_SUPERSCRIPT)}"


def decimals_for(low: Any, high: Any) -> int | None:
    """Decimals that show two significant digits of the interval's half width; None for zero or no width."""
    if low is None or high is None or not math.isfinite(low) or not math.isfinite(high) or high <= low:
        return None
    return 1 - math.floor(math.log10((high - low) / 2))


def measurement(measured: Any, low: Any, high: Any) -> tuple[str, str]:
    """The measured value and its interval as text, with as many digits as the interval supports.

    A bound that they would round to 0 keeps one digit: its sign says whether the interval has 0 in it.
    """
    decimals = decimals_for(low, high)
    if decimals is None:
        has = low is not None and high is not None and math.isfinite(low) and math.isfinite(high)
        return number(measured), "exact" if has else "no interval"
    bounds = (fixed(end, decimals) if round(end, decimals) else number(end, 1) for end in (low, high))
    return fixed(measured, decimals), " to ".join(bounds)


def seconds(value: Any) -> str:
    """A duration: `12 s`, `3 min 05 s`."""
    if value is None or not math.isfinite(value):
        return "–"
    if value < 10:
        return f"{value:.1f} s"
    whole = round(value)
    return f"{whole} s" if whole < 60 else f"{whole // 60} min {whole % 60:02d} s"


def count(value: Number) -> str:
    """A whole number with thin spaces between thousands."""
    return f"{value:,}".replace(",", " ")


def plural(n: Number, one: str, many: str | None = None) -> str:
    """`1 row`, `2 rows`, `no rows`."""
    return f"{n if n else 'no'} {one if n == 1 else many or one + 's'}"


def listed(words: list[str]) -> str:
    """`one`, `one and two`, `one, two and three`."""
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def with_interval(row: Mapping[Any, Any]) -> str:
    """`0.0059 (0.0028 to 0.0083)`: a row's mean with its low and high."""
    return "{} ({})".format(*measurement(row["mean"], row["low"], row["high"]))
