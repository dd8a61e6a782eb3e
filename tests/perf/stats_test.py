# SPDX-License-Identifier: Apache-2.0
"""The figures that gates judge by."""

import random
import unittest

from perf import goals, plot, stats


class StatsTest(unittest.TestCase):
    def test_a_ratio_is_the_median_of_the_rounds_own_ratios(self):
        # A round that the machine spoiled for both counts as any other.
        figure = stats.ratio_figure([2, 200, 2.2], [1, 100, 1])
        self.assertEqual((figure["value"], figure["count"]), (2, 3))
        with self.assertRaises(ValueError):
            stats.ratio_figure([1, 2], [1])

    def test_the_interval_holds_the_median_narrows_with_rounds_and_repeats(self):
        source = random.Random(1)
        widths = []
        for count in (10, 1000):
            samples = [source.gauss(5, 1) for _ in range(count)]
            figure = stats.median_figure(samples)
            self.assertEqual(figure, stats.median_figure(samples))
            self.assertLess(figure["low"], 5)
            self.assertGreater(figure["high"], 5)
            widths.append(figure["high"] - figure["low"])
        self.assertLess(widths[1], widths[0] / 4)

    def test_quantiles_are_of_the_sorted_values(self):
        self.assertEqual([stats.quantile([3, 1, 2], part) for part in (0, 0.5, 1)], [1, 2, 3])


class GoalsTest(unittest.TestCase):
    def goal(self, **changes):
        fields = {"number": "1", "key": "k", "section": "s", "what": "w", "sense": "<=", "line": 2.0, "unit": ""}
        return goals.Goal(**fields | changes)

    def test_a_goal_is_met_on_its_line_and_missed_beyond(self):
        self.assertTrue(self.goal().is_met(2.0))
        self.assertFalse(self.goal().is_met(2.01))
        self.assertTrue(self.goal(sense=">=").is_met(2.0))
        self.assertFalse(self.goal(sense=">=").is_met(1.99))

    def test_a_gate_is_the_goal_unless_it_has_a_line_of_its_own(self):
        self.assertFalse(self.goal().holds(2.5))
        self.assertTrue(self.goal(gate=3.0).holds(2.5))
        self.assertFalse(self.goal(gate=3.0).holds(3.5))
        self.assertFalse(self.goal(sense=">=", gate=1.0).holds(0.9))

    def test_the_distance_says_by_how_much_a_goal_is_missed(self):
        self.assertEqual(self.goal().distance(1.0), "")
        self.assertEqual(self.goal().distance(5.0), "2.50 x the line")
        self.assertEqual(self.goal(sense=">=").distance(0.5), "0.25 x the line")
        self.assertEqual(self.goal(line=0).distance(3), "3 above the line")

    def test_no_two_goals_have_one_key(self):
        keys = [goal.key for goal in goals.GOALS]
        self.assertEqual(len(keys), len(set(keys)))


class PlotTest(unittest.TestCase):
    def test_ticks_cover_the_range_with_round_numbers(self):
        self.assertEqual(plot.ticks(0, 10), [0, 2, 4, 6, 8, 10])
        self.assertEqual(plot.ticks(0.3, 95, log=True), [0.1, 1, 10, 100])
        for low, high in ((0, 1e-6), (3, 3), (0, 12345)):
            found = plot.ticks(low, high)
            self.assertLessEqual(found[0], low)
            self.assertGreaterEqual(found[-1], high)
