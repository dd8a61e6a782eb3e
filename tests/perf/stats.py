# SPDX-License-Identifier: Apache-2.0
"""Figures from samples. A figure is a dict: value; low and high, its bootstrap 95 % interval; count, the samples."""

import random
import statistics

RESAMPLES = 2000
# The same samples give the same interval.
SEED = 20


def quantile(values, part):
    ordered = sorted(values)
    return ordered[round(part * (len(ordered) - 1))]


def median_figure(values):
    """The median of samples that are independent of each other: per-round ratios, mostly."""
    values = list(values)
    source = random.Random(SEED)
    medians = sorted(statistics.median(source.choices(values, k=len(values))) for _ in range(RESAMPLES))
    return {"value": statistics.median(values), "low": medians[RESAMPLES * 25 // 1000],
            "high": medians[RESAMPLES * 975 // 1000], "count": len(values)}


def ratio_figure(values, bases):
    """The median of per-round ratios: values[i] and bases[i] were measured in the same round."""
    if len(values) != len(bases):
        raise ValueError(f"{len(values)} values over {len(bases)} bases")
    return median_figure(value / base for value, base in zip(values, bases))


def counted(value):
    """What is counted or weighed once and does not scatter."""
    return {"value": value, "low": value, "high": value, "count": 1}


def summary(values):
    """For tables: how samples of one kind lie."""
    return {"min": min(values), "p50": quantile(values, 0.5), "p99": quantile(values, 0.99), "max": max(values),
            "count": len(values)}
