"""Files that ``tests/test_additions.py`` lays into a copy of the repository; here they belong to no package."""

from __future__ import annotations

collect_ignore = ["good", "broken"]
