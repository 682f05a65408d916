"""Results as tables. Pure."""

import statistics
from collections.abc import Mapping

from .cells import Runs


def text_table(results: Mapping[str, Runs]) -> str:
    """Return the medians of one cell, for a terminal."""
    lines = [f"{'client':10} {'runs':>4} {'wall s':>8} {'(min-max)':>15} {'CPU s':>7} {'peak MiB':>8} {'first s':>8}"]
    for name, runs in results.items():
        if not runs.samples:
            lines.append(f"{name:10}    0 failed: {runs.failure[:100]}")
            continue
        walls = [sample.wall for sample in runs.samples]
        cpu = statistics.median(sample.cpu for sample in runs.samples)
        memory = max(sample.memory for sample in runs.samples) / 2**20
        firsts = [sample.first_byte for sample in runs.samples if sample.first_byte is not None]
        first = f"{statistics.median(firsts):8.3f}" if firsts else f"{'-':>8}"
        spread = f"({min(walls):.2f}-{max(walls):.2f})"
        lines.append(f"{name:10} {len(walls):4} {runs.wall:8.2f} {spread:>15} {cpu:7.2f} {memory:8.0f} {first}")
    return "\n".join(lines)
