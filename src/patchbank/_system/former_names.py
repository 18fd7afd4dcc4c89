"""Options under the names that they had before: taken by constructors with a warning, and from files in silence."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any, ClassVar

from patchbank.errors import OptionError

GONE_IN = "0.3"  # the version that takes no former names


class TakesFormerNames(type):
    """A class whose constructor takes former names of its options, with a `DeprecationWarning`.

    `former` of the class: former name → name.
    """

    former: ClassVar[dict[str, str]] = {}

    def __call__(cls, *arguments: Any, **options: Any) -> Any:
        for old in cls.former.keys() & options.keys():
            warnings.warn(
                f"the option {old} of {cls.__name__} is now {cls.former[old]}; the old name works until {GONE_IN}",
                DeprecationWarning,
                stacklevel=2,
            )
        return super().__call__(*arguments, **with_new_names(cls.former, options))


def with_new_names(former: Mapping[str, str], options: Mapping[str, Any]) -> dict[str, Any]:
    """The same options under their names of today.

    Raises:
        OptionError: an option is given under both names.
    """
    for old in former.keys() & options.keys():
        if former[old] in options:
            raise OptionError(f"{old} is the former name of {former[old]}: give only the latter")
    return {former.get(name, name): value for name, value in options.items()}
