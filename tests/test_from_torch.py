"""Networks from torch modules: equal to torch in value and derivatives, or refused."""

from __future__ import annotations

from support_paths import *  # noqa: F403
