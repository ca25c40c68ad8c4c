"""What cannot be is refused, in words."""

import pytest


def refused(message, call, *given, error=ValueError, **options):
    """A call that must raise an error whose text matches a pattern."""
    with pytest.raises(error, match=message):
        call(*given, **options)
