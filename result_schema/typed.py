"""Values of a config against the types of the data class that they fill."""

import json
import reprlib
from collections.abc import Mapping
from dataclasses import is_dataclass
from typing import Any, get_type_hints

from pydantic import TypeAdapter, ValidationError

from symnoise.core import InputError


def require_types(kind: type, values: Mapping[str, Any], where: str) -> None:
    """`InputError` that names the first of `values` whose type is not that of its field in the data class `kind`.

    As in JSON: a list may stand for a tuple and a mapping for a data class, but no text for a number, and no 1 for
    true. Values without a field of their name are passed over.
    """
    for name, expected in get_type_hints(kind).items():
        if name not in values or is_dataclass(values[name]):
            continue
        try:
            TypeAdapter(expected).validate_json(json.dumps(values[name], default=str), strict=True)
        except ValidationError as error:
            first = error.errors()[0]
            place = "".join(f", {part}" for part in first["loc"] if isinstance(part, int))
            said = first["msg"][0].lower() + first["msg"][1:]
            raise InputError(f"{where}: {name}{place}: {said}; got {reprlib.repr(values[name])}") from error
